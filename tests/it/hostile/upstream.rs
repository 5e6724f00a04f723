//! An upstream that takes nothing but one well-formed request after another, and remembers whatever else came.
//!
//! Its reader shares nothing with the gateway's: it splits at CRLF, and every doubt is a violation.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::support::PATIENCE;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    pub(super) target: String,
    /// Names as sent, values without the blank behind the colon.
    pub(super) fields: Vec<(String, Vec<u8>)>,
    pub(super) body: Vec<u8>,
}

impl Arrived {
    /// The values of a field, `_` and `-` being one.
    pub(super) fn values(&self, name: &str) -> Vec<&[u8]> {
        let named = |(candidate, value)| (merged(candidate) == name).then_some(value);
        self.fields
            .iter()
            .filter_map(|(candidate, value)| named((candidate, value.as_slice())))
            .collect()
    }
}

/// Listens on a free port of 127.0.0.1 and answers 200; ends when dropped.
pub(super) struct StrictApp {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
    stopping: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Arrived>,
    violations: Vec<String>,
}

impl StrictApp {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let acceptor = {
            let shared = shared.clone();
            std::thread::spawn(move || shared.accept(&listener))
        };
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for `count` requests, or a violation, and gives all that came. Panics when something came that is no
    /// well-formed request, or too little.
    pub(super) fn wait_for(&self, count: usize) -> Vec<Arrived> {
        let seen = self.shared.seen.lock().unwrap();
        let waiting = |seen: &mut Seen| seen.requests.len() < count && seen.violations.is_empty();
        let (seen, _) = self
            .shared
            .changed
            .wait_timeout_while(seen, PATIENCE, waiting)
            .unwrap();
        assert!(
            seen.violations.is_empty(),
            "not a well-formed request: {:#?}",
            seen.violations
        );
        assert!(
            seen.requests.len() >= count,
            "{} of {count} requests arrived within {PATIENCE:?}",
            seen.requests.len()
        );
        seen.requests.clone()
    }
}

impl Drop for StrictApp {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which then sees the flag.
        drop(TcpStream::connect(self.address));
        if let Some(acceptor) = self.acceptor.take() {
            drop(acceptor.join());
        }
        for stream in self.shared.open.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let Ok(copy) = stream.try_clone() else { continue };
            self.open.lock().unwrap().push(copy);
            let shared = self.clone();
            std::thread::spawn(move || shared.serve(stream));
        }
    }

    fn serve(&self, mut stream: TcpStream) {
        let host = stream.local_addr().unwrap().to_string();
        let (mut unread, mut chunk) = (Vec::new(), [0; 16 * 1024]);
        loop {
            match parse(&unread, &host) {
                Ok(None) => {}
                Ok(Some((request, used))) => {
                    unread.drain(..used);
                    self.note(|seen| seen.requests.push(request));
                    if stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                        .is_err()
                    {
                        return;
                    }
                    continue;
                }
                Err(violation) => {
                    let bytes = String::from_utf8_lossy(&unread).into_owned();
                    self.note(|seen| seen.violations.push(format!("{violation}: {bytes:?}")));
                    drop(stream.shutdown(Shutdown::Both));
                    return;
                }
            }
            match stream.read(&mut chunk) {
                Ok(count) if count > 0 => unread.extend_from_slice(&chunk[..count]),
                _ if unread.is_empty() || self.stopping.load(Ordering::SeqCst) => return,
                _ => {
                    let bytes = String::from_utf8_lossy(&unread).into_owned();
                    self.note(|seen| seen.violations.push(format!("bytes left at the end: {bytes:?}")));
                    return;
                }
            }
        }
    }

    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap());
        self.changed.notify_all();
    }
}

/// The request at the start of `bytes` and its length; `None` while it is incomplete.
fn parse(bytes: &[u8], host: &str) -> Result<Option<(Arrived, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    if split_lines(&bytes[..end])
        .flatten()
        .any(|byte| byte.is_ascii_control() && *byte != b'\t')
    {
        return Err("a control character in the head".to_owned());
    }
    let mut lines = split_lines(&bytes[..end]);
    let first = lines.next().unwrap_or_default();
    let first = std::str::from_utf8(first).map_err(|_| "the request line is not ASCII")?;
    let [method, target, version] = first.split(' ').collect::<Vec<_>>()[..] else {
        return Err(format!("not a request line: {first:?}"));
    };
    if !is_token(method.as_bytes()) || version != "HTTP/1.1" {
        return Err(format!("not a request line: {first:?}"));
    }
    if !target.starts_with('/') || !target.bytes().all(|byte| byte.is_ascii_graphic()) || target.contains('#')
    {
        return Err(format!("not a target: {target:?}"));
    }
    let mut fields = Vec::new();
    for line in lines {
        let colon = line
            .iter()
            .position(|byte| *byte == b':')
            .ok_or("a field without a colon")?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if !is_token(name) {
            return Err(format!("not a field name: {:?}", String::from_utf8_lossy(name)));
        }
        let value = value.strip_prefix(b" ").unwrap_or(value);
        fields.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
    }
    let mut request = Arrived {
        target: target.to_owned(),
        fields,
        body: Vec::new(),
    };
    check_fields(&request, host)?;
    let length: usize = String::from_utf8_lossy(request.values("content-length")[0])
        .parse()
        .map_err(|_| "Content-Length is not a number")?;
    let start = end + 4;
    // A body that only looks complete would show as a violation behind it.
    let Some(body) = bytes.get(start..start + length) else {
        return Ok(None);
    };
    request.body = body.to_vec();
    Ok(Some((request, start + length)))
}

fn check_fields(request: &Arrived, host: &str) -> Result<(), String> {
    let lengths = request.values("content-length");
    let [length] = lengths[..] else {
        return Err(format!("{} Content-Length", lengths.len()));
    };
    if length.is_empty() || !length.iter().all(u8::is_ascii_digit) || (length.len() > 1 && length[0] == b'0')
    {
        return Err("Content-Length is not a plain number".to_owned());
    }
    if request.values("host") != [host.as_bytes()] {
        return Err("Host is not the upstream's".to_owned());
    }
    for gone in [
        "connection",
        "expect",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    ] {
        if !request.values(gone).is_empty() {
            return Err(format!("{gone} was passed on"));
        }
    }
    for (name, _) in &request.fields {
        let merged = merged(name);
        let ours = merged.starts_with("hooklatch-");
        if ours && (name.contains('_') || request.values(&merged).len() != 1) {
            return Err(format!("{name} can be read in two ways"));
        }
    }
    if request.values("hooklatch-verified") != [b"true"] {
        return Err("not marked as verified".to_owned());
    }
    Ok(())
}

fn split_lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(head);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text.windows(2).position(|window| window == b"\r\n");
        rest = end.map(|end| &text[end + 2..]);
        Some(&text[..end.unwrap_or(text.len())])
    })
}

/// A field's name as apps behind CGI or WSGI know it.
fn merged(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

/// RFC 9110, 5.6.2.
pub(super) fn is_token(bytes: &[u8]) -> bool {
    let tchar = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(tchar)
}
