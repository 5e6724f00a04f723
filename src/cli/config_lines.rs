//! The lines of a configuration for one provider: `providers show` prints them to paste, `init` writes them.

use crate::provider::describe::describe;
use crate::provider::preset::Preset;
use crate::provider::scheme::Scheme;

/// One route for one provider.
pub(super) struct Lines<'a> {
    /// The preset.
    pub(super) preset: &'a Preset,
    /// Its name or alias, as the route has it.
    pub(super) name: &'a str,
    /// The route's path.
    pub(super) path: &'a str,
    /// Where the app is.
    pub(super) upstream: &'a str,
    /// The URL that the provider was given, where that is known.
    pub(super) public_url: Option<&'a str>,
}

/// What the operator still has to put somewhere.
pub(super) struct Needed {
    /// The variable or file.
    pub(super) place: Place,
    /// What belongs there.
    pub(super) what: String,
}

/// Where a secret is read from.
pub(super) enum Place {
    /// A variable of the environment.
    Variable(String),
    /// A file, which a handshake replaces.
    File(String),
}

/// How the key of a scheme is described where the secret is used as it stands: nothing to add.
const PLAIN: &str = "the secret's text as it is";

impl Lines<'_> {
    /// What stands under `[secrets]`, each line with its end; nothing where nothing is signed.
    pub(super) fn secrets(&self) -> String {
        let mut lines = String::new();
        let Some(first) = self.preset.schemes.first() else {
            return lines;
        };
        if let Some(what) = secret_in_words(first) {
            lines.push_str(&format!("# {what}\n"));
        }
        let source = match self.captures() {
            true => {
                lines.push_str(&format!(
                    "# {} sends it in a handshake: `hooklatch secrets capture` writes it to this file, which may hold any secret text before\n",
                    self.preset.title
                ));
                format!("file = {}", quoted(&self.file()))
            }
            false => format!("env = {}", quoted(&variable(self.name, "WEBHOOK_SECRET"))),
        };
        let name = key(self.name);
        lines.push_str(&format!("{name} = {{ {source} }}\n"));
        for other in self.preset.schemes.iter().skip(1) {
            let what = secret_in_words(other).map_or_else(String::new, |what| format!(": {what}"));
            lines.push_str(&format!(
                "# {name} = {{ {source}, scheme = {} }}   # where it signs in that way{what}\n",
                quoted(&other.name)
            ));
        }
        lines
    }

    /// The route, without its last line end.
    pub(super) fn route(&self) -> String {
        let mut lines = format!("[[route]]\npath = {}\n", quoted(self.path));
        let title = &self.preset.title;
        let signs = !self.preset.schemes.is_empty();
        if !signs {
            // The path is the secret: it must not be in logs and metrics.
            lines.push_str(&format!("name = {}\n", quoted(&format!("hooks/{}", self.name))));
        }
        lines.push_str(&format!("provider = {}\n", quoted(self.name)));
        match signs {
            true => lines.push_str(&format!("secrets = [{}]\n", quoted(self.name))),
            false => lines.push_str(&format!(
                "# WARNING: {title} signs nothing, so anybody who knows the path can send events: keep it secret, and list the sender's \
                 addresses in allow_ips.\nverify = \"none\"\n"
            )),
        }
        if self.needs_url() {
            match self.public_url {
                Some(url) => lines.push_str(&format!("public_url = {}\n", quoted(url))),
                None => lines.push_str(&format!(
                    "# CHANGE THIS: the URL exactly as it is entered at {title}; it is signed too.\npublic_url = {}\n",
                    quoted(&format!("https://hooks.example.com{}", self.path))
                )),
            }
        }
        if self.has_verify_token() {
            lines.push_str(&format!(
                "verify_token = {{ env = {} }}\n",
                quoted(&variable(self.name, "VERIFY_TOKEN"))
            ));
        }
        if self.preset.proxy_hint.is_some() {
            lines.push_str("mode = \"proxy\"\n");
        }
        lines.push_str(&format!("upstream = {{ url = {} }}", quoted(self.upstream)));
        lines
    }

    /// Whether the route must know its public URL.
    pub(super) fn needs_url(&self) -> bool {
        self.preset.schemes.first().is_some_and(Scheme::needs_url)
    }

    /// What the operator still has to give.
    pub(super) fn needed(&self) -> Vec<Needed> {
        let title = &self.preset.title;
        let mut needed = Vec::new();
        if let Some(first) = self.preset.schemes.first() {
            let what = secret_in_words(first);
            needed.push(match self.captures() {
                true => Needed {
                    place: Place::File(self.file()),
                    what: format!("until {title} sends the secret: hooklatch secrets capture"),
                },
                false => Needed {
                    place: Place::Variable(variable(self.name, "WEBHOOK_SECRET")),
                    what: match what {
                        Some(what) => format!("for {title}: {what}"),
                        None => format!("the secret from {title}"),
                    },
                },
            });
        }
        if self.has_verify_token() {
            needed.push(Needed {
                place: Place::Variable(variable(self.name, "VERIFY_TOKEN")),
                what: format!("a text of your own, the same that is entered as the verify token at {title}"),
            });
        }
        needed
    }

    fn has_verify_token(&self) -> bool {
        let mut handshakes = self.preset.handshakes.iter();
        handshakes.any(|handshake| handshake.verify_token.is_some())
    }

    fn captures(&self) -> bool {
        let mut handshakes = self.preset.handshakes.iter();
        handshakes.any(|handshake| handshake.capture.is_some())
    }

    fn file(&self) -> String {
        format!("./{}-webhook-secret", self.name)
    }
}

/// What the secret of a scheme is, where it is not simply a text.
fn secret_in_words(scheme: &Scheme) -> Option<String> {
    let facts = describe(scheme);
    let is_it = |(label, text): &(&str, String)| {
        *label == "key" || (*label == "sent" && text.starts_with("user:password"))
    };
    let (_, text) = facts.into_iter().find(is_it)?;
    (text != PLAIN).then_some(text)
}

/// `QUANTIV_WEBHOOK_SECRET`.
fn variable(provider: &str, end: &str) -> String {
    let upper: String = provider
        .chars()
        .map(|letter| match letter.is_ascii_alphanumeric() {
            true => letter.to_ascii_uppercase(),
            false => '_',
        })
        .collect();
    format!("{upper}_{end}")
}

/// A TOML string; what cannot stand in one is escaped.
pub(super) fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|letter| match letter {
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            control if control.is_control() => format!("\\u{:04X}", u32::from(control)),
            other => other.to_string(),
        })
        .collect();
    format!("\"{escaped}\"")
}

/// A TOML key: bare where that is enough.
fn key(text: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    if !text.is_empty() && text.bytes().all(bare) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_keeps_any_text_one_string() {
        for given in ["plain", "a\"b", "a\\b", "a\nb", "\u{1}"] {
            let parsed: toml::Table = format!("x = {}", quoted(given)).parse().unwrap();
            assert_eq!(parsed.get("x").and_then(|value| value.as_str()), Some(given));
        }
    }
}
