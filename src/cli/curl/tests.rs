use super::*;

fn read(text: &str) -> Result<Capture, CliError> {
    parse(command(text).unwrap(), None)
}

#[test]
fn commands_are_read() {
    let capture = read(
        "curl -X POST 'https://h.example/hooks?a=1' \\\n  -H 'X-Sig: sha256=ab' --header \"Content-Type: application/json\" \\\n  \
         --data-raw $'{\"a\":\"it\\'s\\n\"}' --compressed -s",
    )
    .unwrap();
    assert_eq!(capture.method.as_deref(), Some("POST"));
    assert_eq!(capture.url(), Some("https://h.example/hooks"));
    assert_eq!(capture.query(), Some("a=1"));
    assert_eq!(capture.headers.first("x-sig"), Some(&b"sha256=ab"[..]));
    assert_eq!(capture.headers.len(), 2);
    assert_eq!(capture.body, b"{\"a\":\"it's\n\"}");
}

#[test]
fn the_command_is_found_behind_what_stands_before_it() {
    for (text, arguments) in [
        ("curl https://h", Some("https://h")),
        ("\n $ curl https://h", Some("https://h")),
        ("$ time curl https://h", Some("https://h")),
        ("/usr/bin/curl https://h", Some("https://h")),
        ("curl\thttps://h", Some("https://h")),
        ("curly https://h", None),
        ("POST /hooks HTTP/1.1", None),
        ("curl", None),
    ] {
        assert_eq!(command(text), arguments, "{text}");
    }
}

#[test]
fn headers_and_body_are_those_that_curl_sends() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (body, lines) = (
        file("body", "a\r\nb\0\n"),
        file("lines", "X-A: 1\r\n\r\nX-B: 2\n"),
    );
    let form = "content-type: application/x-www-form-urlencoded";
    let json = ["content-type: application/json", "accept: application/json"];
    let cases: [(String, &str, &[&str], &[u8]); 26] = [
        ("-d a=1 --data b=2".into(), "POST", &[form], b"a=1&b=2"),
        ("--data=a=1 -d ''".into(), "POST", &[form], b"a=1&"),
        ("-d '' -d b".into(), "POST", &[form], b"&b"),
        ("-sSvXPUT -da".into(), "PUT", &[form], b"a"),
        ("-H content-type: -d a".into(), "POST", &[], b"a"),
        (
            "-H 'Content-Type: x/y' -d a".into(),
            "POST",
            &["content-type: x/y"],
            b"a",
        ),
        (format!("-d @{body}"), "POST", &[form], b"ab"),
        (format!("--data-binary @{body}"), "POST", &[form], b"a\r\nb\0\n"),
        ("--data-raw @a".into(), "POST", &[form], b"@a"),
        ("--json '{' --json '}'".into(), "POST", &json, b"{}"),
        (format!("--json @{body}"), "POST", &json, b"a\r\nb\0\n"),
        (
            "--json {} -H Accept:".into(),
            "POST",
            &["content-type: application/json"],
            b"{}",
        ),
        (
            "--data-urlencode 'a=b c&é'".into(),
            "POST",
            &[form],
            b"a=b+c%26%C3%A9",
        ),
        ("--data-urlencode 'b~c d'".into(), "POST", &[form], b"b~c+d"),
        ("--data-urlencode '=b=c'".into(), "POST", &[form], b"b%3Dc"),
        (
            format!("--data-urlencode n@{body}"),
            "POST",
            &[form],
            b"n=a%0D%0Ab%00%0A",
        ),
        (format!("-H @{lines}"), "GET", &["x-a: 1", "x-b: 2"], b""),
        ("-H 'X-Empty;' -H X-Gone:".into(), "GET", &["x-empty: "], b""),
        (
            "-H 'X-A: b;' -H 'X-B: c:'".into(),
            "GET",
            &["x-a: b;", "x-b: c:"],
            b"",
        ),
        ("-u me:it".into(), "GET", &["authorization: Basic bWU6aXQ="], b""),
        (
            "--oauth2-bearer t".into(),
            "GET",
            &["authorization: Bearer t"],
            b"",
        ),
        (
            "-A me -e https://a -b k=v".into(),
            "GET",
            &["user-agent: me", "referer: https://a", "cookie: k=v"],
            b"",
        ),
        (
            "-I -o out -w '%{http_code}' --max-time 3 -4".into(),
            "HEAD",
            &[],
            b"",
        ),
        ("-skLi --http1.1 -m 3 -x http://p".into(), "GET", &[], b""),
        ("-s | jq .".into(), "GET", &[], b""),
        (
            "-d 'a>b' -H 'X-A: <1>;&|' && echo".into(),
            "POST",
            &[form, "x-a: <1>;&|"],
            b"a>b",
        ),
    ];
    for (options, method, headers, body) in cases {
        let capture = read(&format!("curl https://h {options}")).unwrap();
        assert_eq!(capture.target.as_deref(), Some("https://h"), "{options}");
        assert_eq!(capture.method.as_deref(), Some(method), "{options}");
        assert_eq!(capture.headers.len(), headers.len(), "{options}");
        for header in headers {
            let (name, value) = header.split_once(": ").unwrap();
            assert_eq!(capture.headers.first(name), Some(value.as_bytes()), "{options}");
        }
        assert_eq!(capture.body, body, "{options}");
    }
}

#[test]
fn standard_input_is_the_data_only_where_the_command_is_not() {
    let text = "https://h --data-binary @-";
    let refused = parse(text, None).unwrap_err().to_string();
    assert!(
        refused.contains("where the command itself came from"),
        "{refused}"
    );
    let read = parse(text, Some(&mut &b"a\n"[..])).unwrap();
    assert_eq!(read.body, b"a\n");
}

#[test]
fn what_is_cut_off_is_refused() {
    for text in ["curl 'https://h", "curl https://h -H", "curl \"a", "curl $'a\\"] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn what_could_change_the_request_unread_is_refused() {
    for (options, said) in [
        ("-F a=b", "has -F,"),
        ("--form a=b", "has --form,"),
        ("-G -d a=b", "write the data into the URL"),
        ("-sT file", "has -T,"),
        ("-K file", "has -K,"),
        ("--range 0-5", "has --range,"),
        ("--aws-sigv4 a:b", "has --aws-sigv4,"),
        ("--whsec_secret=a", "has an option,"),
        ("-b jar", "cookies from a file"),
        ("-u me", "-u USER:PASSWORD"),
        ("https://b", "more than one URL"),
        ("-d @- < file", "redirection"),
        ("2>/dev/null -d a", "redirection"),
        (
            "-H 'no header: \u{1}'",
            "header 1 of the curl command, which begins with `no header:`",
        ),
        ("-H 'X-A: 1' -H secret", "header 2 of the curl command"),
    ] {
        let refused = read(&format!("curl https://h {options}"))
            .unwrap_err()
            .to_string();
        assert!(refused.contains(said), "{options}: {refused}");
        assert!(!refused.contains("secret"), "{options}: {refused}");
    }
}
