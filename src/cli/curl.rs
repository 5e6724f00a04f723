//! A request as a `curl` command, the form in which browsers and request inspectors hand it over.
//!
//! Headers and body are made as curl makes them. An option that is not known is refused: it could change either, and what is
//! then said about the signature would be false.

mod options;
mod words;

use std::borrow::Cow;
use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use self::options::{Data, Means, long, short};
use self::words::split;
use super::capture::{Capture, header, no_header};
use super::error::CliError;
use crate::fields::Fields;

const ENDS: CliError = CliError::Capture(Cow::Borrowed(
    "has a curl command that ends in the middle of an option",
));

/// Name and value of a header.
type Pair<'l> = (&'l [u8], &'l [u8]);

/// What stands behind the word `curl` of a command line; `None` when the text is none.
pub(super) fn command(text: &str) -> Option<&str> {
    let mut rest = text.trim_start();
    // As it stands in a terminal or a document.
    for before in ["$ ", "time "] {
        rest = rest.strip_prefix(before).unwrap_or(rest).trim_start();
    }
    let (program, arguments) = rest.split_once(|c: char| c.is_ascii_whitespace())?;
    let name = program.rsplit('/').next().unwrap_or_default();
    matches!(name, "curl" | "curl.exe").then_some(arguments)
}

/// Reads the arguments of curl; `input` is standard input, where the command did not come from it.
pub(super) fn parse(arguments: &str, input: Option<&mut dyn Read>) -> Result<Capture, CliError> {
    let mut reading = Reading {
        input,
        capture: Capture::default(),
        lines: Vec::new(),
        body: None,
        is_json: false,
    };
    let mut words = split(arguments)?.into_iter();
    while let Some(word) = words.next() {
        if let Some(option) = word.strip_prefix("--").filter(|option| !option.is_empty()) {
            reading.long(option, &mut words)?;
        } else if let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            reading.letters(letters, &mut words)?;
        } else {
            reading.url(word)?;
        }
    }
    reading.finish()
}

/// What was read so far.
struct Reading<'i> {
    input: Option<&'i mut dyn Read>,
    capture: Capture,
    /// Headers, as they were given.
    lines: Vec<Vec<u8>>,
    body: Option<Vec<u8>>,
    is_json: bool,
}

