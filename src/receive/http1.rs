//! HTTP/1.1 on one connection: heads and bodies under deadlines and caps, answers in one write.
//!
//! Our own reader, since a cap must hold while the header is read, not after it, and since what is refused must be
//! judged on the bytes as sent.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::answer::{Answer, Refusal};
use super::body::{self, BodyBudget, BodySource};
use super::head::{Framing, Head};
use super::limit::{Ceiling, Share, Standing};
use super::settings::Limits;
use crate::upstream::{Chunks, Timer};

/// The first read of a connection. What a header takes beyond it is counted with the bodies.
const READ_BYTES: usize = 4096;
/// Of a body at once.
const PIECE_BYTES: usize = 64 * 1024;
/// Larger answers are written from where they are, after their head.
const COPY_BYTES_MAX: usize = 16 * 1024;
/// A sender must take an answer within this time, and longer by a second for every [`SLOWEST_READER`] bytes.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes per second.
const SLOWEST_READER: usize = 32 * 1024;
/// After an early answer this much of the rest of the request is read and dropped, so that the answer arrives: many
/// clients read it only once they have sent a whole body. None of it is kept.
const LINGER_BYTES: usize = 16 << 20;
const LINGER_READ_BYTES: usize = 32 * 1024;
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// One connection between requests.
#[derive(Debug)]
pub(super) struct Http1<S> {
    stream: S,
    /// Bytes read and not yet used.
    buffer: BytesMut,
    out: Vec<u8>,
    /// The request's body has not been read to its end.
    body: BodyState,
    /// Room for a large header, until the next one.
    share: Share,
    timer: Timer,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyState {
    Done,
    Unread {
        framing: Framing,
        expects_continue: bool,
    },
    Broken,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Http1<S> {
    pub(super) fn new(stream: S, share: Share) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            out: Vec::new(),
            body: BodyState::Done,
            share,
            timer: Timer::default(),
        }
    }

