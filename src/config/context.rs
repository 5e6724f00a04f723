//! What is shared while one text is read: the text, the outside world and the problems found so far.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;

use super::env::{Env, SecretFile};
use super::report::{Place, Problem, Severity};
use super::secrets::is_showable;

/// A byte range of the text.
pub(super) type Span = Range<usize>;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

/// How a problem was found; a text that is not TOML gives no reliable ground for the last kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ground {
    /// The text is not TOML.
    Syntax,
    /// One key or value is wrong by itself.
    Shape,
    /// Something is missing, or two things do not go together.
    Meaning,
}

#[derive(Debug)]
struct Found {
    ground: Ground,
    severity: Severity,
    span: Option<Span>,
    text: String,
    help: Option<String>,
}

/// The state of one reading.
pub(super) struct Context<'a> {
    source: &'a str,
    pub(super) env: &'a dyn Env,
    found: RefCell<Vec<Found>>,
    hidden: RefCell<Vec<Span>>,
    asked: RefCell<BTreeSet<String>>,
    secret_files: RefCell<Vec<SecretFile>>,
    errors: Cell<usize>,
}

impl<'a> Context<'a> {
    pub(super) fn new(source: &'a str, env: &'a dyn Env) -> Self {
        Self {
            source,
            env,
            found: RefCell::default(),
            hidden: RefCell::default(),
            asked: RefCell::default(),
            secret_files: RefCell::default(),
            errors: Cell::new(0),
        }
    }

    /// The text is not TOML here.
    pub(super) fn syntax(&self, span: Option<Span>, text: String) {
        self.push(Ground::Syntax, Severity::Error, span, text, None);
    }

    /// One key or value is wrong by itself.
    pub(super) fn wrong(&self, span: &Span, text: impl Into<String>, help: Option<&str>) {
        self.push(
            Ground::Shape,
            Severity::Error,
            Some(span.clone()),
            text.into(),
            help,
        );
    }

    /// Something is missing, or two things do not go together.
    pub(super) fn error(&self, span: &Span, text: impl Into<String>, help: Option<&str>) {
        self.push(
            Ground::Meaning,
            Severity::Error,
            Some(span.clone()),
            text.into(),
            help,
        );
    }

    /// It runs, but someone should know.
    pub(super) fn warn(&self, span: &Span, text: impl Into<String>, help: Option<&str>) {
        self.push(
            Ground::Meaning,
            Severity::Warning,
            Some(span.clone()),
            text.into(),
            help,
        );
    }

    /// The lines of `span` may hold a secret and are never shown.
    pub(super) fn hide(&self, span: Span) {
        self.hidden.borrow_mut().push(span);
    }

    /// A secret is about to be read from a file.
    pub(super) fn note_secret_file(&self, file: SecretFile) {
        self.secret_files.borrow_mut().push(file);
    }

    /// The files that secrets were read from so far.
    pub(super) fn secret_files(&self) -> Vec<SecretFile> {
        self.secret_files.borrow().clone()
    }

    /// Remembers that `key` is one of ours.
    pub(super) fn ask(&self, path: &str, key: &str) {
        let full = if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        };
        self.asked.borrow_mut().insert(full);
    }

    /// Every key that was looked for, with the tables it stands in: `store.path`.
    pub(super) fn asked(&self) -> BTreeSet<String> {
        self.asked.borrow().clone()
    }

    /// Errors so far.
    pub(super) fn errors(&self) -> usize {
        self.errors.get()
    }

    /// What was found, with places.
    pub(super) fn into_problems(self) -> Vec<Problem> {
        let found = self.found.take();
        let broken_lines: Vec<usize> = found
            .iter()
            .filter(|item| item.ground == Ground::Syntax)
            .map(|item| line_of(self.source, item.span.as_ref().map_or(0, |span| span.start)).0)
            .collect();
        let hidden = self.hidden.take();
        found
            .into_iter()
            .filter(|item| {
                let line = item.span.as_ref().map(|span| line_of(self.source, span.start).0);
                match item.ground {
                    Ground::Syntax => true,
                    Ground::Shape => line.is_none_or(|line| !broken_lines.contains(&line)),
                    Ground::Meaning => broken_lines.is_empty(),
                }
            })
            .map(|item| Problem {
                severity: item.severity,
                place: item
                    .span
                    .as_ref()
                    .map(|span| place(self.source, span, !broken_lines.is_empty(), &hidden)),
                text: item.text,
                help: item.help,
            })
            .collect()
    }

    fn push(&self, ground: Ground, severity: Severity, span: Option<Span>, text: String, help: Option<&str>) {
        if severity == Severity::Error {
            self.errors.set(self.errors.get() + 1);
        }
        self.found.borrow_mut().push(Found {
            ground,
            severity,
            span,
            text: without_strays(text),
            help: help.map(|help| without_strays(help.to_owned())),
        });
    }
}

