//! An upstream's address, parsed once.

/// A parsed `http://` or `https://` URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// TLS or plain.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: Box<str>,
    /// The port.
    pub port: u16,
    /// The value of `Host`: with the port unless it is the scheme's own.
    pub authority: Box<str>,
    /// The path, beginning with `/`.
    pub path: Box<str>,
    /// The query without `?`, if the URL has one.
    pub query: Option<Box<str>>,
}

/// Why a text is not an upstream URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not http or https, or no host, or a broken port.
    #[error("upstream {given:?} is not an http(s) URL; write it like \"http://127.0.0.1:3000/hooks\"")]
    NotHttp {
        /// The text.
        given: String,
    },
    /// User and password do not belong there.
    #[error("upstream {given:?} carries a user name; put credentials into `headers` of the upstream")]
    Credentials {
        /// The text, without the credentials.
        given: String,
    },
    /// A fragment is never sent.
    #[error("upstream {given:?} carries a fragment (#...), which is never sent; remove it")]
    Fragment {
        /// The text.
        given: String,
    },
}

impl std::str::FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        unimplemented!("upstream helper")
    }
}
