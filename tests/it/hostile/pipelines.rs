//! Requests behind one another: after a bad one nothing is read.

use super::case::{Case, HEAD, Step};
use super::rig::prove;
use Step::{Answered, Ended, Good, Refused, Taken, TakenLast};

#[test]
fn what_ends_a_connection_ends_it() {
    let head = |line: &str| format!("{HEAD}{line}Content-Length: {{length}}\r\n\r\n{{body}}");
    let old = |line: &str| head(line).replace("HTTP/1.1", "HTTP/1.0");
    let unsigned = "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    let cases = vec![
        Case::new("pipelined", "{good}{good}{good}{good}{good}", &[Good; 5]),
        Case::new(
            "close, then another",
            format!("{}{{evil}}", head("Connection: close\r\n")),
            &[TakenLast],
        ),
        Case::new(
            "close among others",
            format!("{}{{evil}}", head("Connection: x, CLOSE\r\n")),
            &[TakenLast],
        ),
        Case::new(
            "close in a second line",
            format!(
                "{}{{evil}}",
                head("Connection: keep-alive\r\nConnection: close\r\n")
            ),
            &[TakenLast],
        ),
        Case::new("HTTP/1.0", format!("{}{{evil}}", old("")), &[TakenLast]),
        Case::new(
            "HTTP/1.0 and keep-alive",
            format!("{}{{good}}", old("Connection: keep-alive\r\n")),
            &[Taken, Good],
        ),
        Case::new(
            "HTTP/1.0, both",
            format!("{}{{evil}}", old("Connection: keep-alive, close\r\n")),
            &[TakenLast],
        ),
        // RFC 9110, 10.1.1: HTTP/1.0 knows no expectations.
        Case::new(
            "HTTP/1.0 and any expectation",
            format!("{}{{evil}}", old("Expect: x\r\n")),
            &[TakenLast],
        ),
        Case::new(
            "good, bad, good",
            "{good}POST  {path} HTTP/1.1\r\nHost: a\r\n\r\n{evil}",
            &[Good, Refused(400)],
        ),
        Case::new(
            "unsigned, then good",
            format!("{unsigned}null{{good}}"),
            &[Answered(401), Good],
        ),
        Case::new(
            "unknown path, then good",
            "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nnull{good}",
            &[Answered(404), Good],
        ),
        // The length says where the next request begins, whatever the bytes look like.
        Case::new(
            "a request for a body",
            "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\nPOST / HTTP/1.1\r\nHost: evil\r\n\r\nabcd{good}",
            &[Answered(404), Good],
        ),
        Case::new(
            "refused before its body came",
            format!(
                "{}{{evil}}",
                "POST /none HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n"
            ),
            &[Answered(404), Ended],
        ),
        Case::new(
            "too large, then another",
            "POST {path} HTTP/1.1\r\nHost: a\r\nX-Iverton-Signature: {signature}\r\nContent-Length: 2000000\r\n\r\n{evil}",
            &[Refused(413)],
        ),
        Case::new(
            "GET with a body",
            "GET {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nnull{good}",
            &[Answered(405), Good],
        ),
        Case::new(
            "GET with chunks",
            "GET {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nnull\r\n0\r\n\r\n{good}",
            &[Answered(405), Good],
        ),
        Case::new(
            "GET with bad chunks",
            "GET {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4 x\r\nnull\r\n0\r\n\r\n{evil}",
            &[Answered(405), Ended],
        ),
        Case::new(
            "unsigned with bad chunks",
            "POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{evil}",
            &[Answered(401), Ended],
        ),
        Case::new(
            "asks to continue, sends at once",
            format!("{}{{good}}", head("Expect: 100-continue\r\n")),
            &[Taken, Good],
        ),
        // RFC 9110, 10.1.1: the sender may yet send the body, so nothing behind the head is a request.
        Case::new(
            "asks to continue, is refused",
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 900\r\n\r\n{evil}",
            &[Answered(401), Ended],
        ),
    ];
    prove("hostile: pipelines", &cases);
}
