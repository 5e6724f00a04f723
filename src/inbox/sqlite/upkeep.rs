//! What the committer does beside committing: copying the log, measuring space, figures, pruning.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension};

use super::committer::{Committer, Failed, Write};
use super::load::{Open, open_events, stray};
use super::place;
use super::prune::{Pruned, Pruner};
use super::row::EVENT_OVERHEAD_BYTES;
use super::schema::{PAGE_BYTES, as_i64, status};
use super::transaction::{Transaction, TxError};

/// Space is measured, and figures are refreshed, this often.
const TICK: Duration = Duration::from_secs(1);
/// Pages in the log before it is copied into the database. More of them make a longer pause, and fewer cost more syncs.
const WAL_PAGES: u64 = 120;
/// Kept free of events, for settlements and pruning.
const RESERVE_BYTES: u64 = 64 << 20;
/// Free pages given back to the volume per tick.
const VACUUM_PAGES: u64 = 1024;
/// Rows looked at per lane and tick for the oldest pending delivery.
const OLDEST_ROWS: usize = 512;

impl Committer {
    /// Copies the log into the database once it is long enough. SQLite's own hook would drop the error.
    pub(super) fn checkpoint(&mut self) -> Result<(), Failed> {
        self.log_grew = false;
        let bytes_max = self.shared.settings.bytes_max;
        let (pages, copied) = self.wal("PRAGMA wal_checkpoint(NOOP)")?;
        let waiting = pages.saturating_sub(copied);
        let threshold = WAL_PAGES.min(bytes_max / PAGE_BYTES / 16).max(16);
        if waiting >= threshold {
            self.wal("PRAGMA wal_checkpoint(PASSIVE)")?;
        }
        self.measure(waiting)
    }

