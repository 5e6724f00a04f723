//! The exact text of every problem.

use hooklatch::config;

use super::{env, problems, with_lines, with_route};

/// A whole configuration with one good route below `lines` (which begin at line 2).
fn with_top(lines: &str) -> String {
    format!(
        "listen = \"0.0.0.0:8080\"\n{lines}\n[[route]]\npath = \"/hooks/a\"\nprovider = \"iverton\"\nsecrets = [\"q\"]\nupstream = {{ url = \"http://127.0.0.1:3000\" }}\n"
    )
}

const STORE: &str = "store = { path = \"/q\" }\n";

#[test]
fn a_problem_is_rendered_with_its_line_and_what_to_do() {
    let text = with_route(
        "provider = \"quantive\"\nsecrets = [\"q\"]\nupstrem = { url = \"http://127.0.0.1:3000\" }\n",
    );
    let (config, problems) = config::inspect("hooklatch.toml", &text, &env());
    assert!(config.is_none());
    assert_eq!(
        problems.to_string(),
        r#"error: provider "quantive" is unknown; did you mean "quantiv"?
 --> hooklatch.toml:7:12
  |
7 | provider = "quantive"
  |            ^^^^^^^^^^
  |
  = help: see: hooklatch providers, or describe its signature in verify = { ... }

error: unknown key "upstrem" in [[route]]; did you mean "upstream"?
 --> hooklatch.toml:9:1
  |
9 | upstrem = { url = "http://127.0.0.1:3000" }
  | ^^^^^^^
  |
  = help: known here: accepted, allow_ips, dedup, dedup_body, dedup_scope, duplicate, enforce, event_id, event_type, max_body, methods, mode, name, on_bad_signature, path, provider, public_url, rate, require_json, secrets, upstream, upstreams, verify, verify_token

2 errors, 0 warnings in hooklatch.toml"#
    );
}

/// The second to the `count`th route, of one secret with the first.
fn routes(count: usize) -> String {
    let one = |number| {
        format!(
            "[[route]]\npath = \"/r{number}\"\nname = \"r{number}\"\nsecrets = [\"q\"]\nprovider = \"iverton\"\nupstream = {{ url = \"http://127.0.0.1:3000\" }}\n"
        )
    };
    (2..=count).map(one).collect()
}

#[test]
fn a_route_without_proof_is_told_what_can_be_done_there() {
    for (lines, help) in [
        ("verify = \"none\"", "name a provider,"),
        (
            "provider = \"strava\"\nverify = \"none\"\nverify_token = { env = \"S\" }",
            "this provider signs nothing:",
        ),
    ] {
        let text = with_route(&format!(
            "{lines}\nupstream = {{ url = \"http://127.0.0.1:3000\" }}\n"
        ));
        let (_, problems) = config::inspect("hooklatch.toml", &text, &env());
        let mut helps = problems
            .list()
            .iter()
            .filter(|problem| problem.text.contains("ANYBODY"));
        let told = helps
            .next()
            .and_then(|problem| problem.help.clone())
            .unwrap_or_default();
        assert!(told.starts_with(help), "{lines}: {told}");
    }
}

#[test]
fn errors_are_told_without_the_warnings() {
    let text = with_lines("dedup = 7\nenforce = false");
    let (_, problems) = config::inspect("hooklatch.toml", &text, &env());
    assert!(problems.to_string().contains("enforce = false:"));
    let errors = problems.errors_only();
    assert_eq!(errors.list().len(), 1);
    assert!(!errors.render(false).contains("enforce"), "{errors}");
}

