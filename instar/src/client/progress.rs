//! Progress of a running command: the newest state, for whoever wants to look at it or wait for the next one.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

/// How far a commit has come.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of the disk that the base has received.
    pub done_bytes: u64,
    /// Bytes that it will receive; 0 until that is known.
    pub total_bytes: u64,
    /// The first as a part of the second, from 0 to 100.
    pub percent: f64,
    /// How fast it is, since the beginning.
    pub bytes_per_second: f64,
    /// How long it will still take; `None` until that can be said.
    pub remaining_seconds: Option<f64>,
    /// Whether everything was done; never true before a success.
    pub finished: bool,
}

/// Where one thread puts the newest progress and others look.
#[derive(Debug, Default)]
pub(super) struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    newest: Option<Progress>,
    /// How often progress has been put here.
    count: u64,
    is_over: bool,
}

impl Board {
    pub(super) fn put(&self, progress: Progress) {
        let mut state = self.lock();
        (state.newest, state.count) = (Some(progress), state.count + 1);
        self.changed.notify_all();
    }

    /// Nothing will come any more.
    pub(super) fn end(&self) {
        self.lock().is_over = true;
        self.changed.notify_all();
    }

    pub(super) fn newest(&self) -> Option<Progress> {
        self.lock().newest
    }

    pub(super) fn updates(&self) -> Updates<'_> {
        Updates { board: self, seen: 0 }
    }

    /// The state is whole at every moment, so that a thread that has panicked does no harm.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Progress as it comes. Waits for the next one, which is always the newest: what came in between is left out. Ends when the command
/// does.
#[derive(Debug)]
pub struct Updates<'a> {
    board: &'a Board,
    seen: u64,
}

impl Iterator for Updates<'_> {
    type Item = Progress;

    fn next(&mut self) -> Option<Progress> {
        let seen = self.seen;
        let waits = |state: &mut State| state.count == seen && !state.is_over;
        let state = self.board.changed.wait_while(self.board.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        let is_new = state.count != seen;
        self.seen = state.count;
        state.newest.filter(|_| is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(done_bytes: u64) -> Progress {
        Progress {
            done_bytes,
            total_bytes: 10,
            percent: 0.0,
            bytes_per_second: 0.0,
            remaining_seconds: None,
            finished: false,
        }
    }

    #[test]
    fn only_the_newest_is_seen_and_the_end_comes_after_it() {
        let board = Board::default();
        let mut updates = board.updates();
        board.put(progress(1));
        board.put(progress(2));
        assert_eq!(updates.next(), Some(progress(2)));
        board.put(progress(3));
        board.end();
        assert_eq!(updates.next(), Some(progress(3)));
        assert_eq!(updates.next(), None);
        assert_eq!(board.updates().collect::<Vec<_>>(), [progress(3)]);
        assert_eq!(board.newest(), Some(progress(3)));
    }

    #[test]
    fn whoever_waits_is_woken() {
        let board = Board::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| board.updates().count());
            board.put(progress(1));
            board.end();
            assert!(waiting.join().expect("ends") <= 1);
        });
        let board = Board::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| board.updates().next());
            board.put(progress(1));
            assert_eq!(waiting.join().expect("ends"), Some(progress(1)));
        });
    }
}