/// In the place of what is not repeated.
const HIDDEN: &str = "(not shown: it may hold a secret)";
/// A longer text is no address.
const URL_BYTES_MAX: usize = 200;

/// A message without what no name, address or path looks like: a secret in a wrong place, or a string of several lines, which
/// has swallowed part of the file since somebody forgot to close it, and may hold anything.
fn without_strays(text: String) -> String {
    if text.contains(|c: char| c.is_control()) {
        // Not escaped: then quotes within it are not either.
        let (first, last) = (text.find('"'), text.rfind('"'));
        let (Some(first), Some(last)) = (first, last) else {
            return HIDDEN.to_owned();
        };
        let before = text.get(..first).unwrap_or_default();
        let after = text.get(last + 1..).unwrap_or_default();
        return format!("{before}{HIDDEN}{after}");
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(first) = rest.find('"') {
        let (before, quoted) = rest.split_at(first);
        let end = end_of_string(quoted).unwrap_or(quoted.len());
        let (quoted, after) = quoted.split_at(end);
        shown.push_str(before);
        let is_stray = ["\\n", "\\r", "\\t", "\\u{"]
            .iter()
            .any(|escape| quoted.contains(escape));
        let is_url = quoted.contains("://") && quoted.len() <= URL_BYTES_MAX;
        match !is_stray && (is_url || is_showable(quoted.trim_matches('"'))) {
            true => shown.push_str(quoted),
            false => shown.push_str(HIDDEN),
        }
        rest = after;
    }
    shown + rest
}

/// Behind the closing quote of a text that begins with its opening one.
fn end_of_string(quoted: &str) -> Option<usize> {
    let mut escaped = false;
    let end = quoted.bytes().enumerate().skip(1).find(|(_, byte)| {
        let closes = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        closes
    });
    end.map(|(at, _)| at + 1)
}

/// Number (from 1), start and end of the line that holds byte `at`.
fn line_of(source: &str, at: usize) -> (usize, usize, usize) {
    let before = source.get(..at.min(source.len())).unwrap_or(source);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let rest = source.get(start..).unwrap_or_default();
    let length = rest.find('\n').unwrap_or(rest.len());
    (before.matches('\n').count() + 1, start, start + length)
}

fn place(source: &str, span: &Span, is_broken: bool, hidden: &[Span]) -> Place {
    let (line, start, end) = line_of(source, span.start);
    let text = source.get(start..end).unwrap_or_default();
    let text = text.trim_end_matches('\r');
    let from = span.start.saturating_sub(start).min(text.len());
    let until = span.end.saturating_sub(start).clamp(from, text.len());
    let is_secret = hidden.iter().any(|secret| secret.start <= end && secret.end >= start)
        // Where the text is not TOML, nobody knows which value is a secret.
        || (is_broken && may_hold_secret(source, start, text));
    Place {
        line,
        column: text.get(..from).map_or(from, |before| before.chars().count()) + 1,
        shown: (!is_secret).then(|| (text.to_owned(), from..until)),
    }
}

/// Whether a line of a text that is not TOML could hold a secret: by its words, because it follows a header or a line that
/// speaks of one, or because it may be the rest of one that was broken in two.
fn may_hold_secret(source: &str, line_start: usize, line: &str) -> bool {
    let before = source.get(..line_start).unwrap_or_default();
    let header = before
        .lines()
        .rev()
        .find(|candidate| candidate.trim_start().starts_with('['));
    is_secret_word(line)
        || !is_ordinary(line)
        || closes_a_string(line)
        || before.lines().next_back().is_some_and(is_left_open)
        || header.is_some_and(is_secret_word)
        // An open multi-line string could have begun anywhere above.
        || before.matches("\"\"\"").count() % 2 == 1
        || before.matches("'''").count() % 2 == 1
}

/// Whether a line is a table's header, a closing bracket or `key = value`, and none of its words looks like a secret.
fn is_ordinary(line: &str) -> bool {
    let line = line.trim_start();
    let key = line.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    let has_form = line.is_empty()
        || line.starts_with(['[', ']', '}', '{', '#'])
        || (key.len() < line.len() && key.trim_start().starts_with('='));
    let mut words = line.split(|c: char| c.is_whitespace() || "\"'=,{}[]".contains(c));
    has_form && words.all(is_showable)
}

/// Whether a string that began in this line does not end in it: the next line may be the rest.
fn is_left_open(line: &str) -> bool {
    ['"', '\'']
        .iter()
        .any(|quote| line.matches(*quote).count() % 2 == 1)
}

/// Whether the line ends a string that began before it, as in `rest of it=" }`.
fn closes_a_string(line: &str) -> bool {
    let behind = line.rsplit(['"', '\'']).next().unwrap_or_default();
    is_left_open(line)
        && behind
            .trim_matches(|c: char| c.is_whitespace() || ",]}".contains(c))
            .is_empty()
}

/// Whether a key of this name, or a line with this text, is likely to carry a secret.
pub(super) fn is_secret_word(text: &str) -> bool {
    const WORDS: [&str; 9] = [
        "secret",
        "token",
        "passw",
        "credential",
        "authorization",
        "key",
        "value",
        "headers",
        "whsec_",
    ];
    let text = text.to_ascii_lowercase();
    WORDS.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `leaks_config` found it: `provider = """`, and the rest of the file was the name of a provider.
    #[test]
    fn a_text_that_swallowed_the_file_is_not_repeated() {
        let swallowed = "quantiv\nsecrets = [\"one\"]\nkey = { value = \"canary\" }";
        for (text, shown) in [
            (
                "provider \"quantif\" is unknown".to_owned(),
                "provider \"quantif\" is unknown",
            ),
            ("write \"5m\" or \"1h\"".to_owned(), "write \"5m\" or \"1h\""),
            (
                format!("provider {swallowed:?} is unknown; did you mean \"quantiv\"?"),
                "provider (not shown: it may hold a secret) is unknown; did you mean \"quantiv\"?",
            ),
            (
                format!("route name \"{swallowed}\" is used twice"),
                "route name (not shown: it may hold a secret) is used twice",
            ),
            (
                format!("path {:?} is odd", "x".repeat(300)),
                "path (not shown: it may hold a secret) is odd",
            ),
            ("a quote \" alone".to_owned(), "a quote \" alone"),
            // A secret as the header of a table: also found by `leaks_config`.
            (
                "unknown key \"canary+6f2d56c9ded455fc/520d72ca=\" in the top level".to_owned(),
                "unknown key (not shown: it may hold a secret) in the top level",
            ),
            (
                "write it like \"http://127.0.0.1:3000/hooks\"".to_owned(),
                "write it like \"http://127.0.0.1:3000/hooks\"",
            ),
        ] {
            assert_eq!(without_strays(text), shown);
        }
    }

    /// `leaks_config` found the last but one: a secret broken in two, whose rest looks like a key.
    #[test]
    fn the_rest_of_a_secret_that_was_broken_in_two_is_not_shown() {
        for (before, line, hidden) in [
            ("[[route]]", "path = \"/hooks\"", false),
            ("[[route]]", "path = \"/hooks", false),
            ("path = \"/hooks", "mode = \"queue\"", true),
            ("[[route]]", "47c6ff6b44a7eb=\" }", true),
            ("one = { x = \"canary+5b", "47c6ff6b44a7eb=\" }", true),
            ("one = { x = 'canary+5b", "47c6ff6b44a7eb=' }", true),
        ] {
            let source = format!("{before}\n{line}\n");
            assert_eq!(
                may_hold_secret(&source, before.len() + 1, line),
                hidden,
                "{before} | {line}"
            );
        }
    }
}
