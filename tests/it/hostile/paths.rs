//! Paths that two servers could read as two.

use super::case::{Case, Step};
use super::rig::prove;
use Step::{Answered, Taken};

/// What the app is called by when `{path}` is followed by this; the upstream's own path is `/in`.
const PASSED_ON: [(&str, &str); 36] = [
    ("", "/in"),
    ("?", "/in?"),
    ("??", "/in??"),
    ("?a=b", "/in?a=b"),
    (
        "?a=../../etc&b=//c&d=%2e%2e%2f&e=\\",
        "/in?a=../../etc&b=//c&d=%2e%2e%2f&e=\\",
    ),
    ("?a=%00%0d%0aX:%20y", "/in?a=%00%0d%0aX:%20y"),
    ("?%", "/in?%"),
    ("?/../admin", "/in?/../admin"),
    ("/", "/in"),
    ("/?a", "/in?a"),
    ("/a", "/in/a"),
    ("/a/", "/in/a/"),
    ("/a/b/c", "/in/a/b/c"),
    ("/a.", "/in/a."),
    ("/a..", "/in/a.."),
    ("/.a", "/in/.a"),
    ("/..a", "/in/..a"),
    ("/...", "/in/..."),
    ("/a.b/..c/d..", "/in/a.b/..c/d.."),
    ("/a;b=c", "/in/a;b=c"),
    ("/a;b/c;d", "/in/a;b/c;d"),
    ("/a%20b", "/in/a%20b"),
    ("/a+b", "/in/a+b"),
    ("/a%2Bb", "/in/a%2Bb"),
    ("/~a", "/in/~a"),
    ("/%7Ea", "/in/%7Ea"),
    ("/%61", "/in/%61"),
    ("/%c3%a9", "/in/%c3%a9"),
    ("/%E2%82%AC", "/in/%E2%82%AC"),
    ("/%f0%9f%98%80", "/in/%f0%9f%98%80"),
    ("/%3f%23", "/in/%3f%23"),
    ("/a:b@c!$&'()*,=", "/in/a:b@c!$&'()*,="),
    // Escaped once more: the app that decodes once finds text.
    ("/%252e%252e/a", "/in/%252e%252e/a"),
    ("/a%252fb", "/in/a%252fb"),
    ("/a?b=/../c", "/in/a?b=/../c"),
    ("/a?b//c", "/in/a?b//c"),
];

/// Behind `{path}`: the design's 404 for what an app could read as another path.
const NOT_PLAIN: [&str; 69] = [
    "/.",
    "/..",
    "/./",
    "/../",
    "/../queue",
    "/../proxy",
    "/../../etc/passwd",
    "/a/.",
    "/a/..",
    "/a/./b",
    "/a/../b",
    "/a/../../b",
    "/..?a",
    "/a/..?b=c",
    "//",
    "///",
    "//a",
    "/a//b",
    "/a//",
    "/a/b//",
    "/%2e",
    "/%2E",
    "/%2e%2e",
    "/%2e%2E/a",
    "/.%2e/a",
    "/%2e./a",
    "/a/%2e%2e/b",
    "/a%2e",
    "/a%2eb",
    "/a%2fb",
    "/a%2Fb",
    "/%2f",
    "/..%2fa",
    "/%2e%2e%2fa",
    "/\\",
    "/a\\b",
    "/..\\a",
    "/a\\..\\b",
    "/%5c",
    "/a%5Cb",
    "/..%5ca",
    "/..;",
    "/..;/a",
    "/..;x=y/a",
    "/.;/a",
    "/a/..;/b",
    "/a/.;x",
    "/%00",
    "/a%00",
    "/a%00.json",
    "/..%00/a",
    // No UTF-8: careless decoders take some of it for dots, slashes and backslashes (RFC 3629, 3 and 10).
    "/%c0%ae%c0%ae/a",
    "/%C0%AE",
    "/a%c0%afb",
    "/a%C1%9cb",
    "/%e0%80%ae%e0%80%ae/a",
    "/%E0%80%AFa",
    "/%f0%80%80%ae",
    "/%f8%80%80%80%ae",
    "/%ff",
    "/a%e9",
    "/%ed%a0%80",
    // No escapes (RFC 3986, 2.1), and to some servers they are.
    "/%",
    "/%2",
    "/a%",
    "/%zz",
    "/%u002e%u002e/a",
    "/%%32%65",
    "/%-2e",
];

/// Other paths than those of the routes.
const UNKNOWN: [&str; 22] = [
    "/",
    "//",
    "/{path}",
    "/.{path}",
    "/..{path}",
    "/x/..{path}",
    "/%2e{path}",
    "/\\{path}",
    "/%2f{path}",
    "{path}.",
    "{path}%2e",
    "{path}%20",
    "{path}%00",
    "{path}%3f",
    "{path}%2f",
    "{path};",
    "{path};a=b",
    "{path}\\",
    "{path}x",
    "/QUEUE",
    "/%71ueue",
    "/Proxy",
];

#[test]
fn a_path_is_matched_as_sent_and_passed_on_as_sent() {
    let mut cases = Vec::new();
    for (rest, target) in PASSED_ON {
        let mut case = Case::replaced("{path}", format!("{{path}}{rest}"), &[Taken]);
        case.target = Some(target.to_owned());
        cases.push(case);
        if !rest.is_empty() {
            let mut absolute =
                Case::replaced("{path}", format!("http://hooks.example{{path}}{rest}"), &[Taken]);
            absolute.target = Some(target.to_owned());
            cases.push(absolute);
        }
    }
    for rest in NOT_PLAIN {
        cases.push(Case::replaced(
            "{path}",
            format!("{{path}}{rest}"),
            &[Answered(404)],
        ));
    }
    for path in UNKNOWN {
        cases.push(Case::replaced("{path}", path, &[Answered(404)]));
    }
    prove("hostile: paths", &cases);
}