    /// Pages in the log, and pages of it that were copied.
    pub(super) fn wal(&mut self, pragma: &str) -> Result<(u64, u64), Failed> {
        let result = self.conn.prepare_cached(pragma).and_then(|mut pragma| {
            pragma.query_row([], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))
        });
        match result.map_err(TxError::from) {
            Ok((pages, copied)) => Ok((pages.max(0).cast_unsigned(), copied.max(0).cast_unsigned())),
            Err(TxError::Busy) => Ok((0, 0)),
            Err(error) => self.rolled_back(error, Vec::new()).map(|()| (0, 0)),
        }
    }

    fn measure(&mut self, wal_pages: u64) -> Result<(), Failed> {
        let number = |pragma: &str| {
            self.conn
                .prepare_cached(pragma)
                .and_then(|mut pragma| pragma.query_row([], |row| row.get::<_, i64>(0)))
        };
        match number("PRAGMA page_count").and_then(|pages| Ok((pages, number("PRAGMA freelist_count")?))) {
            Ok((pages, free)) => {
                let pages = (pages - free).max(0).cast_unsigned() + wal_pages;
                self.database_bytes = pages * PAGE_BYTES;
                if self.room() == 0 {
                    self.shared.set_full(true);
                }
                Ok(())
            }
            Err(error) => self.rolled_back(error.into(), Vec::new()),
        }
    }

    /// Bytes that events may still take.
    pub(super) fn room(&self) -> u64 {
        let limit = self.limit();
        let reserve = RESERVE_BYTES.min(limit / 8);
        (limit - reserve).saturating_sub(self.used())
    }

    /// Bytes that the store takes, with those that rows to come will.
    fn used(&self) -> u64 {
        let rows = self.beside.unindexed.len() * EVENT_OVERHEAD_BYTES;
        self.database_bytes + self.beside.segments.taken() + rows as u64
    }

    /// Bytes that the store may take on this volume now.
    fn limit(&self) -> u64 {
        self.shared.figures.limit_bytes.load(Ordering::Relaxed)
    }

    /// Once a second: space, figures, the oldest pending of each lane.
    pub(super) fn tick(&mut self) -> Result<(), Failed> {
        self.next_tick = Instant::now() + TICK;
        if let Err(reason) = self.shared.check_files() {
            return self.rolled_back(TxError::Final(reason), Vec::new());
        }
        if self.beside.unindexed.since().is_some() && !self.is_held() {
            // What is looked for below is looked for among the rows.
            self.commit(Write::All)?;
        }
        let (pages, copied) = self.wal("PRAGMA wal_checkpoint(NOOP)")?;
        if pages > copied {
            // Also copies what a reader kept from being copied before.
            self.checkpoint()?;
        }
        self.remove_unused()?;
        if !self.is_held() {
            self.give_back()?;
        }
        self.measure(pages.saturating_sub(copied))?;
        self.no_room = self.no_room && self.is_out_of_room();
        let shared = &self.shared;
        // Without a figure the volume counts as having room: a write will tell.
        let free = place::free_bytes(&shared.settings.path).unwrap_or(u64::MAX);
        shared.figures.free_bytes.store(free, Ordering::Relaxed);
        let wal = self.file_bytes("-wal");
        shared.figures.wal_bytes.store(wal, Ordering::Relaxed);
        let taken = self.file_bytes("") + wal + self.file_bytes("-shm") + self.beside.segments.taken();
        shared.figures.store_bytes.store(taken, Ordering::Relaxed);
        let limit = limit_bytes(
            shared.settings.bytes_max,
            shared.settings.free_bytes_min,
            taken,
            free,
        );
        shared.figures.limit_bytes.store(limit, Ordering::Relaxed);
        shared.set_full(self.no_room || self.room() == 0);
        self.find_oldest()
    }

    /// Takes away the files of bodies that nothing names any more.
    fn remove_unused(&mut self) -> Result<(), Failed> {
        let unused = match self.beside.segments.find_unused(&self.conn) {
            Ok(unused) => unused,
            Err(error) => return self.rolled_back(error.into(), Vec::new()),
        };
        if unused.is_empty() {
            return Ok(());
        }
        // A claim that is reading may do so by rows of before: another time.
        let shared = self.shared.clone();
        let Ok(_alone) = shared.reading.try_write() else {
            return Ok(());
        };
        for segment in &unused {
            if let Err(error) = self.beside.segments.remove(*segment, &self.shared.bodies) {
                return self.rolled_back(error, Vec::new());
            }
        }
        if let Err(error) = self.beside.segments.sync_folder() {
            return self.rolled_back(error, Vec::new());
        }
        // A row without its file is harmless: it goes with the next try.
        let forgotten = self.slice(|_, tx| {
            for segment in &unused {
                tx.conn
                    .prepare_cached("DELETE FROM segment WHERE id = ?1")?
                    .execute([segment])?;
            }
            Ok(Pruned::default())
        });
        forgotten.map(drop)
    }

    /// Whether the files of the store cannot grow now.
    pub(super) fn is_out_of_room(&self) -> bool {
        let database = self.file_bytes("").max(self.file_bytes("-wal"));
        let longest = database.max(self.beside.segments.longest());
        place::is_out_of_room(&self.shared.settings.path, longest)
    }

    fn file_bytes(&self, suffix: &str) -> u64 {
        let file = self
            .shared
            .settings
            .path
            .join(format!("{}{suffix}", place::DB_FILE));
        std::fs::metadata(file).map_or(0, |meta| meta.len())
    }

    fn find_oldest(&mut self) -> Result<(), Failed> {
        let mut result = Ok(());
        for lane in self.shared.names.lanes() {
            if lane.pending.load(Ordering::Relaxed) <= 0 {
                lane.oldest.store(i64::MAX, Ordering::Relaxed);
                continue;
            }
            let (from, sets) = {
                let state = lane.lock();
                (state.oldest_from, state.sets.clone())
            };
            let found = oldest(&self.conn, lane.id, &sets, from);
            match found {
                Ok((seq, received_at)) => {
                    let mut state = lane.lock();
                    if state.oldest_from == from {
                        state.oldest_from = seq;
                    }
                    drop(state);
                    if let Some(received_at) = received_at {
                        lane.oldest.store(received_at, Ordering::Relaxed);
                    }
                }
                Err(error) => result = Err(error),
            }
        }
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.rolled_back(error.into(), Vec::new()),
        }
    }

    /// One slice of whatever is to go.
    pub(super) fn prune(&mut self) -> Result<(), Failed> {
        if self.is_held() {
            return Ok(());
        }
        self.pruner.rest();
        let mut found = 0;
        if self.used() > self.limit() / 5 * 4 && self.pruner.space_due() {
            let started = Instant::now();
            let pruned = self.slice(|pruner, tx| pruner.space(tx))?;
            if let Some(pruned) = pruned {
                found += pruned.removed + pruned.moved;
                self.pruner.space_done(&pruned, started.elapsed());
            }
        }
        if self.pruner.retention_due(&self.shared) {
            let started = Instant::now();
            let pruned = self.slice(|pruner, tx| pruner.retention(tx))?;
            if let Some(pruned) = pruned {
                found += pruned.removed;
                self.pruner.retention_done(&pruned, started.elapsed());
            }
        }
        if found > 0 {
            self.remove_unused()?;
        }
        Ok(())
    }

    /// A transaction of its own for what is not an event's.
    pub(super) fn slice(
        &mut self,
        work: impl FnOnce(&Pruner, &mut Transaction<'_>) -> Result<Pruned, TxError>,
    ) -> Result<Option<Pruned>, Failed> {
        let pruner = &self.pruner;
        let result = Transaction::run(
            &self.conn,
            &self.shared,
            &mut self.beside,
            &mut self.next_seq,
            |tx| {
                tx.write()?;
                work(pruner, tx)
            },
        );
        match result {
            Ok((pruned, effects)) => {
                effects.apply(&self.shared);
                if pruned.removed > 0 {
                    self.shared.telemetry.pruned(pruned.removed);
                    self.give_back()?;
                }
                if pruned.removed + pruned.moved > 0 {
                    self.checkpoint()?;
                }
                Ok(Some(pruned))
            }
            Err(error) => self.rolled_back(error, Vec::new()).map(|()| None),
        }
    }

    /// Gives pages back to the volume when a quarter of the file is free.
    fn give_back(&mut self) -> Result<(), Failed> {
        let result = self
            .conn
            .query_row(
                "SELECT p.page_count, f.freelist_count FROM pragma_page_count p, pragma_freelist_count f",
                [],
                |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
            )
            .and_then(|(pages, free)| {
                if free > pages / 4 {
                    let sql = format!("PRAGMA incremental_vacuum({})", as_i64(VACUUM_PAGES));
                    let mut vacuum = self.conn.prepare_cached(&sql)?;
                    // Each row is one page; ending early ends the work.
                    let mut rows = vacuum.query([])?;
                    while rows.next()?.is_some() {}
                }
                Ok(())
            });
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.rolled_back(error.into(), Vec::new()),
        }
    }
}