    /// Whether bytes of a next request are here.
    pub(super) fn begun(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next head. `Ok(None)`: the sender closed, or idled too long, between requests.
    ///
    /// A first request has `header_timeout` from `accepted`; a later one may be awaited for `keepalive_idle` from `now`, and has
    /// `header_timeout` from its first byte. `sender` is asked where a header is large.
    pub(super) async fn read_head(
        &mut self,
        limits: &Limits,
        now: Instant,
        accepted: Option<Instant>,
        sender: impl Fn() -> Standing,
    ) -> Result<Option<Head>, Refusal> {
        self.share.clear();
        // A large header leaves a large buffer behind; an idle connection has no use for it.
        if self.buffer.is_empty() && self.buffer.capacity() > READ_BYTES {
            self.buffer = BytesMut::new();
        }
        let ceiling = Ceiling {
            all: limits.bytes_in_flight,
            standing: Standing::Unknown,
        };
        let mut scan = HeadScan::default();
        let mut deadline = accepted.map(|accepted| accepted + limits.header_timeout);
        let mut asked = None;
        loop {
            if let Some(end) = scan.find_end(&mut self.buffer)? {
                if end > limits.header_bytes_max {
                    return Err(Refusal::HeaderTooLarge);
                }
                self.share.end_reading();
                let raw = self.buffer.split_to(end).freeze();
                let head = Head::parse(&raw, limits.header_fields_max)?;
                self.body = match head.framing {
                    Framing::Sized(0) => BodyState::Done,
                    framing => BodyState::Unread {
                        framing,
                        expects_continue: head.expects_continue,
                    },
                };
                return Ok(Some(head));
            }
            if self.buffer.len() > limits.header_bytes_max {
                return Err(Refusal::HeaderTooLarge);
            }
            if !self.buffer.is_empty() && deadline.is_none() {
                deadline = Some(Instant::now() + limits.header_timeout);
            }
            if self.buffer.len() >= READ_BYTES {
                asked.get_or_insert_with(|| self.share.begin_reading(sender()));
                self.share.hold(self.buffer.len(), ceiling).await?;
            }
            let until = deadline.unwrap_or(now + limits.keepalive_idle);
            self.buffer.reserve(READ_BYTES);
            let read = self.stream.read_buf(&mut self.buffer);
            let read = match &asked {
                None => self.timer.until(until, read).await,
                Some(asked) => tokio::select! {
                    biased;
                    read = self.timer.until(until, read) => read,
                    () = asked.notified() => return Err(Refusal::Memory),
                },
            };
            match read {
                Ok(Ok(0)) if self.buffer.is_empty() => return Ok(None),
                Ok(Ok(0)) => return Err(Refusal::Aborted),
                Ok(Ok(_)) => {}
                Ok(Err(_)) if self.buffer.is_empty() => return Ok(None),
                Ok(Err(_)) => return Err(Refusal::Aborted),
                // A kept-alive connection that nobody uses just ends; a first request that never came is told so.
                Err(_) if self.buffer.is_empty() && accepted.is_none() => return Ok(None),
                Err(_) => return Err(Refusal::HeaderTimeout),
            }
        }
    }

    /// Writes the answer to `request`, which is none when there was no head to read; `true` when the connection can
    /// serve another one. `stopping` ends the connection with this answer; `date` is its `Date`.
    pub(super) async fn write_answer(
        &mut self,
        answer: &Answer,
        request: Option<&Head>,
        stopping: bool,
        date: &[u8],
    ) -> bool {
        let wanted = request.is_some_and(|head| head.keep_alive) && !stopping && !answer.close;
        let reusable = wanted && self.drop_unread_body();
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        let persistence = match request {
            _ if !reusable => Persistence::Close,
            Some(head) if head.http_10 => Persistence::KeepAlive,
            _ => Persistence::Implied,
        };
        let is_head = request.is_some_and(|head| &*head.method == "HEAD");
        // What a HEAD was answered with has the length of a body that did not come.
        let sized = !(is_head && answer.relayed.is_some());
        write_head(&mut out, answer, sized, persistence, date);
        let body = if is_head { &[][..] } else { &answer.body[..] };
        let apart = body.len() > COPY_BYTES_MAX;
        if !apart {
            out.extend_from_slice(body);
        }
        let patience = WRITE_TIMEOUT + Duration::from_secs((body.len() / SLOWEST_READER) as u64);
        let mut write = pin!(async {
            self.stream.write_all(&out).await?;
            if apart {
                self.stream.write_all(body).await?;
            }
            self.stream.flush().await
        });
        // Nearly every one is taken at once, without a look at the clock.
        let written = match poll_fn(|context| Poll::Ready(write.as_mut().poll(context))).await {
            Poll::Ready(written) => Ok(written),
            Poll::Pending => timeout(patience, write.as_mut()).await,
        };
        if out.capacity() <= READ_BYTES {
            self.out = out;
        }
        matches!(written, Ok(Ok(()))) && reusable
    }

    /// Ends the connection so that the last answer arrives: a close with unread bytes would reset it.
    pub(super) async fn close(mut self) {
        let drain = async {
            self.stream.shutdown().await?;
            let mut dropped = self.buffer.len();
            while dropped < LINGER_BYTES {
                self.buffer.clear();
                self.buffer.reserve(LINGER_READ_BYTES);
                match self.stream.read_buf(&mut self.buffer).await? {
                    0 => break,
                    count => dropped += count,
                }
            }
            std::io::Result::Ok(())
        };
        // Whatever goes wrong here, the connection ends with this function.
        drop(timeout(LINGER_TIMEOUT, drain).await);
    }

    /// Drops a body that nobody wanted, if all of it is here already; `true` when the next request can follow.
    fn drop_unread_body(&mut self) -> bool {
        let dropped = match self.body {
            BodyState::Done => true,
            BodyState::Broken => false,
            BodyState::Unread { framing, .. } => match framing {
                Framing::Sized(length) => match usize::try_from(length) {
                    Ok(length) if length <= self.buffer.len() => {
                        self.buffer.advance(length);
                        true
                    }
                    _ => false,
                },
                Framing::Chunked => {
                    let mut chunks = Chunks::new();
                    match chunks.read(&self.buffer, |_| {}) {
                        Ok(used) if chunks.is_done() => {
                            self.buffer.advance(used);
                            true
                        }
                        Ok(_) | Err(_) => false,
                    }
                }
                Framing::Frames => false,
            },
        };
        self.body = if dropped {
            BodyState::Done
        } else {
            BodyState::Broken
        };
        dropped
    }

    /// The next `length` bytes, where they are here. A copy of its own: a buffer that a kept event holds on to is one that
    /// each request has to get anew.
    fn take_buffered(&mut self, length: usize) -> Option<Bytes> {
        let bytes = Bytes::copy_from_slice(self.buffer.get(..length)?);
        self.buffer.advance(length);
        Some(bytes)
    }

    async fn read_sized(&mut self, length: usize, budget: &mut BodyBudget) -> Result<Bytes, Refusal> {
        if self.buffer.len() >= length {
            budget.hold(length).await?;
            return Ok(self.take_buffered(length).unwrap_or_default());
        }
        let begun = std::mem::take(&mut self.buffer);
        let room = budget.hold(begun.len() + 1).await?.min(length);
        // A byte past the body, so that the last read gets less than it asked for: else tokio asks the socket once more before
        // it waits for the next request.
        let most = |room| room + usize::from(room == length);
        let mut body = Vec::with_capacity(most(room));
        body.extend_from_slice(&begun);
        drop(begun);
        while body.len() < length {
            // As large as there is room for: what is announced may never come.
            let room = budget.hold(body.len() + 1).await?.min(length);
            let left = most(room) - body.len();
            body.reserve_exact(left);
            let mut rest = (&mut self.stream).take(left.min(PIECE_BYTES) as u64);
            match rest.read_buf(&mut body).await {
                Ok(0) | Err(_) => return Err(Refusal::Aborted),
                Ok(_) => let_others_pass(body.len()).await,
            }
        }
        // It belongs to the next request.
        self.buffer
            .extend_from_slice(body.get(length..).unwrap_or_default());
        body.truncate(length);
        Ok(body.into())
    }

    async fn read_chunked(&mut self, budget: &mut BodyBudget) -> Result<Bytes, Refusal> {
        let mut chunks = Chunks::new();
        let mut body = BytesMut::new();
        loop {
            let used = chunks
                .read(&self.buffer, |piece| body.extend_from_slice(piece))
                .map_err(|error| Refusal::BadRequest(error.0))?;
            self.buffer.advance(used);
            let announced = usize::try_from(chunks.announced()).unwrap_or(usize::MAX);
            if body.len().saturating_add(announced) > budget.bytes_max {
                return Err(Refusal::BodyTooLarge);
            }
            if chunks.is_done() {
                return Ok(body.freeze());
            }
            // Room for the next read as well; framing is not counted.
            let room = body.len().saturating_add(READ_BYTES).min(budget.bytes_max);
            budget.hold(room).await?;
            self.buffer.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return Err(Refusal::Aborted),
                Ok(_) => let_others_pass(body.len()).await,
            }
        }
    }
}

