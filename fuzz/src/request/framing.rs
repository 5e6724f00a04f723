//! Where the requests of a connection begin and end, by the plain words of RFC 9112: to hold the gateway's reader to them.
//!
//! Lenient about everything but framing, since what the gateway refuses on top does not matter here.

/// A request that stands on the connection itself, not inside another's body.
#[derive(Debug)]
pub(super) struct Framed {
    pub(super) method: Vec<u8>,
    pub(super) target: Vec<u8>,
    pub(super) body: Vec<u8>,
}

/// The requests up to the first one whose end cannot be told.
pub(super) fn split(mut bytes: &[u8]) -> Vec<Framed> {
    let mut requests = Vec::new();
    loop {
        while let Some(rest) = bytes.strip_prefix(b"\r\n") {
            bytes = rest;
        }
        let Some((request, rest)) = first(bytes) else {
            return requests;
        };
        requests.push(request);
        bytes = rest;
    }
}

fn first(bytes: &[u8]) -> Option<(Framed, &[u8])> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, rest) = (&bytes[..end], &bytes[end + 4..]);
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut words = lines.next()?.split(|byte| *byte == b' ');
    let (method, target) = (words.next()?.to_vec(), words.next()?.to_vec());
    let (mut length, mut chunked) = (None, false);
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line[..colon].to_ascii_lowercase(), line[colon + 1..].trim_ascii());
        match &name[..] {
            b"content-length" if length.is_none() => {
                length = Some(std::str::from_utf8(value).ok()?.parse::<usize>().ok()?);
            }
            b"transfer-encoding" if !chunked && value.eq_ignore_ascii_case(b"chunked") => chunked = true,
            b"content-length" | b"transfer-encoding" => return None,
            _ => {}
        }
    }
    let (body, rest) = match (length, chunked) {
        (Some(_), true) => return None,
        (length, false) => {
            let (body, rest) = rest.split_at_checked(length.unwrap_or(0))?;
            (body.to_vec(), rest)
        }
        (None, true) => unchunk(rest)?,
    };
    let request = Framed { method, target, body };
    Some((request, rest))
}

fn unchunk(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    let line = |bytes: &[u8]| bytes.windows(2).position(|window| window == b"\r\n");
    loop {
        let end = line(bytes)?;
        let digits = bytes[..end]
            .iter()
            .take_while(|byte| byte.is_ascii_hexdigit())
            .count();
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[..digits]).ok()?, 16).ok()?;
        bytes = &bytes[end + 2..];
        if size == 0 {
            break;
        }
        let (data, rest) = bytes.split_at_checked(size)?;
        body.extend_from_slice(data);
        bytes = rest.strip_prefix(b"\r\n")?;
    }
    loop {
        let end = line(bytes)?;
        let was = &bytes[..end];
        bytes = &bytes[end + 2..];
        if was.is_empty() {
            return Some((body, bytes));
        }
    }
}