impl Reading<'_> {
    fn long(&mut self, option: &str, words: &mut impl Iterator<Item = String>) -> Result<(), CliError> {
        let (name, inline) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let means = long(name).ok_or_else(|| not_read(&format!("--{name}")))?;
        if means.takes_argument() {
            let value = inline.or_else(|| words.next()).ok_or(ENDS)?;
            return self.take(means, value);
        }
        self.take(means, String::new())
    }

    /// Several may stand in one word, and the last one's argument too: `-sXPOST`.
    fn letters(&mut self, letters: &str, words: &mut impl Iterator<Item = String>) -> Result<(), CliError> {
        let mut rest = letters.chars();
        while let Some(letter) = rest.next() {
            let means = short(letter).ok_or_else(|| not_read(&format!("-{letter}")))?;
            if means.takes_argument() {
                let inline = Some(rest.as_str()).filter(|value| !value.is_empty());
                let value = inline.map(str::to_owned).or_else(|| words.next()).ok_or(ENDS)?;
                return self.take(means, value);
            }
            self.take(means, String::new())?;
        }
        Ok(())
    }

    fn take(&mut self, means: Means, value: String) -> Result<(), CliError> {
        match means {
            Means::Nothing | Means::NothingWithArgument => {}
            Means::Header => match value.strip_prefix('@') {
                Some(path) => {
                    let text = self.file(path)?;
                    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
                    let lines = lines.filter(|line| !line.is_empty());
                    self.lines.extend(lines.map(<[u8]>::to_vec));
                }
                None => self.lines.push(value.into_bytes()),
            },
            Means::ValueOf(name) => self.lines.push(format!("{name}: {value}").into_bytes()),
            Means::Cookie if value.contains('=') => {
                self.lines.push(format!("Cookie: {value}").into_bytes());
            }
            Means::Cookie => {
                return Err(wrong(
                    "takes its cookies from a file; write them as -b NAME=VALUE",
                ));
            }
            Means::User if value.contains(':') => {
                let basic = STANDARD.encode(value);
                self.lines
                    .push(format!("Authorization: Basic {basic}").into_bytes());
            }
            Means::User => return Err(wrong("asks for the password of -u; write -u USER:PASSWORD")),
            Means::Bearer => self
                .lines
                .push(format!("Authorization: Bearer {value}").into_bytes()),
            Means::Method => self.capture.method = Some(value),
            Means::Head => self.capture.method = Some("HEAD".to_owned()),
            Means::Url => self.url(value)?,
            Means::Data(how) => self.data(how, value)?,
        }
        Ok(())
    }

    /// Two URLs are two requests; or one word is an argument that was taken for a URL.
    fn url(&mut self, url: String) -> Result<(), CliError> {
        match self.capture.target.replace(url) {
            None => Ok(()),
            Some(_) => Err(wrong(
                "has more than one URL; quote what belongs together, and leave one",
            )),
        }
    }

    fn data(&mut self, how: Data, value: String) -> Result<(), CliError> {
        let part = match (how, value.strip_prefix('@')) {
            (Data::Encoded, _) => self.encoded(&value)?,
            (Data::Raw, _) | (_, None) => value.into_bytes(),
            (Data::Text, Some(path)) => {
                let mut text = self.file(path)?;
                text.retain(|byte| !matches!(byte, b'\r' | b'\n' | 0));
                text
            }
            (Data::Binary | Data::Json, Some(path)) => self.file(path)?,
        };
        self.is_json |= how == Data::Json;
        match &mut self.body {
            Some(body) => {
                if how != Data::Json {
                    body.push(b'&');
                }
                body.extend(part);
            }
            None => self.body = Some(part),
        }
        Ok(())
    }

    /// `content`, `=content`, `name=content`, `@file` or `name@file`; the name is not encoded.
    fn encoded(&mut self, value: &str) -> Result<Vec<u8>, CliError> {
        let at = value.find('=').or_else(|| value.find('@'));
        let (name, content) = match at.and_then(|at| value.split_at_checked(at)) {
            None => ("", value.as_bytes().to_vec()),
            Some((name, content)) => match content.strip_prefix('@') {
                Some(path) => (name, self.file(path)?),
                None => (name, content.get(1..).unwrap_or_default().as_bytes().to_vec()),
            },
        };
        let mut part = match name {
            "" => String::new(),
            name => format!("{name}="),
        };
        for byte in content {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => part.push(byte.into()),
                b' ' => part.push('+'),
                other => part.push_str(&format!("%{other:02X}")),
            }
        }
        Ok(part.into_bytes())
    }

    /// A file, or standard input for `-`.
    fn file(&mut self, path: &str) -> Result<Vec<u8>, CliError> {
        if path != "-" {
            return std::fs::read(path).map_err(|error| CliError::File {
                path: path.into(),
                error,
            });
        }
        let input = self.input.as_mut().ok_or_else(|| {
            wrong("reads `@-`, standard input, where the command itself came from; put the command or the data in a file")
        })?;
        let mut bytes = Vec::new();
        input.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn finish(self) -> Result<Capture, CliError> {
        let mut capture = self.capture;
        let is_named = |name: &str| {
            self.lines.iter().any(|line| {
                let given = line.split(|byte| matches!(byte, b':' | b';')).next();
                given.is_some_and(|given| given.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
            })
        };
        let mut own: Vec<Pair<'_>> = Vec::new();
        let content_type = match self.is_json {
            true => &b"application/json"[..],
            false => b"application/x-www-form-urlencoded",
        };
        if self.body.is_some() && !is_named("content-type") {
            own.push((b"Content-Type", content_type));
        }
        if self.is_json && !is_named("accept") {
            own.push((b"Accept", b"application/json"));
        }
        let mut pairs = Vec::new();
        for (index, line) in self.lines.iter().enumerate() {
            pairs.extend(sent(line, index + 1)?);
        }
        pairs.extend(own);
        capture.headers = Fields::from_pairs(pairs);
        let method = if self.body.is_some() { "POST" } else { "GET" };
        capture.method.get_or_insert_with(|| method.to_owned());
        capture.body = self.body.unwrap_or_default();
        Ok(capture)
    }
}

impl Means {
    fn takes_argument(self) -> bool {
        !matches!(self, Self::Nothing | Self::Head)
    }
}

/// The header that curl sends for a line: none for `Name:`, an empty one for `Name;`.
fn sent(line: &[u8], number: usize) -> Result<Option<Pair<'_>>, CliError> {
    let trimmed = line.trim_ascii_end();
    if let Some(name) = trimmed.strip_suffix(b";").filter(|name| !name.contains(&b':')) {
        return Ok(Some((name, b"")));
    }
    if trimmed.ends_with(b":") && trimmed.iter().filter(|byte| **byte == b':').count() == 1 {
        return Ok(None);
    }
    let read =
        header(line).ok_or_else(|| no_header(&format!("header {number} of the curl command"), line))?;
    Ok(Some(read))
}

fn wrong(text: &str) -> CliError {
    CliError::Capture(format!("is a curl command that {text}").into())
}

/// The refusal of an option, which is named where it looks like one: a secret in a wrong place is not repeated.
fn not_read(option: &str) -> CliError {
    let shown = match option.len() <= 30
        && option
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte))
    {
        true => option,
        false => "an option",
    };
    let why = match option {
        "-F" | "--form" | "--form-string" => {
            "multipart forms have a boundary that curl draws; capture the request itself"
        }
        "-G" | "--get" => "write the data into the URL instead",
        "-T" | "--upload-file" => "use --data-binary @FILE and -X PUT instead",
        "-K" | "--config" => "write its options into the command",
        _ => "it may change headers or body; remove it if it does not, or capture the request itself",
    };
    wrong(&format!("has {shown}, which is not read here: {why}"))
}

#[cfg(test)]
mod tests;