/// A large body is read behind everything else that is ready: hundreds of them, copied without a break, would keep a
/// small one waiting.
async fn let_others_pass(bytes: usize) {
    if bytes >= PIECE_BYTES {
        yield_now().await;
    }
}

#[async_trait::async_trait]
impl<S: AsyncRead + AsyncWrite + Unpin + Send> BodySource for Http1<S> {
    fn is_here(&self) -> bool {
        match self.body {
            BodyState::Done => true,
            BodyState::Broken => false,
            BodyState::Unread { framing, .. } => match framing {
                Framing::Sized(length) => length <= self.buffer.len() as u64,
                Framing::Chunked => {
                    let mut chunks = Chunks::new();
                    chunks.read(&self.buffer, |_| {}).is_ok() && chunks.is_done()
                }
                Framing::Frames => false,
            },
        }
    }

    fn timer(&mut self) -> &mut Timer {
        &mut self.timer
    }

    fn take_here(&mut self, budget: &mut BodyBudget) -> Option<Bytes> {
        let BodyState::Unread {
            framing: Framing::Sized(length),
            ..
        } = self.body
        else {
            return None;
        };
        let length = usize::try_from(length).ok()?;
        if length > self.buffer.len() || !budget.try_hold(length) {
            return None;
        }
        let body = self.take_buffered(length)?;
        self.body = BodyState::Done;
        Some(body)
    }

