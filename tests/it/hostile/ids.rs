//! Ids that readers differ about, and what makes two events one.

use super::id_cases::{Case, Key, cases};
use super::rig::{ROUTES, Rig, sign};
use crate::support::{Connection, proved};

#[test]
fn an_id_is_used_or_the_body_is_and_nothing_is_lost() {
    let cases = cases();
    let mut delivered = 0;
    for route in ROUTES {
        let rig = Rig::start();
        let mut connection = Connection::open(rig.listen()).unwrap();
        let mut post = |body: &[u8], name: &str| {
            let signature = sign(body);
            let response = connection
                .post(route, &[("X-Iverton-Signature", &signature)], body)
                .unwrap();
            assert_eq!(response.status, 200, "{name}: {}", response.text());
            let again = response.text().contains("duplicate");
            if !again {
                rig.expect(body.to_vec(), name, None);
            }
            again
        };
        let filled = |case: &Case, number: &str| {
            let at = case.body.iter().position(|byte| *byte == b'#').unwrap();
            [&case.body[..at], number.as_bytes(), &case.body[at + 1..]].concat()
        };
        let mut known = std::collections::BTreeSet::new();
        let mut expected = Vec::new();
        for (n, case) in cases.iter().enumerate() {
            let name = &case.name;
            // Numbers of one length, so that UTF-16 stays what it is not.
            let (first, second) = (
                filled(case, &format!("1{n:03}")),
                filled(case, &format!("2{n:03}")),
            );
            let new = match &case.key {
                Key::Id(id) => known.insert(id.clone()),
                Key::Body => true,
            };
            assert_eq!(post(&first, name), !new, "{name}: the first");
            assert_eq!(post(&second, name), case.key != Key::Body, "{name}: another body");
            assert!(post(&first, name), "{name}: the first once more");
            if new {
                expected.push((first, case));
            }
        }
        delivered += rig.settle();
        for arrived in rig.app.wait_for(expected.len()) {
            let Some((_, case)) = expected.iter().find(|(body, _)| *body == arrived.body) else {
                continue;
            };
            let shown = match &case.key {
                Key::Id(id) => vec![id.trim_matches(' ').as_bytes().to_vec()],
                Key::Body => vec![],
            };
            let got: Vec<Vec<u8>> = arrived
                .values("hooklatch-event-id")
                .into_iter()
                .map(|id| id.trim_ascii().to_vec())
                .collect();
            assert_eq!(got, shown, "{}", case.name);
        }
    }
    proved(
        "hostile: ids",
        format!(
            "{} ids at both routes, each in two bodies: {delivered} events delivered byte for byte, none lost, none twice",
            cases.len()
        ),
    );
}

#[test]
fn one_id_in_two_spellings_is_one_and_two_ids_that_look_alike_are_two() {
    for route in ROUTES {
        let rig = Rig::start();
        let mut connection = Connection::open(rig.listen()).unwrap();
        for (n, (first, second, one)) in [
            (r#""x/y""#, r#""x\/y""#, true),
            ("\"\u{e9}1\"", r#""\u00e91""#, true),
            ("\"\u{1f600}\"", r#""\ud83d\uDE00""#, true),
            (r#""A-1""#, r#""\u0041-\u0031""#, true),
            // An integer is known as it is written, so a string of its digits is the same id.
            ("77", r#""77""#, true),
            ("-5", r#""-5""#, true),
            ("\"\u{e9}2\"", "\"e\u{301}2\"", false),
            (r#""a""#, r#""A""#, false),
            (r#""1""#, r#""01""#, false),
            (r#""2""#, r#""2 ""#, false),
            (r#""3""#, r#"" 3""#, false),
            ("4", "4.0", false),
            ("10", "1e1", false),
            ("0", "-0", false),
            ("\"stra\u{df}e\"", r#""strasse""#, false),
            ("\"\u{456}\"", r#""i""#, false),
            ("\"z\u{200b}\"", r#""z""#, false),
        ]
        .into_iter()
        .enumerate()
        {
            for (value, again) in [(first, false), (second, one)] {
                let body = format!("{{\"id\":{value},\"n\":{n}}}");
                let signature = sign(body.as_bytes());
                let response = connection
                    .post(route, &[("X-Iverton-Signature", &signature)], body.as_bytes())
                    .unwrap();
                assert_eq!(
                    (response.status, response.text().contains("duplicate")),
                    (200, again),
                    "{first} {second}"
                );
                if !again {
                    rig.expect(body.into_bytes(), value, None);
                }
            }
        }
        rig.settle();
    }
}
