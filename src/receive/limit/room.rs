//! Room for the bytes of requests that are being read: counted as they come, and taken from the slowest when it runs out.
//!
//! A sender holds no room by announcing a body, only by sending one, but while most of it is free. Where there is none left, the request that has been
//! read for the longest time gives way: a genuine body is here within moments of its header. Those of senders that have
//! shown a genuine event give way last, and their small requests take what is freed first.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::{Standing, lock};
use crate::receive::answer::Refusal;

/// What is larger leaves a quarter of all room to what is not: webhooks are small, and a flood of large bodies must not
/// keep them out.
const SMALL_BYTES: usize = 64 * 1024;
/// A large body takes room only from one that has been read for this long: two that come at once do not starve each
/// other.
const SLOW: Duration = Duration::from_secs(1);
/// A request waits this long for room.
const WAIT: Duration = Duration::from_secs(1);
/// There is plenty of room while less than this part of it is taken.
const PLENTY: usize = 4;

/// The room of all requests together.
#[derive(Debug, Default)]
pub(super) struct Room {
    used: AtomicUsize,
    readers: Mutex<Readers>,
    /// Requests that wait for room.
    waiting: AtomicUsize,
    /// Small ones of known senders among them.
    first: AtomicUsize,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Readers {
    next: u64,
    /// By whether their sender is known, then the oldest first.
    reading: BTreeMap<Turn, Reader>,
}

/// In which order readers give way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    known: bool,
    number: u64,
}

#[derive(Debug)]
struct Reader {
    since: Instant,
    asked: Arc<Notify>,
}

/// How much room there is for a request.
#[derive(Debug, Clone, Copy)]
pub(in crate::receive) struct Ceiling {
    /// `bytes_in_flight`.
    pub(in crate::receive) all: usize,
    /// What is known of its sender.
    pub(in crate::receive) standing: Standing,
}

/// The room one request takes; given back when dropped.
#[derive(Debug)]
pub(in crate::receive) struct Share {
    room: Arc<Room>,
    held: usize,
    reader: Option<Turn>,
}

impl Room {
    pub(super) fn share(self: &Arc<Self>) -> Share {
        Share {
            room: self.clone(),
            held: 0,
            reader: None,
        }
    }

    fn take(&self, count: usize, ceiling: usize, is_first: bool) -> bool {
        if !is_first && self.first.load(Ordering::SeqCst) > 0 {
            return false;
        }
        self.used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                let more = used.checked_add(count)?;
                (more <= ceiling).then_some(more)
            })
            .is_ok()
    }

    fn give_back(&self, count: usize) {
        self.used.fetch_sub(count, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.freed.notify_waiters();
        }
    }

    /// Asks the request that has been read for the longest time, and for `patience` at least, to give way; one of a known
    /// sender where there is no other.
    fn ask_oldest(&self, patience: Duration, not: Option<Turn>) -> bool {
        let mut readers = lock(&self.readers);
        let is_slow = |reader: &Reader| reader.since.elapsed() >= patience;
        let from = |known| {
            let first = Turn { known, number: 0 };
            let mut oldest = readers
                .reading
                .range(first..)
                .filter(|(turn, _)| Some(**turn) != not);
            oldest
                .next()
                .filter(|(_, reader)| is_slow(reader))
                .map(|(turn, _)| *turn)
        };
        let Some(turn) = from(false).or_else(|| from(true)) else {
            return false;
        };
        if let Some(reader) = readers.reading.remove(&turn) {
            reader.asked.notify_one();
        }
        true
    }
}

impl Ceiling {
    /// How full it may be with a request of so many bytes in it.
    fn of(self, bytes: usize) -> usize {
        let spent = self.standing == Standing::Spent;
        let ceiling = match (bytes <= SMALL_BYTES, spent) {
            (true, _) => self.all,
            (false, false) => self.all / 4 * 3,
            (false, true) => self.all / 2,
        };
        // A body that a route allows must be able to come, where there is nothing else.
        if bytes > ceiling { self.all } else { ceiling }
    }

    /// Whether a request of so many bytes takes what is freed before others do.
    fn is_first(self, bytes: usize) -> bool {
        bytes <= SMALL_BYTES && self.standing == Standing::Known
    }
}

impl Share {
    /// Room for `bytes` in all; what is held already stays held.
    pub(in crate::receive) async fn hold(&mut self, bytes: usize, ceiling: Ceiling) -> Result<(), Refusal> {
        if self.try_hold(bytes, ceiling) {
            return Ok(());
        }
        let more = bytes.saturating_sub(self.held);
        let patience = match bytes <= SMALL_BYTES {
            true => Duration::ZERO,
            false => SLOW,
        };
        self.wait_for(more, ceiling.of(bytes), patience, ceiling.is_first(bytes))
            .await?;
        self.held = bytes;
        Ok(())
    }