    async fn read(&mut self, budget: &mut BodyBudget) -> Result<Bytes, Refusal> {
        let BodyState::Unread {
            framing,
            expects_continue,
        } = self.body
        else {
            return Ok(Bytes::new());
        };
        let is_here = self.is_here();
        self.body = BodyState::Broken;
        let asked = (!is_here).then(|| budget.begin_reading());
        let timeout = budget.timeout;
        let read = async {
            if expects_continue && self.buffer.is_empty() {
                let go_on = b"HTTP/1.1 100 Continue\r\n\r\n";
                self.stream.write_all(go_on).await.map_err(|_| Refusal::Aborted)?;
                self.stream.flush().await.map_err(|_| Refusal::Aborted)?;
            }
            match framing {
                Framing::Sized(length) => {
                    let length = usize::try_from(length).map_err(|_| Refusal::BodyTooLarge)?;
                    self.read_sized(length, budget).await
                }
                Framing::Chunked | Framing::Frames => self.read_chunked(budget).await,
            }
        };
        let body = match asked {
            None => read.await?,
            Some(asked) => body::in_time(read, &asked, timeout).await?,
        };
        budget.end_reading();
        self.body = BodyState::Done;
        Ok(body)
    }
}

/// Looks for the end of a head, each byte once, and gives up on what can never become one.
#[derive(Debug, Default)]
struct HeadScan {
    /// An empty line in front has been dropped.
    forgiven: bool,
    /// Bytes looked at.
    scanned: usize,
    /// Where the present line begins.
    line: usize,
}

impl HeadScan {
    /// The length of the head with its closing empty line.
    fn find_end(&mut self, buffer: &mut BytesMut) -> Result<Option<usize>, Refusal> {
        // RFC 9112, 2.2: one empty line before a request is forgiven.
        if self.scanned == 0 && !self.forgiven {
            if **buffer == *b"\r" {
                return Ok(None);
            }
            if buffer.starts_with(b"\r\n") {
                buffer.advance(2);
                self.forgiven = true;
            }
        }
        // It may come in pieces: until there are enough bytes to tell, each piece is looked at.
        if self.scanned <= METHOD_BYTES_MAX && !may_be_a_method(buffer) {
            return Err(Refusal::BadRequest("not an HTTP request"));
        }
        while let Some(found) = buffer
            .get(self.scanned..)
            .and_then(|rest| memchr::memchr(b'\n', rest))
        {
            let line_feed = self.scanned + found;
            if line_feed == 0 || buffer.get(line_feed - 1) != Some(&b'\r') {
                return Err(Refusal::BadRequest("a line ends in a bare LF"));
            }
            self.scanned = line_feed + 1;
            if line_feed - 1 == self.line {
                return Ok(Some(self.scanned));
            }
            self.line = self.scanned;
        }
        self.scanned = buffer.len();
        Ok(None)
    }
}

/// No method is longer.
const METHOD_BYTES_MAX: usize = 32;

/// Whether the first bytes can begin a request line: tokens, then a blank. A TLS hello on a plain port cannot.
fn may_be_a_method(start: &[u8]) -> bool {
    for (at, byte) in start.iter().enumerate() {
        match byte {
            b' ' => return at > 0,
            _ if at >= METHOD_BYTES_MAX => return false,
            b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~' => {}
            _ if byte.is_ascii_alphanumeric() => {}
            _ => return false,
        }
    }
    true
}

/// What an answer says about its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Persistence {
    Close,
    /// HTTP/1.0: a sender that asked for it must be told.
    KeepAlive,
    /// HTTP/1.1 keeps a connection unless told otherwise.
    Implied,
}

