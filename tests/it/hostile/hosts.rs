//! Whom a request is for.

use super::case::{Case, Step};
use super::rig::prove;
use Step::{Answered, Refused, Taken};

#[test]
fn a_host_is_one_and_ours() {
    let mut cases = Vec::new();
    let host = "Host: hooks.example\r\n";
    // RFC 9112, 3.2: 400 for none, for two, and for what is no host.
    for to in [
        "",
        "Host: hooks.example\r\nHost: hooks.example\r\n",
        "Host: hooks.example\r\nHost: evil.example\r\n",
        "Host: hooks.example\r\nhost:\r\n",
        "Host:\r\nHost: hooks.example\r\n",
        "Host:\r\n",
        "Host: \t \r\n",
        "Host : hooks.example\r\n",
        " Host: hooks.example\r\n",
        "Host: hooks.example\r\n evil.example\r\n",
        "Hosts: hooks.example\r\n",
        "X-Host: hooks.example\r\n",
        "Host: hooks.example, evil.example\r\n",
        "Host: hooks.example evil.example\r\n",
        "Host: hooks.example\tevil.example\r\n",
        "Host: hooks.example/\r\n",
        "Host: hooks.example/quantiv\r\n",
        "Host: hooks.example?x\r\n",
        "Host: hooks.example#x\r\n",
        "Host: user@hooks.example\r\n",
        "Host: user:pass@hooks.example\r\n",
        "Host: http://hooks.example\r\n",
        "Host: //hooks.example\r\n",
        "Host: hooks.example\\evil\r\n",
        "Host: <hooks.example>\r\n",
        "Host: \"hooks.example\"\r\n",
        "Host: hooks.example\0\r\n",
        "Host: hooks.example:80:80\r\n",
        "Host: hooks.example:80a\r\n",
        "Host: hooks.example:-1\r\n",
        "Host: hooks.example:+80\r\n",
        "Host: hooks.example:0x50\r\n",
        "Host: hooks.example: 80\r\n",
        "Host: hooks.example:http\r\n",
        "Host: hooks.example:\u{ff18}\u{ff10}\r\n",
        "Host: [::1\r\n",
        "Host: ::1]\r\n",
        "Host: ::1\r\n",
        "Host: []\r\n",
        "Host: [::1]x\r\n",
        "Host: [::1]:x\r\n",
        "Host: x[::1]\r\n",
        "Host: [::1][::1]\r\n",
        "Host: [hooks.example]\r\n",
        "Host: [::1/64]\r\n",
        "Host: [::1%25eth0]\r\n",
        "Host: [127.0.0.1]\r\n",
        // An address form that nobody has defined yet.
        "Host: [v7.a:b]\r\n",
        "Host: :80\r\n",
        "Host: :\r\n",
        "Host: h\u{f6}oks.example\r\n",
        "Host: hooks%.example\r\n",
        "Host: hooks%2\r\n",
        "Host: hooks%zz.example\r\n",
        "Host: hooks.example|evil\r\n",
        "Host: hooks^example\r\n",
        "Host: hooks`example\r\n",
    ] {
        cases.push(Case::replaced(host, to, &[Refused(400)]));
    }
    for to in [
        "Host: hooks.example:80\r\n",
        "Host: hooks.example:\r\n",
        "Host:hooks.example\r\n",
        "Host:\t hooks.example \t\r\n",
        "HOST: HOOKS.EXAMPLE\r\n",
        "Host: hooks.example.\r\n",
        "Host: 127.0.0.1:8080\r\n",
        "Host: [::1]:8080\r\n",
        "Host: [2001:db8::ff00:42:8329]\r\n",
        "Host: hooks%2eexample\r\n",
        "Host: a!$&'()*+,;=-._~b\r\n",
        "Host: hooks.example:99999\r\n",
    ] {
        cases.push(Case::replaced(host, to, &[Taken]));
    }
    // RFC 9112, 3.2.2: the absolute form, here only with the very Host; 3.2.3 and 3.2.4 are for CONNECT and OPTIONS.
    for target in [
        "http://evil.example{path}",
        "http://evil.example:80{path}",
        "http://hooks.example:80{path}",
        "http://hooks.example.{path}",
        "http://hooks.example@evil.example{path}",
        "http://user@hooks.example{path}",
        "http://user:pass@hooks.example{path}",
        "http://@hooks.example{path}",
        "http://evil.example\\@hooks.example{path}",
        "http:///{path}",
        "http://{path}",
        "http:{path}",
        "http:/hooks.example{path}",
        "http//hooks.example{path}",
        "ftp://hooks.example{path}",
        "file://{path}",
        "httpx://hooks.example{path}",
        "javascript://hooks.example{path}",
        "//hooks.example{path}#x",
        "hooks.example{path}",
        "hooks.example:80",
        "hooks.example",
        "*",
        "?",
        "?{path}",
        ".",
        "..{path}",
        "\\{path}",
        "queue",
        "{path}#",
        "{path}#x",
        "{path}?x#y",
        "{path}\0",
        "\0{path}",
        "{path}\x01",
        "{path}\x7f",
        "{path}\u{e9}",
        "{path}?\u{e9}",
        "{path}?a b",
        "{path} x",
        "{path}\tx",
        "{path}\x0bx",
        "{path}\x0cx",
        "{path}?a\x0bb",
        "{path}?<script>",
        "{path}?a=\"b\"",
        "{path}\r",
        "{path}\n",
        "{path}\r\nX-A: b\r\n",
        "{path} HTTP/1.1\nX-A: b\r\nX-B:",
    ] {
        cases.push(Case::replaced("{path}", target, &[Refused(400)]));
    }
    for target in [
        "http://hooks.example",
        "http://hooks.example/",
        "http://hooks.example?x",
        "http://hooks.example//{path}",
    ] {
        cases.push(Case::replaced("{path}", target, &[Answered(404)]));
    }
    for target in [
        "http://hooks.example{path}",
        "HTTP://HOOKS.EXAMPLE{path}",
        "https://hooks.example{path}",
    ] {
        cases.push(Case::replaced("{path}", target, &[Taken]));
    }
    prove("hostile: hosts and targets", &cases);
}
