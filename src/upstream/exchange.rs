//! One request and its answer over one open connection.
//!
//! Writing and reading go on at the same time: a server may answer before it has read the body, or never read it.

use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

use super::answer::{Framing, Head, can_be_answer, head_end, parse_head};
use super::chunks::Chunks;
use super::client::{Answer, CallError, Limits, Request};
use super::dial::{Connection, after};

/// Interim answers (1xx) before the final one.
const INTERIM_MAX: usize = 20;
/// Room for one read; most answers fit.
const READ_BYTES: usize = 8 * 1024;
/// Room for one read of a long body.
const LONG_READ_BYTES: usize = 256 * 1024;
/// After a longer answer the read buffer is not kept with the connection.
const KEPT_BUFFER_BYTES_MAX: usize = 64 * 1024;
/// How long the rest of a body may stand still after a 2xx that came before it was written.
const LINGER: Duration = Duration::from_secs(1);
/// How long after the end of a used connection a reset is waited for: more than any way to an app and back.
const RESET_WAIT: Duration = Duration::from_millis(250);

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The connection is given back where it can serve another call.
    Answered(Answer, Option<Connection>),
    /// A used connection ended before the peer had read the request, or one that only asks: nothing came of it.
    Unread(CallError),
    Failed(CallError),
}

/// Writes `request`, until so long after `now`, and reads the answer; `whole_at` is the end of the whole call.
pub(super) async fn exchange(
    connection: Connection,
    request: Request<'_>,
    limits: &Limits,
    now: Instant,
    whole_at: Instant,
) -> Outcome {
    // What is ready beside this one is made ready to be sent first: one request behind the other finds the app awake, while
    // one now and then wakes it each time, which costs more than the request.
    yield_now().await;
    let mut exchange = Exchange {
        connection,
        request,
        limits,
        whole_at,
        write_at: after(now, limits.write),
        answer_at: after(now, limits.first_byte),
        sending: Sending::Body,
        written: 0,
        read: 0,
    };
    match exchange.run().await {
        Ok((answer, reusable)) => {
            exchange.connection.used = true;
            if exchange.read > KEPT_BUFFER_BYTES_MAX {
                exchange.connection.buffer = BytesMut::new();
            }
            Outcome::Answered(answer, reusable.then_some(exchange.connection))
        }
        Err(Broke::Closed { error, reset }) => {
            let old = exchange.connection.used && exchange.read == 0;
            if old && (reset || request.is_safe() || exchange.was_not_read().await) {
                Outcome::Unread(error)
            } else {
                Outcome::Failed(error)
            }
        }
        Err(Broke::Other(error)) => Outcome::Failed(error),
    }
}

/// One exchange over a stream that is no socket: the answer, and whether the connection could serve another; for fuzzing.
///
/// # Errors
/// As a call has them.
#[cfg(any(test, fuzzing))]
pub async fn exchange_in_memory<S>(
    stream: S,
    request: Request<'_>,
    limits: &Limits,
) -> Result<(Answer, bool), CallError>
where
    S: tokio::io::AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = Connection {
        stream: super::dial::Stream::Memory(Box::new(stream)),
        buffer: BytesMut::new(),
        used: false,
        timer: super::timer::Timer::default(),
    };
    let now = Instant::now();
    let whole_at = after(now, limits.whole);
    match exchange(connection, request, limits, now, whole_at).await {
        Outcome::Answered(answer, reusable) => Ok((answer, reusable.is_some())),
        Outcome::Unread(error) | Outcome::Failed(error) => Err(error),
    }
}

struct Exchange<'a> {
    connection: Connection,
    request: Request<'a>,
    limits: &'a Limits,
    whole_at: Instant,
    write_at: Instant,
    /// Counts once the request is out.
    answer_at: Instant,
    sending: Sending,
    written: usize,
    /// Bytes of the answer that came, interim ones too.
    read: usize,
}

enum Sending {
    Body,
    Flush,
    Done,
    Failed(io::Error),
}

/// Why there is no answer.
enum Broke {
    /// The peer closed, or did so with bytes unread and therefore reset.
    Closed {
        error: CallError,
        reset: bool,
    },
    Other(CallError),
}

impl From<CallError> for Broke {
    fn from(error: CallError) -> Self {
        Self::Other(error)
    }
}

/// What is read at the moment.
#[derive(Clone, Copy)]
enum Part {
    Head,
    Body,
}

