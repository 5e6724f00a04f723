use super::*;
use crate::cli::secret_args::fixed::Fixed;
use crate::clock::ManualClock;
use crate::event::Timestamp;
use crate::provider::preset;
use crate::provider::scheme::Rule;
use crate::secret::Key;
use clap::Parser;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

fn attempt(arguments: &[&str], input: &[u8], out: &mut Vec<u8>) -> Result<ExitCode, CliError> {
    let cli = Cli::parse_from([&["verify"], arguments].concat());
    let clock = ManualClock::new(Timestamp(0));
    let mut input = input;
    run(&cli.args, &Fixed, &clock, &mut input, out)
}

fn verify(arguments: &[&str], input: &[u8]) -> (String, bool) {
    let mut out = Vec::new();
    let code = attempt(arguments, input, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(!text.contains("canary"), "{text}");
    (text, code == ExitCode::SUCCESS)
}

fn request(body: &str) -> Vec<u8> {
    let Rule::BodyHmac(rule) = &preset::find("iverton").unwrap().schemes[0].rule else {
        panic!("not a digest of the body");
    };
    let signed = rule.sign(&Key::new(b"canary-secret").unwrap(), b"{}");
    let head = format!(
        "POST /hooks HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n{}: {}",
        signed.header, signed.value
    );
    format!("{head}\r\n\r\n{body}").into_bytes()
}

#[test]
fn verdicts_and_exit_codes() {
    for (name, arguments, body, expected, accepted) in [
        (
            "good",
            &["iverton", "--secret-env", "MAIN"][..],
            "{}",
            "match: the secret is MAIN\n",
            true,
        ),
        (
            "by route",
            &["--route", "good"],
            "{}",
            "match: the secret is main\n",
            true,
        ),
        (
            "not explained",
            &["iverton", "--secret-env", "MAIN"],
            "[]",
            "no match; --explain says why\n",
            false,
        ),
        (
            "a line end in the secret",
            &["iverton", "--secret-env", "LINE", "--explain"],
            "{}",
            "no match. The signature in `x-iverton-signature` was made with LINE, but:\n- the secret ends in a \
             line end that the sender's does not have: store it without (`printf %s`)\n",
            false,
        ),
        (
            "secrets swapped",
            &["--route", "swapped", "--explain"],
            "{}",
            "no match. The signature in `x-iverton-signature` was made with other, but:\n- this secret belongs to \
             another route: the sender calls the wrong path, or the secrets are swapped\n",
            false,
        ),
        (
            "nothing helps",
            &["iverton", "--secret-env", "MAIN", "--explain"],
            "{}x",
            "no match: the signature does not match the body under any live secret.\n- headers that hold a \
             digest: `x-iverton-signature`\n- none of the secrets given made it, over this body or any that was \
             tried\n- compare the secret with the provider's page, and capture the body as bytes\n- the body has \
             3 bytes but Content-Length says 2: the capture is not exact\n",
            false,
        ),
        (
            "another provider",
            &["quintago", "--secret-env", "LINE", "--explain"],
            "{}",
            "no match. The signature in `x-iverton-signature` was made with LINE, but:\n- the signature is in \
             `x-iverton-signature`; this scheme reads `x-quintago-signature`: choose the provider that sends it, \
             or describe the sender in `verify` instead of `provider`\n- the secret ends in a line end that the sender's does not have: \
             store it without (`printf %s`)\n",
            false,
        ),
    ] {
        let got = verify(arguments, &request(body));
        assert_eq!(got, (expected.to_owned(), accepted), "{name}");
    }
    let (text, _) = verify(
        &["iverton", "--secret-env", "MAIN", "--explain"],
        b"Host: a\n\n{}",
    );
    assert_eq!(
        text,
        "no match: no signature header was sent.\n- this scheme reads `x-iverton-signature`, and the request has nothing \
         there\n- the body has 2 bytes\n"
    );
}

/// What is said of `input`, sent to `provider` and checked with the secret of `MAIN`.
fn said_of(arguments: &[&str], input: &str) -> String {
    let (text, accepted) = verify(&[arguments, &["--explain"]].concat(), input.as_bytes());
    assert!(!accepted, "{text}");
    text
}

#[test]
fn a_secret_that_nobody_gave_is_said_for_every_form_of_signature() {
    let digest = "ab".repeat(32);
    for (name, provider, header) in [
        ("Stripe", "stripe", format!("Stripe-Signature: t=0,v1={digest}")),
        (
            "Slack",
            "slack",
            format!("X-Slack-Request-Timestamp: 0\nX-Slack-Signature: v0={digest}"),
        ),
        (
            "Zoom",
            "zoom",
            format!("X-Zm-Request-Timestamp: 0\nX-Zm-Signature: v0={digest}"),
        ),
        (
            "GitHub",
            "github",
            format!("X-Hub-Signature-256: sha256={digest}"),
        ),
    ] {
        let text = said_of(
            &[provider, "--secret-env", "MAIN"],
            &format!("{header}\n\n{{\"a\":1}}"),
        );
        let read = header.lines().next_back().and_then(|line| line.split(':').next());
        for part in [
            &*format!("`{}`", read.unwrap().to_ascii_lowercase()),
            "none of the secrets given made it",
            "compare the secret with the provider's page",
        ] {
            assert!(text.contains(part), "{name}: {text}");
        }
        assert!(!text.contains("no header holds"), "{name}: {text}");
    }
}

#[test]
fn where_the_url_is_signed_it_is_shown_or_asked_for() {
    let request = "POST /in HTTP/1.1\nX-Square-Hmacsha256-Signature: \
                   q6urq6urq6urq6urq6urq6urq6urq6urq6urq6urq6s=\n\n{}";
    let text = said_of(
        &[
            "square",
            "--secret-env",
            "MAIN",
            "--public-url",
            "https://h.example.com/in",
        ],
        request,
    );
    let says = "the URL that was taken for the signed one is https://h.example.com/in (the capture has no query): it must be the \
                one that was entered at the provider";
    assert!(text.contains(says), "{text}");
    let error = attempt(
        &["square", "--secret-env", "MAIN"],
        request.as_bytes(),
        &mut Vec::new(),
    );
    assert!(error.unwrap_err().to_string().contains("--public-url URL"));
}

#[test]
fn the_query_of_the_public_url_counts_where_the_capture_has_none() {
    // base64 of HMAC-SHA256 over https://a.example/in?x=1{} with canary-secret.
    let header = "x-square-hmacsha256-signature: VYJCsRzSSNo4Y4P6QAUM4B0fpm/zIVU+F0ZLvHXDBTk=";
    let known = [
        "square",
        "--secret-env",
        "MAIN",
        "--header",
        header,
        "--body",
        "-",
    ];
    for (url, good) in [
        ("https://a.example/in?x=1", true),
        ("https://a.example/in", false),
    ] {
        let arguments = [&known[..], &["--public-url", url]].concat();
        assert_eq!(verify(&arguments, b"{}").1, good, "{url}");
    }
    let captured = format!("POST /in?x=1 HTTP/1.1\nHost: a.example\n{header}\n\n{{}}");
    let url = ["--public-url", "https://a.example/in"];
    assert!(verify(&[&known[..3], &url[..]].concat(), captured.as_bytes()).1);
}

#[test]
fn a_scheme_that_only_a_secret_chooses_is_named() {
    // SHA-256 of canary-secret and the body.
    let header = "x-hubspot-signature: b62aee69cf6db3fe9f5095fc00101b46aa6b2774862db15c17af08eb81888e34";
    let url = ["--public-url", "https://a.example/in", "--body", "-"];
    let known = ["hubspot", "--secret-env", "MAIN", "--header", header];
    let text = verify(&[&known[..], &url[..]].concat(), b"{}").0;
    let expected = "match: the secret is MAIN, in the scheme `v1`; a route takes it only where the secret says scheme = \"v1\"\n";
    assert_eq!(text, expected);
}

#[test]
fn a_handshake_is_said_to_be_one() {
    for (provider, input, name) in [
        (
            "meta",
            "GET /in?hub.mode=subscribe&hub.challenge=1&hub.verify_token=x HTTP/1.1\n\n",
            "hub.challenge",
        ),
        (
            "slack",
            "Host: a\n\n{\"type\":\"url_verification\",\"challenge\":\"c\"}",
            "url_verification",
        ),
    ] {
        let text = said_of(&[provider, "--secret-env", "MAIN"], input);
        assert!(
            text.starts_with("this is a handshake of ") && text.contains("no event"),
            "{text}"
        );
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn what_becomes_of_a_handshake_is_told_where_the_route_is_known() {
    for (token, expected) in [
        ("canary-verify", "would be answered 200"),
        (
            "other",
            "would be refused: the handshake's verify token is not the route's",
        ),
    ] {
        let input =
            format!("GET /in?hub.mode=subscribe&hub.challenge=1&hub.verify_token={token} HTTP/1.1\n\n");
        let text = verify(&["--route", "meta"], input.as_bytes()).0;
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_secret_that_is_no_key_is_named() {
    let token = "Authorization: Bearer eyJhbGciOiJSUzI1NiJ9.e30.c2ln";
    let text = said_of(
        &["google-pubsub", "--secret-env", "MAIN"],
        &format!("{token}\n\n{{}}"),
    );
    assert!(text.contains("MAIN was left out: the secret is not"), "{text}");
    let header = format!(
        "X-Signature-Timestamp: 0\nX-Signature-Ed25519: {}",
        "ab".repeat(64)
    );
    let text = said_of(&["discord", "--secret-env", "MAIN"], &format!("{header}\n\n{{}}"));
    assert!(
        text.contains("MAIN was left out: the secret is not hex"),
        "{text}"
    );
}

#[test]
fn the_time_of_a_capture_is_read_in_two_ways() {
    for (given, millis) in [
        ("2026-11-21T01:15:00Z", Some(1_795_223_700_000)),
        ("1795223700", Some(1_795_223_700_000)),
        ("1795223700000", None),
        ("yesterday", None),
        ("", None),
        ("-1", None),
    ] {
        let read = parse_at(given);
        assert_eq!(read.as_ref().ok().map(|time| time.0), millis, "{given}");
        assert!(read.is_ok() || read.unwrap_err().contains("2026-11-21T01:15:00Z"));
    }
}

#[test]
fn quarantine_without_the_request_or_the_credential_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let error = |wanted| quarantined(Some(folder.path()), wanted).unwrap_err().to_string();
    assert!(error("last").contains("on_bad_signature"));
    std::fs::write(folder.path().join("000000000000001.http"), "Host: a\n\n{}").unwrap();
    assert!(error("xx").contains("no request \"xx\""), "{}", error("xx"));
    assert_eq!(quarantined(Some(folder.path()), "last").unwrap().1, Timestamp(1));

    let args = Cli::parse_from(["verify", "--route", "r", "--quarantined", "--explain"]).args;
    let gitlab = preset::find("gitlab").unwrap();
    let given = RouteSecrets {
        preset: Some(gitlab),
        schemes: gitlab.schemes.iter().take(1).cloned().collect(),
        ..RouteSecrets::default()
    };
    let request = capture::read(b"Host: a\n\n{}", None).unwrap();
    let seen = Request::new(&request.headers, &request.body);
    let verdict = explain(&given.schemes, &seen, &[], Timestamp(0));
    let text = lines(&verdict, &args, &given, &request).join("\n");
    assert!(text.contains("is not kept in quarantine"), "{text}");
    // Where another of the provider's schemes is in use, the token is taken out all the same.
    let signing = RouteSecrets {
        schemes: gitlab.schemes.iter().skip(1).cloned().collect(),
        ..given
    };
    let verdict = explain(&signing.schemes, &seen, &[], Timestamp(0));
    let text = lines(&verdict, &args, &signing, &request).join("\n");
    assert!(
        text.contains("`webhook-signature`, and the request has nothing there"),
        "{text}"
    );
    assert!(
        text.contains("not kept in quarantine, and so not seen here: `x-gitlab-token`"),
        "{text}"
    );
}

#[test]
fn headers_and_body_may_be_given_apart() {
    let request = String::from_utf8(request("")).unwrap();
    let header = request
        .lines()
        .find(|line| line.starts_with("x-iverton"))
        .unwrap();
    let arguments = [
        "iverton",
        "--secret-env",
        "MAIN",
        "--header",
        header,
        "--body",
        "-",
    ];
    assert!(verify(&arguments, b"{}").1);
    assert!(!verify(&arguments, b"{}\n").1);
}

#[test]
fn a_provider_or_a_route_is_needed() {
    let error = attempt(&[], b"", &mut Vec::new());
    assert!(error.unwrap_err().to_string().contains("--route NAME"));
    assert!(Cli::try_parse_from(["verify", "iverton", "file", "--body", "-"]).is_err());
    let error = Cli::try_parse_from(["verify", "--quarantined"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("--route <NAME>") && !error.contains("  <PROVIDER>"),
        "{error}"
    );
}
