//! Chunks are read as RFC 9112, 7.1 writes them, or not at all.

use super::case::{Case, Step};
use super::rig::prove;
use Step::{Refused, Taken};

#[test]
fn chunks_are_read_as_written_or_not_at_all() {
    let mut cases = Vec::new();
    let te = "Transfer-Encoding: chunked\r\n";
    // RFC 9112, 7.1.
    for wire in [
        "{hex}\r\n{body}\r\n0\r\n\r\n",
        "{hex}\r\n{body}\r\n00\r\n\r\n",
        "{hex}\r\n{body}\r\n000000000000000\r\n\r\n",
        "0000000000{hex}\r\n{body}\r\n0\r\n\r\n",
        "{hex};a\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=b\r\n{body}\r\n0;c\r\n\r\n",
        "{hex} ; a = b ;c\r\n{body}\r\n0\r\n\r\n",
        "{hex}\t;\ta\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=\"b c\"\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=\";\\\"\\\\ 0\t\u{e9}\";b=\"\"\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=b;c=d;e;f=\"g\"\r\n{body}\r\n0\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nX-A: b\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nX-A:\r\nX-B:c\r\n\r\n",
        // RFC 9110, 6.5: what comes in trailers is no part of the head. All of it is dropped.
        "{hex}\r\n{body}\r\n0\r\nContent-Length: 5\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nHooklatch-Verified: false\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nX-Iverton-Signature: sha256=00\r\nX-Iverton-Signature: {signature}\r\n\r\n",
    ] {
        cases.push(Case::framed(
            wire.escape_debug().to_string(),
            te,
            format!("{wire}{{good}}"),
            &[Taken, Step::Good],
        ));
    }
    let long_extension = format!("{{hex}};{}\r\n{{body}}\r\n0\r\n\r\n", "x".repeat(9000));
    let many_trailers = format!("{{hex}}\r\n{{body}}\r\n0\r\n{}\r\n", "A: b\r\n".repeat(4000));
    for wire in [
        "\r\n{body}\r\n0\r\n\r\n",
        "+{hex}\r\n{body}\r\n0\r\n\r\n",
        "-{hex}\r\n{body}\r\n0\r\n\r\n",
        "-1\r\n{body}\r\n0\r\n\r\n",
        "0x{hex}\r\n{body}\r\n0\r\n\r\n",
        "x{hex}\r\n{body}\r\n0\r\n\r\n",
        "{hex}h\r\n{body}\r\n0\r\n\r\n",
        "1_2\r\n{body}\r\n0\r\n\r\n",
        "1 2\r\n{body}\r\n0\r\n\r\n",
        "{hex}.0\r\n{body}\r\n0\r\n\r\n",
        "{hex},{hex}\r\n{body}\r\n0\r\n\r\n",
        "\"{hex}\"\r\n{body}\r\n0\r\n\r\n",
        "\u{661}\u{662}\r\n{body}\r\n0\r\n\r\n",
        "g\r\n{body}\r\n0\r\n\r\n",
        " {hex}\r\n{body}\r\n0\r\n\r\n",
        "\t{hex}\r\n{body}\r\n0\r\n\r\n",
        "\r\n{hex}\r\n{body}\r\n0\r\n\r\n",
        "\n{hex}\r\n{body}\r\n0\r\n\r\n",
        "\0{hex}\r\n{body}\r\n0\r\n\r\n",
        "{hex}\0\r\n{body}\r\n0\r\n\r\n",
        "{hex}\x0b\r\n{body}\r\n0\r\n\r\n",
        "{hex}\x0c\r\n{body}\r\n0\r\n\r\n",
        // Numbers that overflow into the true size, or into 0.
        "10000000000000012\r\n{body}\r\n0\r\n\r\n",
        "ffffffffffffffff\r\n{body}\r\n0\r\n\r\n",
        "fffffffffffffffffffffffffffffff0\r\n{body}\r\n0\r\n\r\n",
        "8000000000000000\r\n{body}\r\n0\r\n\r\n",
        "00000000000000000000000000000012\r\n{body}\r\n0\r\n\r\n",
        "{hex}\r\n{body}\r\n10000000000000000\r\n\r\n",
        // Line ends.
        "{hex}\n{body}\r\n0\r\n\r\n",
        "{hex}\r{body}\r\n0\r\n\r\n",
        "{hex}\r\r\n{body}\r\n0\r\n\r\n",
        "{hex}\n\r{body}\r\n0\r\n\r\n",
        "{hex}\r\n{body}\n0\r\n\r\n",
        "{hex}\r\n{body}\r0\r\n\r\n",
        "{hex}\r\n{body}0\r\n\r\n",
        "{hex}\r\n{body}\r\n\r\n0\r\n\r\n",
        "{hex}\r\n{body}XX0\r\n\r\n",
        "{hex}\r\n{body}\r\n0\n\r\n",
        "{hex}\r\n{body}\r\n0\r\r\n",
        "{hex}\r\n{body}\r\n0\r\n\n",
        "{hex}\r\n{body}\r\n0\r\n\rX",
        "{hex}\n{body}\n0\n\n",
        "{hex}\r\n{body}\r\n0\n\n",
        // Sizes that are not the data's.
        "11\r\n{body}\r\n0\r\n\r\n",
        "13\r\n{body}\r\n0\r\n\r\n",
        "{hex}\r\n{body}trailing\r\n0\r\n\r\n",
        // Extensions. RFC 9112, 7.1.1: a name, and a token or a quoted string as its value.
        "{hex} \r\n{body}\r\n0\r\n\r\n",
        "{hex}\t\r\n{body}\r\n0\r\n\r\n",
        "{hex} x\r\n{body}\r\n0\r\n\r\n",
        "{hex}=x\r\n{body}\r\n0\r\n\r\n",
        "{hex};\r\n{body}\r\n0\r\n\r\n",
        "{hex};;a\r\n{body}\r\n0\r\n\r\n",
        "{hex};=a\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=b=c\r\n{body}\r\n0\r\n\r\n",
        "{hex};a b\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=b c\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=\"b\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=\"b\\\"\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=\"b\"c\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=\"b\r\n\";c\r\n{body}\r\n0\r\n\r\n",
        "{hex};\"a\"\r\n{body}\r\n0\r\n\r\n",
        "{hex};a\nb\r\n{body}\r\n0\r\n\r\n",
        "{hex};a\rb\r\n{body}\r\n0\r\n\r\n",
        "{hex};a\0b\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=\"\0\"\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=\u{e9}\r\n{body}\r\n0\r\n\r\n",
        "{hex};a \r\n{body}\r\n0\r\n\r\n",
        "{hex};a\x7f\r\n{body}\r\n0\r\n\r\n",
        "{hex};a=\"\\\x07\"\r\n{body}\r\n0\r\n\r\n",
        // Trailers are fields (RFC 9112, 7.1.2): what is none could be another server's next request.
        "{hex}\r\n{body}\r\n0\r\n{evil}",
        "{hex}\r\n{body}\r\n0\r\nX-A\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\n: b\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nX-A : b\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\n X-A: b\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nX-A: b\r\n c\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nX A: b\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nX-A: b\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nX-A: b\rc\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nX-A: b\0c\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\nX\0A: b\r\n\r\n",
        "{hex}\r\n{body}\r\n0\r\n\u{e9}: b\r\n\r\n",
        &long_extension,
        &many_trailers,
    ] {
        let shown: String = wire.escape_debug().take(80).collect();
        cases.push(Case::framed(
            shown,
            te,
            format!("{wire}{{evil}}"),
            &[Refused(400)],
        ));
    }
    // Well formed, and more than any route takes.
    for size in ["100001", "7fffffff", "ffffffff", "100000012", "fffffffffffffff"] {
        cases.push(Case::framed(
            size,
            te,
            format!("{size}\r\n{{body}}{{evil}}"),
            &[Refused(413)],
        ));
    }
    prove("hostile: chunks", &cases);
}