fn write_head(out: &mut Vec<u8>, answer: &Answer, sized: bool, persistence: Persistence, date: &[u8]) {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("Answer").as_bytes());
    out.extend_from_slice(b"\r\n");
    each_field(answer, date, |name, value| {
        out.extend_from_slice(name);
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    });
    // RFC 9110, 8.6: none with 1xx and 204, and with 304 only that of the body that did not change.
    if sized && !matches!(answer.status, 204 | 304) {
        out.extend_from_slice(b"Content-Length: ");
        out.extend_from_slice(answer.body.len().to_string().as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(match persistence {
        Persistence::Close => b"Connection: close\r\n",
        Persistence::KeepAlive => b"Connection: keep-alive\r\n",
        Persistence::Implied => b"",
    });
    out.extend_from_slice(b"\r\n");
}

/// Calls `put` with name and value of each field of an answer but for its framing; the same over HTTP/1.1 and HTTP/2.
pub(super) fn each_field(answer: &Answer, date: &[u8], mut put: impl FnMut(&[u8], &[u8])) {
    let mut dated = false;
    match &answer.relayed {
        Some(relayed) => {
            for (name, value) in relayed {
                dated |= name.eq_ignore_ascii_case(b"date");
                put(name, value);
            }
        }
        None => put(b"Content-Type", answer.content_type.as_bytes()),
    }
    if !dated {
        put(b"Date", date);
    }
    if let Some(seconds) = answer.retry_after {
        put(b"Retry-After", seconds.to_string().as_bytes());
    }
    if let Some(methods) = &answer.allow {
        put(b"Allow", methods.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receive::limit::Limiter;
    use tokio::io::duplex;

    fn limits() -> Limits {
        Limits {
            header_timeout: Duration::from_millis(200),
            header_bytes_max: 1024,
            header_fields_max: 10,
            body_timeout: Duration::from_millis(200),
            keepalive_idle: Duration::from_millis(300),
            ..crate::receive::sample::limits()
        }
    }

    fn budget(head: &Head) -> BodyBudget {
        let ceiling = Ceiling {
            all: 1 << 20,
            standing: Standing::Unknown,
        };
        let share = Limiter::new().share();
        BodyBudget::new(share, ceiling, head.declared_bytes(), 100, limits().body_timeout).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_empty_line_is_forgiven_and_no_more_however_they_come() {
        for step in 1..8 {
            let one = head_of(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", step).await;
            assert!(matches!(one, Ok(Some(_))), "{one:?}");
            let two = head_of(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", step).await;
            assert!(matches!(two, Err(Refusal::BadRequest(_))), "{two:?}");
        }
    }

    async fn head_of(wire: &[u8], step: usize) -> Result<Option<Head>, Refusal> {
        // Room for one step, so that no read gets more.
        let (mut far, near) = duplex(step);
        let wire = wire.to_vec();
        let sender = tokio::spawn(async move {
            // A head may be refused before its end.
            drop(far.write_all(&wire).await);
            far
        });
        let head = Http1::new(near, Limiter::new().share())
            .read_head(&limits(), Instant::now(), Some(Instant::now()), || {
                Standing::Unknown
            })
            .await;
        drop(sender.await);
        head
    }

    #[tokio::test]
    async fn what_cannot_become_a_head_is_refused_before_its_end() {
        for (name, wire) in [
            ("TLS hello", &b"\x16\x03\x01\x02\x00\x01"[..]),
            ("bare LF", b"POST / HTTP/1.1\nHost: a\n"),
            ("bare LF later", b"POST / HTTP/1.1\r\nHost: a\nX"),
            ("NUL in the method", b"PO\0ST / HTTP/1.1\r\n"),
            ("blank in front", b" POST / HTTP/1.1\r\n"),
        ] {
            let refusal = head_of(wire, wire.len()).await.unwrap_err();
            assert!(matches!(refusal, Refusal::BadRequest(_)), "{name}: {refusal}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_never_ends_times_out_and_a_long_one_is_refused() {
        assert_eq!(
            head_of(b"POST / HTTP/1.1\r\nHo", 64).await.unwrap_err(),
            Refusal::HeaderTimeout
        );
        assert_eq!(head_of(b"", 64).await.unwrap_err(), Refusal::HeaderTimeout);
        let long = [b"POST / HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 1100]].concat();
        assert_eq!(head_of(&long, 500).await.unwrap_err(), Refusal::HeaderTooLarge);
        let ended = [long, b"\r\n\r\n".to_vec()].concat();
        assert_eq!(
            head_of(&ended, ended.len()).await.unwrap_err(),
            Refusal::HeaderTooLarge
        );
    }

    #[tokio::test]
    async fn bodies_are_exact_in_any_pieces_and_the_next_request_stays() {
        let wire = b"\r\nPOST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloPOST /b HTTP/1.1\r\nHost: \
                     a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nworld\r\n0\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n";
        for step in [1, 2, 3, 7, 64, 4096] {
            let (mut far, near) = duplex(16);
            let sender = tokio::spawn(async move {
                for piece in wire.chunks(step) {
                    far.write_all(piece).await.unwrap();
                }
                far
            });
            let limits = limits();
            let mut connection = Http1::new(near, Limiter::new().share());
            for (path, body) in [("/a", "hello"), ("/b", "world"), ("/c", "")] {
                let head = connection
                    .read_head(&limits, Instant::now(), (path == "/a").then(Instant::now), || {
                        Standing::Unknown
                    })
                    .await
                    .unwrap()
                    .unwrap();
                assert_eq!(&*head.path, path);
                let mut budget = budget(&head);
                assert_eq!(
                    connection.read(&mut budget).await.unwrap(),
                    body,
                    "in steps of {step}"
                );
            }
            drop(sender.await.unwrap());
            assert!(
                connection
                    .read_head(&limits, Instant::now(), None, || Standing::Unknown)
                    .await
                    .unwrap()
                    .is_none()
            );
        }
    }

    #[tokio::test]
    async fn a_body_is_taken_at_once_only_where_all_of_it_and_room_are_here() {
        for (name, head, body, room, taken) in [
            ("all of it", "Content-Length: 5", "helloGET /", 1 << 20, true),
            ("a part of it", "Content-Length: 5", "hell", 1 << 20, false),
            ("no room", "Content-Length: 5", "hello", 4, false),
            (
                "no length",
                "Transfer-Encoding: chunked",
                "0\r\n\r\n",
                1 << 20,
                false,
            ),
        ] {
            let (mut far, near) = duplex(1024);
            let wire = format!("POST / HTTP/1.1\r\nHost: a\r\n{head}\r\n\r\n{body}");
            far.write_all(wire.as_bytes()).await.unwrap();
            let mut connection = Http1::new(near, Limiter::new().share());
            let head = connection
                .read_head(&limits(), Instant::now(), Some(Instant::now()), || {
                    Standing::Unknown
                })
                .await
                .unwrap()
                .unwrap();
            let ceiling = Ceiling {
                all: room,
                standing: Standing::Unknown,
            };
            let share = Limiter::new().share();
            let mut budget =
                BodyBudget::new(share, ceiling, head.declared_bytes(), 100, limits().body_timeout).unwrap();
            let got = connection.take_here(&mut budget);
            assert_eq!(got.as_deref(), taken.then_some(&b"hello"[..]), "{name}");
            let left = if taken { "GET /" } else { body };
            assert_eq!(connection.buffer, left, "{name}");
        }
    }

    #[tokio::test]
    async fn the_sender_is_told_to_continue_only_when_the_body_is_wanted() {
        let (mut far, near) = duplex(1024);
        far.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
            .await
            .unwrap();
        let limits = limits();
        let mut connection = Http1::new(near, Limiter::new().share());
        let head = connection
            .read_head(&limits, Instant::now(), Some(Instant::now()), || {
                Standing::Unknown
            })
            .await
            .unwrap()
            .unwrap();
        let reader = tokio::spawn(async move {
            let mut budget = budget(&head);
            connection.read(&mut budget).await
        });
        let mut line = [0; 25];
        far.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
        far.write_all(b"{}").await.unwrap();
        assert_eq!(reader.await.unwrap().unwrap(), "{}");
    }
}
