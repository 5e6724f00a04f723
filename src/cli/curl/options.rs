//! What curl's options say about the request.

/// What an option means for headers and body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    /// Nothing.
    Nothing,
    /// Nothing; it takes an argument.
    NothingWithArgument,
    /// A header, or the file with several.
    Header,
    /// The value of this header.
    ValueOf(&'static str),
    /// Cookies, or the file that holds them.
    Cookie,
    /// User and password.
    User,
    /// A token.
    Bearer,
    /// The method.
    Method,
    /// Only the head is asked for.
    Head,
    /// The URL.
    Url,
    /// A part of the body.
    Data(Data),
}

/// How a part of the body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    /// As it stands, or the file behind `@` without its line ends.
    Text,
    /// As it stands, or the file behind `@` byte for byte.
    Binary,
    /// As it stands, whatever it begins with.
    Raw,
    /// Encoded as a form's value.
    Encoded,
    /// As `Binary`, with the headers of JSON.
    Json,
}

/// What the long option of that name means; `None` for one that is not read, since it may change headers or body.
pub(super) fn long(name: &str) -> Option<Means> {
    Some(match name {
        "header" => Means::Header,
        "user-agent" => Means::ValueOf("User-Agent"),
        "referer" => Means::ValueOf("Referer"),
        "cookie" => Means::Cookie,
        "user" => Means::User,
        "oauth2-bearer" => Means::Bearer,
        "request" => Means::Method,
        "head" => Means::Head,
        "url" => Means::Url,
        "data" | "data-ascii" => Means::Data(Data::Text),
        "data-binary" => Means::Data(Data::Binary),
        "data-raw" => Means::Data(Data::Raw),
        "data-urlencode" => Means::Data(Data::Encoded),
        "json" => Means::Data(Data::Json),
        _ if NOTHING.contains(&name) => Means::Nothing,
        _ if NOTHING_WITH_ARGUMENT.contains(&name) => Means::NothingWithArgument,
        _ => return None,
    })
}

/// What the short option means.
pub(super) fn short(letter: char) -> Option<Means> {
    let name = match letter {
        'H' => "header",
        'A' => "user-agent",
        'e' => "referer",
        'b' => "cookie",
        'u' => "user",
        'X' => "request",
        'I' => "head",
        'd' => "data",
        '0' | '1' | '2' | '3' | '4' | '6' | '#' | 'a' | 'f' | 'g' | 'i' | 'j' | 'J' | 'k' | 'L' | 'N'
        | 'O' | 'p' | 'q' | 'R' | 's' | 'S' | 'v' | 'Z' => return Some(Means::Nothing),
        'c' | 'D' | 'E' | 'm' | 'o' | 'U' | 'w' | 'x' | 'y' | 'Y' => return Some(Means::NothingWithArgument),
        _ => return None,
    };
    long(name)
}

/// Options without an argument that say how curl connects or what it prints.
const NOTHING: [&str; 46] = [
    "append",
    "basic",
    "compressed",
    "create-dirs",
    "disable",
    "fail",
    "fail-early",
    "fail-with-body",
    "globoff",
    "http0.9",
    "http1.0",
    "http1.1",
    "http2",
    "http2-prior-knowledge",
    "http3",
    "http3-only",
    "include",
    "insecure",
    "ipv4",
    "ipv6",
    "junk-session-cookies",
    "location",
    "location-trusted",
    "no-buffer",
    "no-keepalive",
    "no-progress-meter",
    "parallel",
    "path-as-is",
    "progress-bar",
    "proxytunnel",
    "raw",
    "remote-header-name",
    "remote-name",
    "remote-time",
    "retry-all-errors",
    "retry-connrefused",
    "show-error",
    "silent",
    "ssl-no-revoke",
    "sslv2",
    "sslv3",
    "tcp-nodelay",
    "tlsv1",
    "tlsv1.2",
    "tlsv1.3",
    "verbose",
];

/// The same with an argument.
const NOTHING_WITH_ARGUMENT: [&str; 42] = [
    "cacert",
    "capath",
    "cert",
    "cert-type",
    "ciphers",
    "connect-timeout",
    "connect-to",
    "cookie-jar",
    "dump-header",
    "expect100-timeout",
    "interface",
    "keepalive-time",
    "key",
    "key-type",
    "limit-rate",
    "local-port",
    "max-filesize",
    "max-redirs",
    "max-time",
    "noproxy",
    "output",
    "output-dir",
    "pass",
    "pinnedpubkey",
    "preproxy",
    "proto",
    "proto-default",
    "proto-redir",
    "proxy",
    "proxy-user",
    "resolve",
    "retry",
    "retry-delay",
    "retry-max-time",
    "socks5",
    "socks5-hostname",
    "speed-limit",
    "speed-time",
    "stderr",
    "tls-max",
    "unix-socket",
    "write-out",
];
