//! What a signature header may look like on the wire, and where a signature does not count.

use super::case::{Case, Step};
use super::rig::{prove, sign};
use Step::{Answered, Good, Refused, Taken};

/// A request whose only signature stands in these lines.
fn case(lines: impl AsRef<[u8]>, steps: &[Step]) -> Case {
    let lines = lines.as_ref();
    let name: String = String::from_utf8_lossy(lines).escape_debug().take(80).collect();
    let head = b"POST {path} HTTP/1.1\r\nHost: hooks.example\r\n";
    let sent = if matches!(steps.last(), Some(Refused(_))) {
        "{evil}"
    } else {
        ""
    };
    let wire = [
        &head[..],
        lines,
        b"Content-Length: {length}\r\n\r\n{body}",
        sent.as_bytes(),
    ]
    .concat();
    Case::new(name, wire, steps)
}

#[test]
fn a_signature_is_one_field_of_the_schemes_form() {
    let mut cases = Vec::new();
    // Trim blanks, then the scheme's grammar and nothing else (design, "Signature rules").
    for lines in [
        "X-Iverton-Signature: {signature}\r\n",
        "x-iverton-signature:{signature}\r\n",
        "X-IVERTON-SIGNATURE: \t {signature} \t \r\n",
        "X-Iverton-Signature: SHA256={digest}\r\n",
        "X-Iverton-Signature: Sha256={upper}\r\n",
        "X-Iverton-Signature: sha256={upper}\r\n",
        // Other fields, whatever they say.
        "X_Iverton_Signature: sha256=00\r\nX-Iverton-Signature: {signature}\r\nX-Iverton-Signature-: x\r\n",
        "X-Iverton-Signature: {signature}\r\nX-Webhook-Signature: sha256=00\r\nX-Quantiv-Signature: x\r\n",
        "X-Iverton-Signature: {signature}\r\nContent-Encoding: gzip\r\nContent-Digest: sha-256=:x:\r\n",
    ] {
        cases.push(case(lines, &[Taken]));
    }
    for lines in [
        "",
        "X-Iverton-Signature:\r\n",
        "X-Iverton-Signature: \t \r\n",
        "X-Iverton-Signature: sha256=\r\n",
        "X-Iverton-Signature: {digest}\r\n",
        "X-Iverton-Signature: ={digest}\r\n",
        "X-Iverton-Signature: sha256 ={digest}\r\n",
        "X-Iverton-Signature: sha256= {digest}\r\n",
        "X-Iverton-Signature: sha256=\t{digest}\r\n",
        "X-Iverton-Signature: sha256:{digest}\r\n",
        "X-Iverton-Signature: sha256-{digest}\r\n",
        "X-Iverton-Signature: sha-256={digest}\r\n",
        "X-Iverton-Signature: sha1={digest}\r\n",
        "X-Iverton-Signature: sha512={digest}\r\n",
        "X-Iverton-Signature: v1={digest}\r\n",
        "X-Iverton-Signature: v1,{base64}\r\n",
        "X-Iverton-Signature: sha256=sha256={digest}\r\n",
        "X-Iverton-Signature: sha256={base64}\r\n",
        "X-Iverton-Signature: sha256=0x{digest}\r\n",
        "X-Iverton-Signature: sha256={digest}0\r\n",
        "X-Iverton-Signature: sha256={digest}00\r\n",
        "X-Iverton-Signature: sha256=0{digest}\r\n",
        "X-Iverton-Signature: sha256=00{digest}\r\n",
        "X-Iverton-Signature: sha256={digest}{digest}\r\n",
        "X-Iverton-Signature: \"{signature}\"\r\n",
        "X-Iverton-Signature: '{signature}'\r\n",
        "X-Iverton-Signature: <{signature}>\r\n",
        "X-Iverton-Signature: {signature};\r\n",
        "X-Iverton-Signature: {signature},\r\n",
        "X-Iverton-Signature: ,{signature}\r\n",
        "X-Iverton-Signature: {signature}, {signature}\r\n",
        "X-Iverton-Signature: {signature} {signature}\r\n",
        "X-Iverton-Signature: sha256=00, {signature}\r\n",
        "X-Iverton-Signature: {signature}; sha256=00\r\n",
        "X-Iverton-Signature: t=1,{signature}\r\n",
        "X-Iverton-Signature: {signature}\u{a0}\r\n",
        "X-Iverton-Signature: \u{a0}{signature}\r\n",
        "X-Iverton-Signature: \u{feff}{signature}\r\n",
        "X-Iverton-Signature: {signature}\u{200b}\r\n",
        "X-Iverton-Signature: \u{ff53}ha256={digest}\r\n",
        "X-Iverton-Signature: \u{17f}ha256={digest}\r\n",
        "X-Iverton-Signature: {signature}%00\r\n",
        "X-Iverton-Signature: {signature}\\\r\n",
        "X-Iverton-Signature: null\r\n",
        "X-Iverton-Signature: undefined\r\n",
        "X-Iverton-Signature: sha256=0000000000000000000000000000000000000000000000000000000000000000\r\n",
        // One header sent twice is refused, whatever its values (design).
        "X-Iverton-Signature: {signature}\r\nX-Iverton-Signature: {signature}\r\n",
        "X-Iverton-Signature: {signature}\r\nx-iverton-signature: {signature}\r\n",
        "X-Iverton-Signature: {signature}\r\nX-A: b\r\nX-IVERTON-SIGNATURE: sha256=00\r\n",
        "X-Iverton-Signature: sha256=00\r\nX-Iverton-Signature: {signature}\r\n",
        "X-Iverton-Signature: {signature}\r\nX-Iverton-Signature:\r\n",
        "X-Iverton-Signature:\r\nX-Iverton-Signature: {signature}\r\n",
        // Elsewhere it is none.
        "X_Iverton_Signature: {signature}\r\n",
        "X-Iverton_Signature: {signature}\r\n",
        "XIvertonSignature: {signature}\r\n",
        "X-Iverton-Signature-256: {signature}\r\n",
        "Iverton-Signature: {signature}\r\n",
        "X-Quantiv-Signature: {signature}\r\n",
        "X-Webhook-Signature: {signature}\r\n",
        "Signature: {signature}\r\n",
        "Authorization: {signature}\r\n",
        "Cookie: X-Iverton-Signature={signature}\r\n",
        "X-A: b X-Iverton-Signature: {signature}\r\n",
        "Trailer: X-Iverton-Signature\r\n",
    ] {
        cases.push(case(lines, &[Answered(401)]));
    }
    // No field at all (RFC 9112, 5).
    for lines in [
        "X-Iverton-Signature : {signature}\r\n",
        " X-Iverton-Signature: {signature}\r\n",
        "X-Iverton-Signature: {signature}\0\r\n",
        "X-Iverton-Signature: \0{signature}\r\n",
        "X-Iverton-Signature: sha256=\r\n {digest}\r\n",
        "X-Iverton-Signature:\r\n\t{signature}\r\n",
        "X-A: b\rX-Iverton-Signature: {signature}\r\n",
        "X-A: b\nX-Iverton-Signature: {signature}\r\n",
        "X-Iverton-Signature {signature}\r\n",
        "X-Iverton-Signature={signature}\r\n",
        "X Iverton Signature: {signature}\r\n",
    ] {
        cases.push(case(lines, &[Refused(400)]));
    }
    let line = |value: &str| format!("X-Iverton-Signature: {value}\r\n");
    cases.push(case(line("{signature}").repeat(50), &[Answered(401)]));
    cases.push(case(line("{signature}").repeat(98), &[Answered(401)]));
    cases.push(case(line("{signature}").repeat(1000), &[Refused(431)]));
    cases.push(case(
        line(&format!("{{signature}}{}", ", {signature}".repeat(300))),
        &[Answered(401)],
    ));
    cases.push(case(line(&"0".repeat(30_000)), &[Answered(401)]));
    cases.push(case(
        line(&format!("sha256={}", "0".repeat(1 << 20))),
        &[Refused(431)],
    ));
    cases.push(case(
        line(&format!("{}{{signature}}", " ".repeat(30_000))),
        &[Taken],
    ));
    cases.push(case(
        line(&format!("{}{{signature}}", " ".repeat(33_000))),
        &[Refused(431)],
    ));
    // In a trailer, after the body it signs (RFC 9110, 6.5.1: trailers are not merged into the head).
    let chunked = "POST {path} HTTP/1.1\r\nHost: a\r\nTrailer: X-Iverton-Signature\r\nTransfer-Encoding: chunked\r\n\r\n{hex}\r\n{body}\r\n0\r\n\
                   X-Iverton-Signature: {signature}\r\n\r\n{good}";
    cases.push(Case::new("in a trailer", chunked, &[Answered(401), Good]));
    let both = chunked.replace("Trailer: X-Iverton-Signature", "X-Iverton-Signature: sha256=00");
    cases.push(Case::new(
        "a wrong one, and one in a trailer",
        both,
        &[Answered(401), Good],
    ));
    let query = "POST {path}?X-Iverton-Signature={signature} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}";
    cases.push(Case::new("in the query", query, &[Answered(401)]));
    // The body is what came over the wire: not decoded, not trimmed, not joined with anything.
    for (name, sent) in [
        ("a line feed more", "{body}\n"),
        ("a byte order mark more", "\u{feff}{body}"),
        ("twice", "{body}{body}"),
        ("in quotes", "\"{body}\""),
    ] {
        let length = sent.len() - sent.matches("{body}").count() * 6 + sent.matches("{body}").count() * 18;
        let lines = format!("Content-Length: {length}\r\n");
        cases.push(Case::framed(name, lines, sent, &[Answered(401)]));
    }
    prove("hostile: signature headers", &cases);
}

