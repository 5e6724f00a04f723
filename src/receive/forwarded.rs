//! The part of a request's header that is stored and sent on.

use std::fmt::Write;
use std::net::IpAddr;

use bytes::{BufMut, Bytes, BytesMut};

use super::head::Head;
use super::origin::Origin;

/// The header block that is stored and sent on, and whether the sender gave an `Idempotency-Key`.
///
/// Left out: hop-by-hop fields and those named in `Connection`, `Host`, `Content-Length`, `Expect`, every `Hooklatch-*`,
/// the `credentials` (names in lower case), and from peers that are not trusted the fields that claim where a request came from.
pub(super) fn forwarded_block(head: &Head, origin: &Origin, credentials: &[Box<str>]) -> (Bytes, bool) {
    let mut block = BytesMut::with_capacity(512);
    let mut has_idempotency_key = false;
    let mut forwarded_for: Option<Vec<u8>> = None;
    let (mut proto, mut host) = (false, false);
    let named_in_connection: Vec<&[u8]> = head
        .fields
        .values("connection")
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .collect();
    for (name, value) in head.fields.iter() {
        let named = || {
            named_in_connection
                .iter()
                .any(|option| option.eq_ignore_ascii_case(name))
        };
        match classify(name) {
            FieldKind::HopByHop | FieldKind::Ours => continue,
            _ if named() => continue,
            _ if credentials
                .iter()
                .any(|credential| same_name(name, credential.as_bytes())) =>
            {
                continue;
            }
            FieldKind::Origin if !origin.peer_trusted => continue,
            FieldKind::Origin => {
                if same_name(name, b"x-forwarded-for") {
                    let list = forwarded_for.get_or_insert_default();
                    if !list.is_empty() {
                        list.extend_from_slice(b", ");
                    }
                    list.extend_from_slice(value);
                    continue;
                }
                proto |= same_name(name, b"x-forwarded-proto");
                host |= same_name(name, b"x-forwarded-host");
            }
            FieldKind::IdempotencyKey => has_idempotency_key = true,
            FieldKind::EndToEnd => {}
        }
        line(&mut block, name, value);
    }
    block.extend_from_slice(b"X-Forwarded-For: ");
    if let Some(list) = forwarded_for.filter(|list| !list.is_empty()) {
        block.extend_from_slice(&list);
        block.extend_from_slice(b", ");
    }
    put_address(&mut block, origin.peer);
    block.extend_from_slice(b"\r\n");
    if !proto {
        line(
            &mut block,
            b"X-Forwarded-Proto",
            if origin.tls { b"https" } else { b"http" },
        );
    }
    if !host && !head.host.is_empty() {
        line(&mut block, b"X-Forwarded-Host", head.host.as_bytes());
    }
    (block.freeze(), has_idempotency_key)
}

enum FieldKind {
    HopByHop,
    Ours,
    Origin,
    IdempotencyKey,
    EndToEnd,
}

fn classify(name: &[u8]) -> FieldKind {
    const HOP_BY_HOP: [&[u8]; 13] = [
        b"host",
        b"content-length",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"http2-settings",
    ];
    const ORIGIN: [&[u8]; 2] = [b"forwarded", b"x-real-ip"];
    // The first letter decides for nearly every field.
    match name.first().map(u8::to_ascii_lowercase) {
        Some(b'h') if starts_with_name(name, b"hooklatch-") => FieldKind::Ours,
        Some(b'x') if starts_with_name(name, b"x-forwarded-") => FieldKind::Origin,
        Some(b'x' | b'f') if ORIGIN.iter().any(|ours| same_name(name, ours)) => FieldKind::Origin,
        Some(b'i') if same_name(name, b"idempotency-key") => FieldKind::IdempotencyKey,
        Some(b'h' | b'c' | b'k' | b'p' | b't' | b'u' | b'e')
            if HOP_BY_HOP.iter().any(|hop| same_name(name, hop)) =>
        {
            FieldKind::HopByHop
        }
        _ => FieldKind::EndToEnd,
    }
}

/// Without regard to case, and with `_` equal to `-`: CGI and WSGI apps merge the two.
fn same_name(name: &[u8], ours: &[u8]) -> bool {
    name.len() == ours.len() && starts_with_name(name, ours)
}

fn starts_with_name(name: &[u8], ours: &[u8]) -> bool {
    name.len() >= ours.len()
        && name
            .iter()
            .zip(ours)
            .all(|(theirs, ours)| theirs.to_ascii_lowercase() == *ours || (*theirs == b'_' && *ours == b'-'))
}

fn line(block: &mut BytesMut, name: &[u8], value: &[u8]) {
    block.extend_from_slice(name);
    block.extend_from_slice(b": ");
    block.extend_from_slice(value);
    block.extend_from_slice(b"\r\n");
}