    /// As [`Share::hold`], where there is room at once; `false`: there is not.
    pub(in crate::receive) fn try_hold(&mut self, bytes: usize, ceiling: Ceiling) -> bool {
        let Some(more) = bytes.checked_sub(self.held).filter(|more| *more > 0) else {
            return true;
        };
        let taken = self.room.take(more, ceiling.of(bytes), ceiling.is_first(bytes));
        if taken {
            self.held = bytes;
        }
        taken
    }

    /// As [`Share::try_hold`], where there is plenty of room: for bytes that have not come yet.
    pub(in crate::receive) fn try_hold_of_plenty(&mut self, bytes: usize, ceiling: Ceiling) -> bool {
        let all = ceiling.all / PLENTY;
        bytes <= all && self.try_hold(bytes, Ceiling { all, ..ceiling })
    }

    async fn wait_for(
        &self,
        more: usize,
        most: usize,
        patience: Duration,
        is_first: bool,
    ) -> Result<(), Refusal> {
        // More than there is: nobody could make room for it.
        if more > most {
            return Err(Refusal::Memory);
        }
        let room = &*self.room;
        let _waiting = Waiting::new(room, is_first);
        let deadline = Instant::now() + WAIT;
        loop {
            let mut freed = std::pin::pin!(room.freed.notified());
            freed.as_mut().enable();
            if room.take(more, most, is_first) {
                return Ok(());
            }
            let asked = room.ask_oldest(patience, self.reader);
            // A large body does not wait for others like it.
            if !asked && !patience.is_zero() {
                return Err(Refusal::Memory);
            }
            if timeout_at(deadline, freed).await.is_err() {
                return Err(Refusal::Memory);
            }
        }
    }

    /// From here on the request waits for its sender, and may be asked to give way.
    pub(in crate::receive) fn begin_reading(&mut self, standing: Standing) -> Arc<Notify> {
        self.end_reading();
        let asked = Arc::new(Notify::new());
        let mut readers = lock(&self.room.readers);
        let turn = Turn {
            known: standing == Standing::Known,
            number: readers.next,
        };
        readers.next += 1;
        let reader = Reader {
            since: Instant::now(),
            asked: asked.clone(),
        };
        readers.reading.insert(turn, reader);
        drop(readers);
        self.reader = Some(turn);
        asked
    }

    /// All of it is here: it is not asked any more.
    pub(in crate::receive) fn end_reading(&mut self) {
        if let Some(turn) = self.reader.take() {
            lock(&self.room.readers).reading.remove(&turn);
        }
    }