impl Exchange<'_> {
    /// The answer, and whether the connection can be used again.
    async fn run(&mut self) -> Result<(Answer, bool), Broke> {
        let head = self.read_head().await?;
        let Head {
            status,
            headers,
            framing,
            keep_alive,
        } = head;
        let (body, complete) = match self.read_body(framing).await {
            Ok(body) => (body, true),
            // The status is the answer; what breaks behind it costs only the connection.
            Err(_) if !self.limits.keep_body => (Bytes::new(), false),
            Err(error) => return Err(error),
        };
        if (200..300).contains(&status) {
            self.finish_sending(status).await?;
        }
        let reusable = complete
            && keep_alive
            && framing != Framing::UntilClose
            && matches!(self.sending, Sending::Done)
            && self.connection.buffer.is_empty();
        Ok((
            Answer {
                status,
                headers,
                body,
                at: Instant::now(),
            },
            reusable,
        ))
    }

    async fn read_head(&mut self) -> Result<Head, Broke> {
        let bytes_max = self.limits.head_bytes_max;
        let (mut scanned, mut skipped) = (0, 0);
        for _ in 0..=INTERIM_MAX {
            let end = loop {
                let buffer = &self.connection.buffer;
                let end = head_end(buffer, &mut scanned);
                if skipped + end.unwrap_or(buffer.len()) > bytes_max {
                    return Err(CallError::AnswerTooLarge(bytes_max).into());
                }
                if !can_be_answer(buffer) {
                    return Err(CallError::BadAnswer("it does not begin with HTTP/1.").into());
                }
                match end {
                    Some(end) => break end,
                    None => self.fill(Part::Head, READ_BYTES).await?,
                }
            };
            let bytes = self.connection.buffer.split_to(end).freeze();
            if let Some(head) = parse_head(&bytes, self.request.is_head, self.limits.keep_body)? {
                return Ok(head);
            }
            scanned = 0;
            skipped += end;
        }
        Err(CallError::BadAnswer("too many interim answers").into())
    }

    async fn read_body(&mut self, framing: Framing) -> Result<Bytes, Broke> {
        let Limits {
            body_bytes_max,
            keep_body,
            ..
        } = *self.limits;
        let too_large = || CallError::AnswerTooLarge(body_bytes_max);
        match framing {
            Framing::Empty => Ok(Bytes::new()),
            Framing::Length(length) => {
                let length = usize::try_from(length)
                    .ok()
                    .filter(|length| *length <= body_bytes_max);
                self.read_length(length.ok_or_else(too_large)?, keep_body).await
            }
            Framing::Chunked => {
                let (mut chunks, mut body, mut count) = (Chunks::new(), BytesMut::new(), 0);
                loop {
                    let read = chunks.read(&self.connection.buffer, |data| {
                        count += data.len();
                        if keep_body && count <= body_bytes_max {
                            body.extend_from_slice(data);
                        }
                    });
                    let used = read.map_err(|error| CallError::BadAnswer(error.0))?;
                    self.connection.buffer.advance(used);
                    if count > body_bytes_max {
                        return Err(too_large().into());
                    }
                    if chunks.is_done() {
                        return Ok(body.freeze());
                    }
                    self.fill(Part::Body, READ_BYTES).await?;
                }
            }
            Framing::UntilClose => {
                let mut count = 0;
                loop {
                    if !keep_body {
                        count += self.connection.buffer.len();
                        self.connection.buffer.clear();
                    }
                    if count + self.connection.buffer.len() > body_bytes_max {
                        return Err(too_large().into());
                    }
                    if self.read_more(Part::Body, READ_BYTES).await? == 0 {
                        return Ok(self.connection.buffer.split().freeze());
                    }
                }
            }
        }
    }

    async fn read_length(&mut self, length: usize, keep_body: bool) -> Result<Bytes, Broke> {
        let mut left = length;
        loop {
            let here = self.connection.buffer.len().min(left);
            if keep_body {
                if here == left {
                    return Ok(self.connection.buffer.split_to(left).freeze());
                }
            } else {
                self.connection.buffer.advance(here);
                left -= here;
                if left == 0 {
                    return Ok(Bytes::new());
                }
            }
            let missing = left - self.connection.buffer.len();
            self.fill(Part::Body, missing.clamp(READ_BYTES, LONG_READ_BYTES))
                .await?;
        }
    }

    /// Writes the rest of the body after an early 2xx: that app may go on reading what it has accepted.
    ///
    /// When nothing moves any more it is an error: the app cannot have taken what it was not sent.
    async fn finish_sending(&mut self, status: u16) -> Result<(), Broke> {
        let mut seen = None;
        let mut until = self.whole_at;
        std::future::poll_fn(|context| {
            self.poll_send(context);
            if matches!(self.sending, Sending::Done | Sending::Failed(_)) {
                return Poll::Ready(());
            }
            if seen.replace(self.written) != Some(self.written) {
                until = self.write_at.min(self.whole_at).min(Instant::now() + LINGER);
            }
            self.connection.timer.poll_past(context, until)
        })
        .await;
        match self.sending {
            Sending::Done => Ok(()),
            _ => Err(CallError::Broken {
                phase: "writing the request",
                reason: format!(
                    "status {status} came before the request was sent, and the rest was not read"
                )
                .into(),
            }
            .into()),
        }
    }

    /// Whether the peer, which has closed, had not read the whole request.
    ///
    /// A system resets a connection when bytes come for it, or lie there unread, that nobody is left to read. No reset
    /// means that the peer read everything and then closed, and may have acted on it.
    async fn was_not_read(&mut self) -> bool {
        if !matches!(self.sending, Sending::Done) {
            return true;
        }
        let until = after(Instant::now(), RESET_WAIT).min(self.whole_at);
        let reset = self.connection.stream.reset();
        timeout_at(until, reset).await.is_ok()
    }

    /// Reads at least one byte, and writes what can be written meanwhile.
    async fn fill(&mut self, part: Part, room: usize) -> Result<(), Broke> {
        if self.read_more(part, room).await? == 0 {
            return Err(self.closed(part, None));
        }
        Ok(())
    }

    /// The count of bytes read; 0 is the end of the connection.
    async fn read_more(&mut self, part: Part, room: usize) -> Result<usize, Broke> {
        self.connection.buffer.reserve(room);
        std::future::poll_fn(|context| self.poll_more(context, part)).await
    }

    fn poll_more(&mut self, context: &mut Context<'_>, part: Part) -> Poll<Result<usize, Broke>> {
        self.poll_send(context);
        let Connection { stream, buffer, .. } = &mut self.connection;
        match pin!(stream.read_buf(buffer)).poll(context) {
            Poll::Ready(Ok(count)) => {
                self.read += count;
                Poll::Ready(Ok(count))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.closed(part, Some(error)))),
            Poll::Pending => {
                let (at, timeout) = self.deadline(part);
                ready!(self.connection.timer.poll_past(context, at));
                Poll::Ready(Err(timeout.into()))
            }
        }
    }

    /// Writes as much as the connection takes.
    fn poll_send(&mut self, context: &mut Context<'_>) {
        loop {
            let mut stream = Pin::new(&mut self.connection.stream);
            let sent = match self.sending {
                Sending::Done | Sending::Failed(_) => return,
                Sending::Flush => stream.poll_flush(context).map_ok(|()| Sending::Done),
                Sending::Body => {
                    let Request { head, body, .. } = self.request;
                    let head_rest = head.get(self.written..).unwrap_or_default();
                    let body_rest = body
                        .get(self.written.saturating_sub(head.len())..)
                        .unwrap_or_default();
                    if head_rest.is_empty() && body_rest.is_empty() {
                        self.sending = Sending::Flush;
                        continue;
                    }
                    let both = [IoSlice::new(head_rest), IoSlice::new(body_rest)];
                    // An empty slice in front would be all that a writer of one slice sees.
                    let slices = if head_rest.is_empty() {
                        both.get(1..)
                    } else {
                        Some(&both[..])
                    };
                    stream
                        .as_mut()
                        .poll_write_vectored(context, slices.unwrap_or_default())
                        .map(|wrote| match wrote? {
                            0 => Err(io::ErrorKind::WriteZero.into()),
                            count => {
                                self.written += count;
                                Ok(Sending::Body)
                            }
                        })
                }
            };
            self.sending = match sent {
                Poll::Pending => return,
                Poll::Ready(Ok(next)) => next,
                // Not the end: the server may have answered before it closed.
                Poll::Ready(Err(error)) => Sending::Failed(error),
            };
            if matches!(self.sending, Sending::Done | Sending::Failed(_)) {
                self.answer_at = after(Instant::now(), self.limits.first_byte);
            }
        }
    }

    /// Until when `part` may be waited for, and what it means if that passes.
    fn deadline(&self, part: Part) -> (Instant, CallError) {
        let (at, after, phase) = match (&self.sending, part) {
            (Sending::Body | Sending::Flush, _) => (self.write_at, self.limits.write, "room to write"),
            (_, Part::Head) if self.connection.buffer.is_empty() => {
                (self.answer_at, self.limits.first_byte, "answer")
            }
            _ => (self.whole_at, self.limits.whole, "end of the answer"),
        };
        let after = if at <= self.whole_at {
            after
        } else {
            self.limits.whole
        };
        (at.min(self.whole_at), CallError::Timeout { phase, after })
    }

    /// The connection ended (`None`) or failed while `part` was read.
    fn closed(&mut self, part: Part, error: Option<io::Error>) -> Broke {
        let end = error
            .as_ref()
            .map_or(Some(End::Closed), |error| end_of(error.kind()));
        let ended = || "the peer closed the connection".into();
        let (phase, reason) = match (&self.sending, part) {
            // The earlier cause.
            (Sending::Failed(error), _) if self.read == 0 => {
                ("writing the request", error.to_string().into())
            }
            (_, Part::Head) if self.read == 0 => (
                "waiting for the answer",
                error.map_or_else(ended, |error| error.to_string().into()),
            ),
            _ => (
                "reading the answer",
                error.map_or_else(ended, |error| error.to_string().into()),
            ),
        };
        let error = CallError::Broken { phase, reason };
        match end {
            Some(end) => Broke::Closed {
                error,
                reset: end == End::Reset,
            },
            None => Broke::Other(error),
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

fn end_of(kind: io::ErrorKind) -> Option<End> {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    match kind {
        UnexpectedEof => Some(End::Closed),
        BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected => Some(End::Reset),
        _ => None,
    }
}
