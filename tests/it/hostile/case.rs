//! A case: bytes with places to fill in, and what must come of them.

/// What must come of a part of a case, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// 200, and the case's own body is delivered.
    Taken,
    /// 200 for the next `{good}` request.
    Good,
    /// This status; the connection goes on.
    Answered(u16),
    /// This status, and the connection ends.
    Refused(u16),
    /// 200 for the case's own body, and the connection ends.
    TakenLast,
    /// The connection ends without another answer, though the sender waits for one.
    Ended,
}

/// Bytes with places to fill in, and what must come of them.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) name: String,
    /// `{path}`, `{body}`, `{signature}` (of the body; `{digest}`, `{upper}` and `{base64}` are its digest), `{length}`,
    /// `{length+1}`, `{hex}`, `{chunked}`, `{good}` (a genuine request of its own) and `{evil}` (one that must never be
    /// seen) are filled in.
    pub(super) wire: Vec<u8>,
    pub(super) steps: Vec<Step>,
    /// What the upstream is called by, where that is not its plain path.
    pub(super) target: Option<String>,
}

impl Case {
    pub(super) fn new(name: impl Into<String>, wire: impl AsRef<[u8]>, steps: &[Step]) -> Self {
        Self {
            name: name.into(),
            wire: wire.as_ref().to_vec(),
            steps: steps.to_vec(),
            target: None,
        }
    }

    /// A genuine request but for these framing lines; `sent` stands behind the head.
    pub(super) fn framed(
        name: impl Into<String>,
        lines: impl AsRef<[u8]>,
        sent: impl AsRef<[u8]>,
        steps: &[Step],
    ) -> Self {
        let wire = [HEAD.as_bytes(), lines.as_ref(), b"\r\n", sent.as_ref()].concat();
        Self::new(name, wire, steps)
    }

    /// A genuine request with one part of its head replaced.
    pub(super) fn replaced(from: &str, to: impl AsRef<[u8]>, steps: &[Step]) -> Self {
        let head = format!("{HEAD}Content-Length: {{length}}\r\n\r\n");
        let at = head.find(from).unwrap();
        let (before, after) = (&head.as_bytes()[..at], &head.as_bytes()[at + from.len()..]);
        let wire = [before, to.as_ref(), after, b"{body}", evil_behind(steps)].concat();
        Self::new(shown(to.as_ref()), wire, steps)
    }

    /// A genuine request with one more field line.
    pub(super) fn with_line(line: impl AsRef<[u8]>, steps: &[Step]) -> Self {
        let line = line.as_ref();
        let lines = [line, b"\r\nContent-Length: {length}\r\n"].concat();
        let sent = [&b"{body}"[..], evil_behind(steps)].concat();
        Self::framed(shown(line), lines, sent, steps)
    }
}

/// What ends the connection has a request behind it that must not be read.
fn evil_behind(steps: &[Step]) -> &'static [u8] {
    match steps.last() {
        Some(Step::Refused(_) | Step::TakenLast) => b"{evil}",
        _ => b"",
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().take(80).collect()
}

/// Request line, host and signature of a genuine request.
pub(super) const HEAD: &str =
    "POST {path} HTTP/1.1\r\nHost: hooks.example\r\nX-Iverton-Signature: {signature}\r\n";
