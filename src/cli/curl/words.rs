//! The words of a command, as a shell makes them.

use std::borrow::Cow;

use crate::cli::error::CliError;

/// Splits as a POSIX shell does, with `$'...'` of bash; variables and commands in it are not looked at.
pub(super) fn split(text: &str) -> Result<Vec<String>, CliError> {
    const OPEN: CliError = CliError::Capture(Cow::Borrowed(
        "has a curl command with a quote that is not closed",
    ));
    const REDIRECTED: CliError = CliError::Capture(Cow::Borrowed(
        "has a curl command with a redirection of the shell (`<` or `>`); remove it, and write the body with --data-binary @FILE",
    ));
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = text.chars().peekable();
    while let Some(character) = rest.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            // The command ends here: what follows is another one.
            '|' | '&' | ';' if word.is_none() => break,
            // Arguments may follow, and what is read from a file here would be missed.
            '<' | '>' if word.as_deref().is_none_or(is_number) => return Err(REDIRECTED),
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

/// As in `2>/dev/null`.
fn is_number(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
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