/// `{"id":"inside"}` as gzip.
const GZIP: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\xca\x4c\x51\xb2\x52\xca\xcc\x2b\xce\x4c\x49\x55\xaa\x05\x00\x86\x0e\x82\xf2\x0f\x00\x00\x00";

#[test]
fn a_compressed_body_is_signed_and_kept_as_it_is() {
    let rig = super::rig::Rig::start();
    for (route, kind) in super::rig::ROUTES.into_iter().zip([0_u8, 1]) {
        let body = [GZIP, &[kind]].concat();
        let send = |signed: &[u8]| {
            let headers = [
                ("X-Iverton-Signature", sign(signed)),
                ("Content-Encoding", "gzip".to_owned()),
            ];
            let headers: Vec<(&str, &str)> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            crate::support::post(rig.listen(), route, &headers, &body).status
        };
        assert_eq!(
            send(br#"{"id":"inside"}"#),
            401,
            "signed before it was compressed"
        );
        assert_eq!(send(&body), 200);
        rig.expect(body.clone(), "gzip", None);
    }
    rig.settle();
    for arrived in rig
        .app
        .wait_for(4)
        .iter()
        .filter(|arrived| arrived.body.starts_with(GZIP))
    {
        assert_eq!(arrived.values("content-encoding"), [b"gzip"]);
        // The key is the body's: nobody has looked inside.
        assert!(arrived.values("hooklatch-event-id").is_empty());
    }
}