#[test]
fn every_mistake_has_its_text() {
    let q = "secrets.q = { env = \"S\" }";
    let table: Vec<(&str, String, Vec<&str>)> = vec![
        (
            "1 unknown key",
            with_lines("secretz = 1\ntimeout = \"5s\""),
            vec![
                "error 10:1 unknown key \"secretz\" in [[route]]; did you mean \"secrets\"?",
                "error 11:1 unknown key \"timeout\" in [[route]]",
            ],
        ),
        (
            "2 variable not set",
            with_top(&format!("{STORE}secrets.q = {{ env = \"QUANTIV_WEBHOOK_SECRET\" }}")),
            vec![
                "error 3:21 environment variable QUANTIV_WEBHOOK_SECRET is not set (QUANTIV_WEBHOOK_SECRET_FILE neither)",
            ],
        ),
        (
            "3 and 4 newline, short",
            with_top(&format!("{STORE}secrets.q = {{ file = \"/newline\" }}")),
            vec![
                "warning 3:9 secret \"q\" is 3 bytes; anything under 16 can be guessed offline from one captured request",
                "warning 3:22 secret \"q\": the file ends with a newline: one trailing newline was removed",
            ],
        ),
        (
            "3 more white space, from a variable and from a file with two newlines",
            with_top(&format!("{STORE}secrets.q = {{ env = \"SPACES\" }}\nsecrets.r = {{ file = \"/two\" }}")),
            vec![
                "warning 3:9 secret \"q\" begins or ends with 3 bytes of white space, which are used as part of it",
                "warning 4:9 secret \"r\" begins or ends with 1 byte of white space, which are used as part of it",
                "warning 4:9 secret \"r\" is used by no route, upstream or listener",
                "warning 4:22 secret \"r\": the file ends with a newline: one trailing newline was removed",
            ],
        ),
        (
            "4 empty, in every way",
            with_top(&format!(
                "{STORE}secrets.q = {{ env = \"EMPTY\" }}\nsecrets.r = {{ file = \"/empty\" }}\nsecrets.s = {{ value = \"\" }}\nsecrets.t = {{ env = \"BLANK\" }}"
            ))
            .replace("[\"q\"]", "[\"q\", \"r\", \"s\", \"t\"]"),
            vec![
                "error 3:9 secret \"q\" is empty, so anyone could sign with it; put the provider's secret there",
                "error 4:9 secret \"r\" is empty, so anyone could sign with it; put the provider's secret there",
                "warning 4:22 secret \"r\": the file ends with a newline: one trailing newline was removed",
                "warning 5:9 secret \"s\" stands in the configuration itself, where everyone who reads the file sees it",
                "error 5:9 secret \"s\" is empty, so anyone could sign with it; put the provider's secret there",
                "error 6:9 secret \"t\" is nothing but 2 bytes of white space",
            ],
        ),
        (
            "5 unknown provider without a likeness",
            with_route("provider = \"zzz\"\nsecrets = [\"q\"]\nupstream = { url = \"http://127.0.0.1:3000\" }"),
            vec!["error 7:12 provider \"zzz\" is unknown"],
        ),
        (
            "6 whsec_ in a custom scheme",
            with_top(&format!("{STORE}secrets.q = {{ env = \"WHSEC\" }}"))
                .replace("provider = \"iverton\"", "verify = { header = \"X-S\" }"),
            vec![
                "warning 7:12 secret \"q\" starts with whsec_: it is used as it stands; Standard Webhooks would decode it",
            ],
        ),
        (
            "9 a loop",
            with_route("provider = \"iverton\"\nsecrets = [\"q\"]\nupstream = { url = \"http://localhost:8080/x\" }"),
            vec!["error 9:20 upstream http://localhost:8080/x is hooklatch's own listen address: events would loop"],
        ),
        (
            "12 an open admin listener",
            with_top(&format!("{STORE}admin = {{ listen = \"0.0.0.0:9090\" }}\n{q}")),
            vec!["error 3:20 admin.listen = 0.0.0.0:9090 without admin.token: refusing to start"],
        ),
        (
            "14 an unsigned id",
            with_lines("event_id = { header = \"X-Webhook-Id\" }"),
            vec![
                "error 10:12 event_id = header X-Webhook-Id is not covered by the signature: a captured request could be replayed under a new id",
            ],
        ),
        (
            "15 a short window",
            with_lines("dedup = \"1h\""),
            vec![
                "error 10:9 dedup = \"1h\" is shorter than Iverton AI's retry span (26h36m): late retries would be delivered twice",
            ],
        ),
        (
            "both ways to name a variable",
            with_top(&format!("{STORE}secrets.q = {{ env = \"BOTH\" }}")),
            vec!["error 3:21 environment variables BOTH and BOTH_FILE are both set"],
        ),
        (
            "sources",
            with_top(&format!("{STORE}{q}\nsecrets.g = {{ file = \"/none\" }}\nsecrets.h = {{}}\nsecrets.i = {{ env = \"S\", file = \"/x\" }}"))
                .replace("[\"q\"]", "[\"q\", \"g\", \"h\", \"i\"]"),
            vec![
                "error 4:22 secret \"g\": cannot read /none: entity not found",
                "error 5:9 secret \"h\" has no source; write { env = \"NAME\" }, { file = \"/run/secrets/name\" } or { value = \"...\" }",
                "error 6:9 secret \"i\" has more than one source; keep one of env, file and value",
            ],
        ),
        (
            "until",
            with_top(&format!("{STORE}secrets.q = {{ env = \"S\", until = 2026-01-01T00:00:00Z }}\nsecrets.r = {{ env = \"S\", until = 2030-01-01 }}")),
            vec![
                "warning 3:9 secret \"q\" ran out at 2026-01-01T00:00:00.000Z and is not accepted any more",
                "warning 4:9 secret \"r\" is used by no route, upstream or listener",
                "error 4:34 \"until\" must be a time with its offset, such as 2026-12-31T00:00:00Z",
                "error 8:11 every secret of this route has an \"until\": from the last one on nothing would be accepted",
            ],
        ),
        (
            "verify none",
            with_route("verify = \"none\"\nsecrets = [\"q\"]\nenforce = false\nevent_id = { json = \"/id\" }\nupstream = { url = \"127.0.0.1:3000\" }"),
            vec![
                "warning 7:1 verify = \"none\": ANYBODY can send events here, and nothing checks them",
                "error 8:1 secrets are listed, but verify = \"none\" checks nothing",
                "error 9:11 \"enforce\" has no meaning with verify = \"none\"",
                "error 10:1 \"event_id\" has no meaning with verify = \"none\": an id that anybody can write is not trusted",
                "error 11:20 upstream \"127.0.0.1:3000\" is not an http(s) URL; write it like \"http://127.0.0.1:3000/hooks\"",
            ],
        ),
        (
            "nothing to verify with",
            with_route("secrets = [\"q\"]\nupstream = { url = \"http://127.0.0.1:3000\" }\n[[route]]\npath = \"/b\"\nprovider = \"iverton\""),
            vec![
                "error 5:1 [[route]] lacks \"provider\"",
                "error 9:1 [[route]] lacks \"secrets\"",
                "error 9:1 [[route]] lacks \"upstream\"",
            ],
        ),
        (
            "provider and verify, several upstreams",
            with_route(
                "provider = \"quantiv\"\nverify = { header = \"X-S\" }\nsecrets = [\"q\"]\nupstreams = [{ url = \"http://a:b@127.0.0.1:3000\" }, { name = \"a\", url = \"http://169.254.169.254/\"}, { name = \"a\", url = \"http://a\" }]",
            ),
            vec![
                "error 8:1 \"provider\" and \"verify\" are both written; a provider says already how to verify",
                "error 10:14 [[route.upstreams]] lacks \"name\"",
                "error 10:22 upstream \"http://127.0.0.1:3000\" carries a user name; put credentials into `headers` of the upstream",
                "warning 10:73 upstream 169.254.169.254 is a link-local address, where clouds serve credentials to whoever asks",
                "error 10:110 upstream name \"a\" is used twice in this route",
            ],
        ),
        (
            "proxy",
            with_lines("mode = \"proxy\"\naccepted = { status = 202 }\nrate = { per_second = 5, over = \"pace\" }").replace(
                "3000\" }",
                "3000\", retry = { first = \"1m\" }, types = [\"a\"], concurrency = 3, paused = true, timeout = \"30s\" }",
            ),
            vec![
                "error 9:45 \"retry\" is for mode = \"queue\": a proxied request is sent once, while its sender waits",
                "error 9:71 \"types\" is for mode = \"queue\": a proxied request is sent once, while its sender waits",
                "error 9:86 \"concurrency\" is for mode = \"queue\": a proxied request is sent once, while its sender waits",
                "error 9:103 \"paused\" is for mode = \"queue\": a proxied request is sent once, while its sender waits",
                "warning 9:128 \"timeout\" is longer than Iverton AI waits for an answer (5s)",
                "error 11:1 \"accepted\" is for mode = \"queue\": a proxied sender gets the upstream's answer",
                "error 12:26 over = \"pace\" is for mode = \"queue\": a proxied request cannot be sent later",
            ],
        ),
        (
            "reject where failures switch the endpoint off, and enforce = false",
            with_lines("rate = { per_second = 5, over = \"reject\" }\nenforce = false"),
            vec![
                "warning 10:26 events above the rate are answered 429, which Iverton AI counts as failures (webhook disabled after 5 failures)",
                "warning 11:11 enforce = false: events with a WRONG or MISSING signature go through, only marked",
            ],
        ),
        (
            "answers, addresses, methods",
            with_lines("allow_ips = [\"10.0.0.1/8\", \"x\"]\naccepted = { status = 302 }\nduplicate = { status = 204, body = \"x\" }\nmethods = [\"connect\", 1]"),
            vec![
                "error 10:28 \"allow_ips\" takes addresses and networks, such as \"10.0.0.0/8\" or \"192.0.2.7\"",
                "error 11:23 \"status\" must be a whole number from 200 to 299",
                "error 12:36 an answer with status 204 has no body",
                "error 13:12 \"connect\" is not a method that can carry an event",
                "error 13:23 \"methods\" takes strings in quotes, this is an integer",
            ],
        ),
        (
            "units",
            with_lines("max_body = \"1 MB\"\ndedup = 7\ndedup_body = \"0s\"\nmode = \"que\""),
            vec![
                "error 10:12 \"max_body\" must be a size such as \"64KiB\", \"1MiB\" or \"10MB\", or a whole number of bytes",
                "error 11:9 \"dedup\" must be a duration in quotes, such as \"250ms\", \"5m\", \"1h30m\" or \"7d\"; this is an integer",
                "error 12:14 \"dedup_body\" must be from 1s to 3650d",
                "error 13:8 \"mode\" must be one of \"queue\", \"proxy\"; did you mean \"queue\"?",
            ],
        ),
        (
            "headers to the app",
            with_lines("").replace(
                "3000\" }",
                "3000\", headers = { host = \"a\", Hooklatch_Event_Id = \"b\", X-A = \"c\\nd\", x-ok = \"e\", X-OK = \"f\", \"a b\" = \"g\" } }",
            ),
            vec![
                "error 9:57 header \"host\" is set by hooklatch itself",
                "error 9:69 header \"Hooklatch_Event_Id\" is set by hooklatch itself",
                "error 9:101 the value of header \"X-A\" must be visible ASCII text on one line",
                "error 9:121 header \"X-OK\" is written twice",
                "error 9:133 header \"a b\" is not the name of a header",
            ],
        ),
        (
            "listeners on one address",
            with_top(&format!("{STORE}{q}\nprobe = {{ listen = \"127.0.0.1:8080\" }}\nadmin = {{ listen = \"127.0.0.1:8080\" }}")),
            vec![
                "error 4:20 probe.listen = 127.0.0.1:8080 is taken by listen = 0.0.0.0:8080 already",
                "error 4:20 probe.listen = 127.0.0.1:8080 is taken by admin.listen = 127.0.0.1:8080 already",
                "error 5:20 admin.listen = 127.0.0.1:8080 is taken by listen = 0.0.0.0:8080 already",
            ],
        ),
        (
            "no store",
            with_top(q),
            vec!["error 3:1 there is no [store], and a route in mode \"queue\" keeps its events there"],
        ),
        (
            "a small store",
            with_top(&format!("store = {{ dir = \"/q\", max_bytes = \"1MiB\" }}\n{q}")),
            vec![
                "error 2:11 unknown key \"dir\" in [store]; the folder is called \"path\" here",
                "error 2:35 \"max_bytes\" must be from 16 MiB to 1024 TiB",
            ],
        ),
        (
            "twice",
            with_lines("[[route]]\npath = \"/hooks/a\"\nprovider = \"quantiv\"\nsecrets = [\"q\"]\nupstream = { url = \"http://127.0.0.1:3000\" }\n[[route]]\npath = \"/hooks/a/*\"\nprovider = \"quantiv\"\nsecrets = [\"q\", \"q\"]\nupstream = { url = \"http://127.0.0.1:3000\" }"),
            vec![
                "error 11:8 this path is another route's already; only one of them would ever be asked",
                "error 16:8 route name \"hooks/a\" is used twice",
                "error 18:17 secret \"q\" is listed twice",
            ],
        ),
        (
            "a table where a list belongs, and nothing to do",
            "route = {}\n".to_owned(),
            vec!["error 1:9 \"route\" must be a list of tables: write [[route]] with double brackets; this is a table"],
        ),
        (
            "a scheme on the route",
            with_lines("scheme = \"signing\""),
            vec![
                "error 10:1 unknown key \"scheme\" in [[route]]; it belongs on the secret: [secrets] then name = { ..., scheme = \"...\" }",
            ],
        ),
        (
            "what nothing reads",
            with_lines("verify_token = \"q\"\npublic_url = \"https://h.example.com/a\""),
            vec![
                "warning 10:1 \"verify_token\" is read by nothing: these senders ask for none",
                "warning 11:1 \"public_url\" is read by nothing: these senders do not sign the URL",
            ],
        ),
        (
            "a signed URL that is nobody's",
            with_lines("public_url = \"https://Hooks.example.com:8443/hooks/square\"").replace("iverton", "square"),
            vec![
                "warning 10:14 \"https://Hooks.example.com:8443/hooks/square\" is an example, and every signature over another URL is refused",
            ],
        ),
        (
            "a signed URL that is somebody's",
            with_lines("public_url = \"https://hooks.myexample.com/hooks/square\"").replace("iverton", "square"),
            vec![],
        ),
        (
            "no verify token where one is asked for",
            with_lines("").replace("iverton", "meta"),
            vec![
                "warning 7:1 Meta Graph API (Facebook) asks for a verify token before it sends, and without \"verify_token\" that request is refused",
            ],
        ),
        (
            "a secret for another scheme",
            with_lines("").replace("iverton", "gitlab").replace("\"S\"", "\"WHSEC\""),
            vec![
                "warning 8:12 secret \"q\" starts with whsec_, as secrets for the scheme \"signing\" do, and is used for \"token\"",
            ],
        ),
        (
            "a secret for the scheme that is named",
            with_lines("")
                .replace("iverton", "gitlab")
                .replace("\"S\"", "\"WHSEC\", scheme = \"signing\""),
            vec![],
        ),
        (
            "a secret of one byte",
            with_lines("").replace("\"S\"", "\"ONE\""),
            vec!["warning 4:1 secret \"q\" is 1 byte; anything under 16 can be guessed offline from one captured request"],
        ),
        (
            "a verify token of one byte, which signs nothing",
            with_lines("verify_token = { env = \"ONE\" }").replace("iverton", "meta"),
            vec![],
        ),
        (
            "a PayPal webhook id, which is no secret",
            with_lines("").replace("iverton", "paypal").replace("\"S\"", "\"ID\""),
            vec![],
        ),
        (
            "an admin token that signs nothing",
            with_top(&format!("{STORE}admin = {{ listen = \"127.0.0.1:9090\", token = {{ env = \"ONE\" }} }}\n{q}")),
            vec!["warning 3:38 \"token\" is 1 byte; anything under 16 can be guessed by trying"],
        ),
        (
            "a newline behind a public key that is none in PEM",
            with_lines("mode = \"proxy\"")
                .replace("iverton", "telnyx")
                .replace("env = \"S\"", "file = \"/ed25519\""),
            vec![],
        ),
        (
            "a newline behind a public key in PEM",
            with_top(&format!("{STORE}{q}\nsecrets.r = {{ file = \"/pem\" }}")),
            vec!["warning 4:9 secret \"r\" is used by no route, upstream or listener"],
        ),
        (
            "a captured secret without a file",
            with_lines("").replace("iverton", "asana"),
            vec![
                "warning 8:1 Asana sends the secret itself when the webhook is made, and `hooklatch secrets capture` can write it to a file only",
            ],
        ),
        (
            "a captured secret with a file",
            with_lines("").replace("iverton", "asana").replace("env = \"S\"", "file = \"/good\""),
            vec![],
        ),
        (
            "a signed URL that is none",
            with_lines("public_url = \"hooks.example.com/a\"").replace("iverton", "square"),
            vec!["error 10:14 \"hooks.example.com/a\" is not a URL; write the one that the sender was given"],
        ),
        (
            "a secret for two routes",
            with_lines(&routes(2)),
            vec!["warning 13:1 routes \"hooks/a\" and \"r2\" share a secret: a request captured from one can be sent to the other"],
        ),
        (
            "a secret for four routes",
            with_lines(&routes(4)),
            vec![
                "warning 13:1 routes \"hooks/a\", \"r2\", \"r3\" and \"r4\" share a secret: a request captured from one can be sent to the others",
            ],
        ),
        (
            "a secret for twenty routes",
            with_lines(&routes(20)),
            vec![
                "warning 13:1 routes \"hooks/a\", \"r2\", \"r3\" and 17 more share a secret: a request captured from one can be sent to the others",
            ],
        ),
        (
            "an unconfirmed preset",
            with_lines("").replace("iverton", "connectgain"),
            vec!["warning 7:1 what is known of ConnectGain's signature was never confirmed; see: hooklatch providers show connectgain"],
        ),
    ];
    let env = env()
        .var("SPACES", " a-secret-long-enough\r\n")
        .var("ONE", "x")
        .var("EMPTY", "")
        .var("BLANK", " \t")
        .var("WHSEC", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        .var("BOTH", "a-secret-long-enough")
        .var("BOTH_FILE", "/newline")
        .var("ID", "5GP028458E28")
        .file("/ed25519", "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n")
        .file("/good", "a-secret-long-enough")
        .file(
            "/pem",
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n\n",
        )
        .file("/newline", "abc\n")
        .file("/two", "a-secret-long-enough\n\n")
        .file("/empty", "\n");
    let mut wrong = Vec::new();
    for (name, text, expected) in table {
        let got = problems(&text, &env);
        if got != expected {
            wrong.push(format!("{name}:\n{text}\n{got:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
