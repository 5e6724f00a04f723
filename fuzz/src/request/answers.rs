//! Reads the answers of one connection, strictly: nothing may stand between them or behind the last.

/// One answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'a> {
    pub(super) status: u16,
    pub(super) body: &'a [u8],
}

/// All of them; `None` when it is anything else. Where a HEAD may have been asked, a body may be missing.
pub(super) fn read(mut bytes: &[u8], heads: bool) -> Option<Vec<Answer<'_>>> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
        let mut lines = std::str::from_utf8(&bytes[..end]).ok()?.split("\r\n");
        let rest = &bytes[end + 4..];
        let (status, reason) = lines.next()?.strip_prefix("HTTP/1.1 ")?.split_at_checked(3)?;
        let status: u16 = status.parse().ok()?;
        (reason.len() > 1 && reason.starts_with(' ')).then_some(())?;
        if status == 100 {
            lines.next().is_none().then_some(())?;
            bytes = rest;
            continue;
        }
        let (mut length, mut closes, mut dates) = (None, false, 0);
        for line in lines {
            let (name, value) = line.split_once(": ")?;
            (!name.is_empty() && !value.is_empty() && !value.contains(['\r', '\n'])).then_some(())?;
            match name {
                "Content-Length" => length.replace(value.parse().ok()?).is_none().then_some(())?,
                "Connection" => closes = value == "close",
                "Date" => dates += 1,
                _ => {}
            }
        }
        (dates == 1).then_some(())?;
        let length: usize = length?;
        let bodiless = heads && (rest.is_empty() || rest.starts_with(b"HTTP/1.1 "));
        let (body, next) = rest.split_at_checked(if bodiless { 0 } else { length })?;
        answers.push(Answer { status, body });
        (!closes || next.is_empty()).then_some(())?;
        bytes = next;
    }
    Some(answers)
}