/// As `Display` writes it; by hand what comes with nearly every request.
fn put_address(block: &mut BytesMut, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        // Writing to a buffer that grows cannot fail.
        return write!(block, "{address}").unwrap_or_default();
    };
    for (place, octet) in address.octets().into_iter().enumerate() {
        if place > 0 {
            block.put_u8(b'.');
        }
        if octet >= 100 {
            block.put_u8(b'0' + octet / 100);
        }
        if octet >= 10 {
            block.put_u8(b'0' + octet / 10 % 10);
        }
        block.put_u8(b'0' + octet % 10);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn block(fields: &str, trusted: &[ipnet::IpNet]) -> (String, bool) {
        let raw = format!("POST / HTTP/1.1\r\nHost: gate\r\n{fields}\r\n");
        let head = Head::parse(&Bytes::from(raw), 100).unwrap();
        let origin = Origin::new([10, 0, 0, 7].into(), true, &head.fields, trusted);
        let (block, key) = forwarded_block(&head, &origin, &["x-token".into()]);
        (String::from_utf8(block.to_vec()).unwrap(), key)
    }

    #[test]
    fn the_block_keeps_the_senders_fields_and_nothing_that_claims_to_be_ours() {
        let (text, key) = block(
            "X-Sig: AbC\r\nx-sig2: d\r\nhooklatch-verified: true\r\nHOOKLATCH_KEY: x\r\nHook-Latch: ok\r\nConnection: \
             X-Secret, hooklatch-a\r\nX-Secret: s\r\nTE: trailers\r\nX-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: \
             6.6.6.6\r\nX-Forwarded-Prefix: /x\r\nForwarded: for=6.6.6.6\r\nExpect: 100-continue\r\n",
            &[],
        );
        assert_eq!(
            text,
            "X-Sig: AbC\r\nx-sig2: d\r\nHook-Latch: ok\r\nX-Forwarded-For: 10.0.0.7\r\nX-Forwarded-Proto: \
             https\r\nX-Forwarded-Host: gate\r\n"
        );
        assert!(!key);
        assert!(block("idempotency_KEY: theirs\r\n", &[]).1);
        assert!(!block("If-Match: x\r\nIdempotency-Keys: x\r\n", &[]).1);
    }

    #[test]
    fn a_name_that_only_looks_like_ours_stays() {
        for name in [
            "Hooklatch",
            "Hooklatched-At",
            "Hooklatch.Key",
            "Hook_atch-Key",
            "X-Hooklatch-Key",
            "X-Forwarded",
            "X-Real-Ips",
            "Hosts",
            "Te-A",
        ] {
            let (text, _) = block(&format!("{name}: x\r\n"), &[]);
            assert!(text.starts_with(&format!("{name}: x\r\n")), "{name}");
        }
        for name in [
            "Hooklatch-",
            "hooklatch_KEY",
            "X_Real-IP",
            "forwarded",
            "keep_alive",
            "HTTP2-Settings",
        ] {
            let (text, _) = block(&format!("{name}: x\r\n"), &[]);
            assert!(text.starts_with("X-Forwarded-For: 10.0.0.7\r\n"), "{name}");
        }
    }

    #[test]
    fn an_address_is_written_as_it_is_displayed() {
        let octets = 0..=u8::MAX;
        let four = octets.map(|octet| IpAddr::from([octet, 255 - octet, octet / 2, octet]));
        let six = ["::1", "2001:db8::7"].map(|text| text.parse().unwrap());
        for address in four.chain(six) {
            let mut block = BytesMut::new();
            put_address(&mut block, address);
            assert_eq!(block, address.to_string());
        }
    }

    #[test]
    fn trusted_proxies_are_believed_and_extended() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        let (text, _) = block(
            "X-Forwarded-For: 1.1.1.1, 2.2.2.2\r\nX-Forwarded-For: 10.0.0.9\r\nX-Forwarded-Proto: http\r\n\
             X-Forwarded-Host: public\r\n",
            &trusted,
        );
        assert_eq!(
            text,
            "X-Forwarded-Proto: http\r\nX-Forwarded-Host: public\r\nX-Forwarded-For: 1.1.1.1, 2.2.2.2, 10.0.0.9, \
             10.0.0.7\r\n"
        );
    }

    /// The names that we write ourselves, without what they begin with.
    const OURS: [&str; 9] = [
        "event-id",
        "event-type",
        "route",
        "provider",
        "verified",
        "attempt",
        "received-at",
        "key",
        "possible-duplicate",
    ];

    /// Every spelling of `name`: each letter in either case, each `-` as `_`; bit by bit.
    fn spelling(name: &str, mut bits: u32) -> String {
        let spelt = name.chars().map(|letter| {
            let other = bits & 1 == 1;
            bits >>= 1;
            match letter {
                '-' if other => '_',
                _ if other => letter.to_ascii_uppercase(),
                _ => letter,
            }
        });
        spelt.collect()
    }

    #[test]
    fn every_spelling_of_our_headers_is_dropped() {
        for name in OURS.map(|name| format!("hooklatch-{name}")) {
            // The rest of the longest names is never looked at: the beginning decides.
            for bits in 0..1_u32 << name.len().min(15) {
                let spelt = spelling(&name, bits);
                assert!(matches!(classify(spelt.as_bytes()), FieldKind::Ours), "{spelt}");
            }
        }
        for other in [
            "hooklatch",
            "hook-latch-key",
            "hooklatc-h-key",
            "xhooklatch-key",
            "hooklatch.key",
            "h",
        ] {
            assert!(
                matches!(classify(other.as_bytes()), FieldKind::EndToEnd),
                "{other}"
            );
        }
    }

    /// A name of a kind that matters in some spelling, or any other.
    fn names() -> impl Strategy<Value = String> {
        let known = proptest::sample::select(vec![
            "hooklatch-key",
            "hooklatch-verified",
            "hooklatch-anything",
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authorization",
            "te",
            "trailer",
            "http2-settings",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-forwarded-server",
            "forwarded",
            "x-real-ip",
            "idempotency-key",
            "x-quantiv-signature",
            "cookie",
            "webhook-id",
            "accept",
            "x-hooklatch-key",
            "content_length",
            "transfer_encoding",
        ]);
        let spelt = (known, any::<u32>()).prop_map(|(name, bits)| spelling(name, bits));
        prop_oneof![3 => spelt, 1 => "[a-z!#$%&'*+.^`|~0-9_-]{1,12}"].prop_filter(
            "read by the parser itself",
            |name| {
                let read = [
                    "host",
                    "content-length",
                    "transfer-encoding",
                    "upgrade",
                    "expect",
                    "connection",
                ];
                !read.contains(&&*name.to_ascii_lowercase())
            },
        )
    }

    /// What becomes of a field, by the words of the design.
    fn stays(name: &str, named: &[String], trusted: bool) -> bool {
        let folded = name.to_ascii_lowercase().replace('_', "-");
        let hop = [
            "content-length",
            "connection",
            "keep-alive",
            "proxy-connection",
            "proxy-authenticate",
            "proxy-authorization",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "expect",
            "http2-settings",
            "host",
        ];
        let origin = folded.starts_with("x-forwarded-") || ["forwarded", "x-real-ip"].contains(&&*folded);
        let named = named.iter().any(|other| other.eq_ignore_ascii_case(name));
        !folded.starts_with("hooklatch-") && !hop.contains(&&*folded) && !named && (trusted || !origin)
    }

    proptest! {
        #[test]
        fn what_is_not_to_go_stays_untouched_and_in_order(
            fields in proptest::collection::vec((names(), "[!-~\u{80}-\u{ff}]([ -~\t]{0,20}[!-~])?"), 0..20),
            listed in proptest::collection::vec(any::<proptest::sample::Index>(), 0..4),
            trusted: bool,
        ) {
            let mut named: Vec<String> = Vec::new();
            if !fields.is_empty() {
                named.extend(listed.iter().map(|index| index.get(&fields).0.clone()));
            }
            let mut lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            if !named.is_empty() {
                lines.push_str(&format!("Connection: {}\r\n", named.join(" ,")));
            }
            let proxies: Vec<ipnet::IpNet> = trusted.then(|| "10.0.0.0/8".parse().unwrap()).into_iter().collect();
            let (text, _) = block(&lines, &proxies);
            let list = |name: &str| name.to_ascii_lowercase().replace('_', "-") == "x-forwarded-for";
            let expected: String = fields
                .iter()
                .filter(|(name, _)| stays(name, &named, trusted) && !list(name))
                .map(|(name, value)| format!("{name}: {value}\r\n"))
                .collect();
            let rest = text.strip_prefix(&expected);
            prop_assert!(rest.is_some(), "{text:?} does not begin with {expected:?}");
            let ours: Vec<&str> = rest.unwrap_or_default().split_inclusive("\r\n").collect();
            prop_assert!(ours.iter().all(|line| line.starts_with("X-Forwarded-")), "{ours:?}");
            let lists: Vec<&str> = fields
                .iter()
                .filter(|(name, _)| stays(name, &named, trusted) && list(name))
                .map(|(_, value)| &**value)
                .chain(["10.0.0.7"])
                .collect();
            prop_assert_eq!(ours[0], format!("X-Forwarded-For: {}\r\n", lists.join(", ")));
        }
    }
}