/// What a store of `taken` bytes may take on a volume with `free` bytes left. A volume that is smaller than `bytes_max`, or
/// that others fill, is a smaller store: what is delivered goes before anything is refused.
fn limit_bytes(bytes_max: u64, free_bytes_min: u64, taken: u64, free: u64) -> u64 {
    let left = taken.saturating_add(free).saturating_sub(free_bytes_min);
    left.min(bytes_max)
}

/// When the oldest pending delivery of a lane was received, and where to look next time.
fn oldest(
    conn: &Connection,
    lane: i64,
    sets: &[(i64, usize)],
    from: i64,
) -> rusqlite::Result<(i64, Option<i64>)> {
    let (met, to, _) = open_events(conn, lane, sets, from, OLDEST_ROWS)?;
    for Open { seq, row, .. } in met {
        if row.is_none_or(|status| status == status::PENDING) {
            let received: Option<i64> = conn
                .prepare_cached("SELECT received_at FROM event WHERE seq = ?1")?
                .query_row([seq], |row| row.get(0))
                .optional()?;
            return Ok((seq, Some(received.ok_or_else(|| stray(seq))?)));
        }
    }
    Ok((to, None))
}

#[cfg(test)]
mod tests {
    use super::limit_bytes;

    #[test]
    fn a_volume_that_is_short_is_a_smaller_store() {
        // Case, bytes_max, free_bytes_min, taken, free, limit.
        let cases = [
            ("room for all", 1000, 100, 300, 5000, 1000),
            ("a small volume, still empty", 1000, 100, 0, 500, 400),
            ("the same, half full: the limit stays", 1000, 100, 250, 250, 400),
            ("others took what was free", 1000, 100, 250, 50, 200),
            ("less is left than must stay free", 1000, 100, 0, 50, 0),
            ("no figure", 1000, 100, 300, u64::MAX, 1000),
        ];
        for (case, bytes_max, free_bytes_min, taken, free, limit) in cases {
            assert_eq!(
                limit_bytes(bytes_max, free_bytes_min, taken, free),
                limit,
                "{case}"
            );
        }
    }
}
