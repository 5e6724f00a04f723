//! The providers' own checks, run as their pages print them, on the same forgeries.
//!
//! Only in the long form, and only where their interpreters are: a build machine need not have them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::forgeries::draw_text;
use super::forgery::{FORMS, Signed, hmac, is_genuine};
use crate::support::{proved, rounds, seed};

const PYTHON: &str = include_str!("snippets/verify.py");
const NODE: &str = include_str!("snippets/verify.js");

/// One question: provider, secret, body, value.
type Question = (&'static str, String, Vec<u8>, Vec<u8>);

/// The answers of a snippet; `None` where its interpreter is missing.
fn ask(interpreter: &str, flag: &str, program: &str, questions: &[Question]) -> Option<Vec<bool>> {
    let mut child = Command::new(interpreter)
        .args([flag, program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().unwrap();
    let lines: String = questions
        .iter()
        .map(|(provider, secret, body, value)| {
            format!(
                "{provider}\t{}\t{}\t{}\n",
                hex::encode(secret),
                hex::encode(body),
                hex::encode(value)
            )
        })
        .collect();
    let writer = std::thread::spawn(move || stdin.write_all(lines.as_bytes()));
    let answers: Vec<bool> = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(|line| line.unwrap() == "1")
        .collect();
    writer.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success(), "{interpreter} failed");
    assert_eq!(answers.len(), questions.len(), "{interpreter}");
    Some(answers)
}

#[test]
fn the_providers_own_checks_agree() {
    const NAME: &str = "hostile: the providers' own checks";
    let count = rounds(0, 100_000);
    if count == 0 {
        eprintln!("{NAME}: only in the long form, since they need python3 and node");
        return;
    }
    let mut random = fastrand::Rng::with_seed(seed(NAME));
    for (interpreter, flag, program, providers) in [
        ("python3", "-c", PYTHON, &["quantiv", "iverton"][..]),
        ("node", "-e", NODE, &["quantiv", "iverton", "quintago"]),
    ] {
        let forms: Vec<_> = FORMS
            .iter()
            .filter(|form| providers.contains(&form.preset))
            .collect();
        let (mut questions, mut due) = (Vec::new(), Vec::new());
        for number in 0..count {
            let form = forms[random.usize(..forms.len())];
            let secrets = form.secrets();
            let request = draw_text(form, &secrets, number, &mut random);
            let genuine = is_genuine(form, &secrets, &request);
            let Some((secret, value)) = question(&secrets.live, &request, genuine) else {
                continue;
            };
            due.push(genuine);
            questions.push((form.preset, secret, request.body, value));
        }
        let Some(answers) = ask(interpreter, flag, program, &questions) else {
            eprintln!("{NAME}: no {interpreter} here, so its half was not run");
            continue;
        };
        for ((question, due), answer) in questions.iter().zip(&due).zip(&answers) {
            assert_eq!(answer, due, "{interpreter}: {question:?}");
        }
        let genuine = due.iter().filter(|due| **due).count();
        let forged = due.len() - genuine;
        proved(
            NAME,
            format!("{interpreter}: {genuine} genuine ones and {forged} forged ones, 0 judged otherwise"),
        );
    }
}

/// What to ask of a request. `None` where only the spelling decides: the pages differ in it (Node's hex reader stops at the
/// first byte that is none, Quantiv's sample drops `sha256=` anywhere), and no forger needs it.
fn question(live: &[String], request: &Signed, genuine: bool) -> Option<(String, Vec<u8>)> {
    for secret in live {
        let digest = hex::encode(hmac(secret.as_bytes(), &request.body));
        let values = || {
            request
                .headers
                .iter()
                .map(|(_, value)| value.to_ascii_lowercase())
        };
        let presented = values().any(|value| value.windows(64).any(|window| window == digest.as_bytes()));
        match (presented, genuine) {
            (true, true) => return Some((secret.clone(), format!("sha256={digest}").into_bytes())),
            (true, false) => return None,
            (false, _) => {}
        }
    }
    let (_, value) = request.headers.first()?;
    (!genuine).then(|| (live[0].clone(), value.clone()))
}
