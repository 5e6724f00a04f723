//! A request as a `curl` command, the form in which browsers and request inspectors hand it over.

use super::capture::{Capture, header};
use super::error::CliError;
use crate::fields::Fields;

/// Reads the command; options that say nothing about the request are skipped.
pub(super) fn parse(text: &str) -> Result<Capture, CliError> {
    const ENDS: CliError = CliError::Capture("has a curl command that ends in the middle of an option");
    let mut words = split(text)?.into_iter().skip(1);
    let mut capture = Capture::default();
    let mut lines: Vec<String> = Vec::new();
    let mut data: Option<Vec<u8>> = None;
    while let Some(word) = words.next() {
        let (option, inline) = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option.to_owned(), Some(value.to_owned())),
            _ => match word.get(..2) {
                Some(short @ ("-H" | "-d" | "-X")) if word.len() > 2 => {
                    (short.to_owned(), word.get(2..).map(str::to_owned))
                }
                _ => (word.clone(), None),
            },
        };
        let mut value = || inline.clone().or_else(|| words.next()).ok_or(ENDS);
        match option.as_str() {
            "-H" | "--header" => lines.push(value()?),
            "-X" | "--request" => capture.method = Some(value()?),
            "--url" => capture.target = Some(value()?),
            "-A" | "--user-agent" => lines.push(format!("User-Agent: {}", value()?)),
            "-d" | "--data" | "--data-ascii" | "--data-raw" | "--data-binary" => {
                let given = value()?;
                let read = match given.strip_prefix('@').filter(|_| option != "--data-raw") {
                    Some(path) => std::fs::read(path).map_err(|error| CliError::File {
                        path: path.into(),
                        error,
                    })?,
                    None => given.into_bytes(),
                };
                match &mut data {
                    Some(before) => {
                        before.push(b'&');
                        before.extend_from_slice(&read);
                    }
                    None => data = Some(read),
                }
            }
            "-o" | "--output" | "-b" | "--cookie" | "-u" | "--user" | "-m" | "--max-time"
            | "--connect-timeout" | "-x" | "--proxy" => {
                drop(value()?);
            }
            other if other.starts_with('-') => {}
            _ => capture.target = Some(word),
        }
    }
    let mut pairs = Vec::new();
    for line in &lines {
        // `Name;` and `Name:` mean a header that is empty or not sent.
        if line.contains(':') && !line.ends_with(':') {
            pairs.push(header(line.as_bytes())?);
        }
    }
    capture.headers = Fields::from_pairs(pairs);
    capture.body = data.unwrap_or_default();
    Ok(capture)
}

/// Splits as a POSIX shell does, with `$'...'` of bash; variables and commands in it are not looked at.
fn split(text: &str) -> Result<Vec<String>, CliError> {
    const OPEN: CliError = CliError::Capture("has a curl command with a quote that is not closed");
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(OPEN)? {
                        '\'' => break,
                        inside => word.push(inside),
                    }
                }
            }
            '$' if rest.peek() == Some(&'\'') => {
                rest.next();
                let word = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(OPEN)? {
                        '\'' => break,
                        '\\' => word.push(escaped(&mut rest).ok_or(OPEN)?),
                        inside => word.push(inside),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match rest.next().ok_or(OPEN)? {
                        '"' => break,
                        '\\' => match rest.next().ok_or(OPEN)? {
                            kept @ ('"' | '\\' | '$' | '`') => word.push(kept),
                            '\n' => {}
                            other => word.extend(['\\', other]),
                        },
                        inside => word.push(inside),
                    }
                }
            }
            '\\' => match rest.next() {
                // A command over several lines.
                Some('\n') | None => {}
                Some('\r') if rest.peek() == Some(&'\n') => drop(rest.next()),
                Some(kept) => word.get_or_insert_default().push(kept),
            },
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// What follows a backslash in `$'...'`.
fn escaped(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    Some(match rest.next()? {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            let digits: String = (0..4).map_while(|_| rest.next()).collect();
            u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)?
        }
        'x' => {
            let digits: String = (0..2).map_while(|_| rest.next()).collect();
            u8::from_str_radix(&digits, 16).ok().map(char::from)?
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        let capture = parse(
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
        let capture = parse("curl https://h -HX-A:1 --data=a=1 -d b=2 -H 'X-Empty;' -H 'X-Gone:'").unwrap();
        assert_eq!((capture.headers.len(), &*capture.body), (1, &b"a=1&b=2"[..]));
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        for text in ["curl 'https://h", "curl https://h -H", "curl \"a", "curl $'a\\"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