    /// Gives all room back.
    pub(in crate::receive) fn clear(&mut self) {
        self.end_reading();
        if self.held > 0 {
            self.room.give_back(std::mem::take(&mut self.held));
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Counts a request that waits for room.
struct Waiting<'a> {
    room: &'a Room,
    is_first: bool,
}

impl<'a> Waiting<'a> {
    fn new(room: &'a Room, is_first: bool) -> Self {
        room.waiting.fetch_add(1, Ordering::SeqCst);
        room.first.fetch_add(usize::from(is_first), Ordering::SeqCst);
        Self { room, is_first }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.room.waiting.fetch_sub(1, Ordering::SeqCst);
        let others = self
            .room
            .first
            .fetch_sub(usize::from(self.is_first), Ordering::SeqCst);
        // Who had to stand back looks again.
        if self.is_first && others == 1 {
            self.room.freed.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn ceiling(all: usize) -> Ceiling {
        Ceiling {
            all,
            standing: Standing::Unknown,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_given_back() {
        let room = Arc::new(Room::default());
        let (mut share, mut other) = (room.share(), room.share());
        share.hold(60, ceiling(100)).await.unwrap();
        assert_eq!(other.hold(41, ceiling(100)).await, Err(Refusal::Memory));
        share.hold(50, ceiling(100)).await.unwrap();
        assert_eq!(room.used.load(Ordering::SeqCst), 60, "what is held stays held");
        assert_eq!(share.hold(101, ceiling(100)).await, Err(Refusal::Memory));
        share.hold(100, ceiling(100)).await.unwrap();
        share.clear();
        other.hold(100, ceiling(100)).await.unwrap();
        drop(other);
        assert_eq!(room.used.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_small_body_waits_until_another_one_has_gone() {
        let room = Arc::new(Room::default());
        let mut held = room.share();
        held.hold(100, ceiling(100)).await.unwrap();
        let started = Instant::now();
        let waits = tokio::spawn({
            let mut share = room.share();
            async move { share.hold(1, ceiling(100)).await }
        });
        tokio::time::sleep(Duration::from_millis(300)).await;
        drop(held);
        assert_eq!(waits.await.unwrap(), Ok(()));
        assert_eq!(started.elapsed(), Duration::from_millis(300));
    }

    #[tokio::test(start_paused = true)]
    async fn the_one_that_has_been_read_for_longest_gives_way_to_a_small_one() {
        let room = Arc::new(Room::default());
        let (mut oldest, mut second, mut done) = (room.share(), room.share(), room.share());
        let asked = oldest.begin_reading(Standing::Unknown);
        let not_asked = second.begin_reading(Standing::Unknown);
        done.begin_reading(Standing::Unknown);
        for share in [&mut oldest, &mut second, &mut done] {
            share.hold(50, ceiling(150)).await.unwrap();
        }
        done.end_reading();
        let gives_way = tokio::spawn(async move {
            asked.notified().await;
            drop(oldest);
        });
        let mut genuine = room.share();
        genuine.hold(50, ceiling(150)).await.unwrap();
        gives_way.await.unwrap();
        let unheard = tokio::time::timeout(Duration::from_secs(1), not_asked.notified()).await;
        assert!(unheard.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn known_senders_give_way_last() {
        let room = Arc::new(Room::default());
        let (mut known, mut unknown, mut spent) = (room.share(), room.share(), room.share());
        let readers = [
            ("known", known.begin_reading(Standing::Known)),
            ("unknown", unknown.begin_reading(Standing::Unknown)),
            ("spent", spent.begin_reading(Standing::Spent)),
        ];
        let mut asked = Vec::new();
        while room.ask_oldest(Duration::ZERO, None) {
            for (name, reader) in &readers {
                if tokio::time::timeout(Duration::ZERO, reader.notified())
                    .await
                    .is_ok()
                {
                    asked.push(*name);
                }
            }
        }
        assert_eq!(asked, ["unknown", "spent", "known"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_freed_goes_to_known_senders_first() {
        let room = Arc::new(Room::default());
        let mut held = room.share();
        held.hold(100, ceiling(100)).await.unwrap();
        let (done, mut order) = tokio::sync::mpsc::channel(3);
        for (name, standing) in [
            ("unknown", Standing::Unknown),
            ("spent", Standing::Spent),
            ("known", Standing::Known),
        ] {
            let (mut share, done) = (room.share(), done.clone());
            tokio::spawn(async move {
                let waits = share.hold(60, Ceiling { all: 100, standing });
                waits.await.unwrap();
                done.send(name).await.unwrap();
                tokio::time::sleep(Duration::from_millis(10)).await;
            });
            tokio::task::yield_now().await;
        }
        drop(held);
        assert_eq!(order.recv().await, Some("known"));
        // And then to the others.
        assert!(order.recv().await.is_some() && order.recv().await.is_some());
        assert_eq!(room.first.load(Ordering::SeqCst), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn as_many_give_way_as_it_takes() {
        let room = Arc::new(Room::default());
        for _ in 0..10 {
            let mut share = room.share();
            let asked = share.begin_reading(Standing::Unknown);
            share.hold(10, ceiling(100)).await.unwrap();
            tokio::spawn(async move {
                asked.notified().await;
                drop(share);
            });
        }
        let mut genuine = room.share();
        genuine.hold(75, ceiling(100)).await.unwrap();
        assert_eq!(lock(&room.readers).reading.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_one_takes_room_from_the_slow_alone() {
        let room = Arc::new(Room::default());
        let mut young = room.share();
        let asked = young.begin_reading(Standing::Unknown);
        young.hold(150 * KIB, ceiling(200 * KIB)).await.unwrap();
        let mut large = room.share();
        assert_eq!(
            large.hold(65 * KIB, ceiling(200 * KIB)).await,
            Err(Refusal::Memory)
        );
        tokio::time::sleep(SLOW).await;
        let gives_way = tokio::spawn(async move {
            asked.notified().await;
            drop(young);
        });
        large.hold(65 * KIB, ceiling(200 * KIB)).await.unwrap();
        gives_way.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn room_for_what_is_announced_is_given_while_most_is_free() {
        let room = Arc::new(Room::default());
        let all = ceiling(1000 * KIB);
        let (mut announced, mut sent) = (room.share(), room.share());
        assert!(!announced.try_hold_of_plenty(251 * KIB, all), "more than plenty");
        assert!(announced.try_hold_of_plenty(250 * KIB, all));
        assert!(!sent.try_hold_of_plenty(KIB, all));
        sent.hold(KIB, all).await.unwrap();
        announced.clear();
        assert!(sent.try_hold_of_plenty(100 * KIB, all));
        assert_eq!(room.used.load(Ordering::SeqCst), 100 * KIB);
    }

    #[tokio::test(start_paused = true)]
    async fn large_ones_leave_room_for_small_ones() {
        let all = 1000 * KIB;
        for (name, bytes, standing, granted) in [
            ("a small one may fill it", 64 * KIB, Standing::Unknown, 15),
            ("also of a spent address", 64 * KIB, Standing::Spent, 15),
            (
                "a large one three quarters of it",
                65 * KIB,
                Standing::Unknown,
                11,
            ),
            ("also of a known sender", 65 * KIB, Standing::Known, 11),
            ("of a spent address half", 65 * KIB, Standing::Spent, 7),
        ] {
            let room = Arc::new(Room::default());
            let mut shares = Vec::new();
            loop {
                let mut share = room.share();
                if share.hold(bytes, Ceiling { all, standing }).await.is_err() {
                    break;
                }
                shares.push(share);
            }
            assert_eq!(shares.len(), granted, "{name}");
        }
    }
}
