//! Holds the bytes that a run writes to a rate.
//!
//! A token bucket, kept as the moment at which everything that was let through has had its time. Whoever wants to write asks
//! for a piece and sleeps until the piece has had its time as well; the watchdog does not count the host's time.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::direct::ALIGN_BYTES;

/// How much time that a slow disk has cost may be made up for: over ten seconds it adds 2 %.
const BURST: Duration = Duration::from_millis(200);
/// How many pieces a second are let through, where they are not too small.
const PIECES_A_SECOND: u64 = 50;
/// The longest piece in bytes.
const MAX_PIECE_BYTES: u64 = 256 << 10;

/// A limit in bytes per second, shared by all who write.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: u64,
    paid_until: Mutex<Instant>,
}

impl Throttle {
    /// No limit for 0.
    pub(super) fn new(bytes_per_second: u64) -> Option<Self> {
        (bytes_per_second != 0).then(|| Self { bytes_per_second, paid_until: Mutex::new(Instant::now()) })
    }

    /// The most bytes to ask for at once: so few that writing is smooth.
    pub(super) fn piece_bytes(&self) -> u64 {
        let align = ALIGN_BYTES as u64;
        (self.bytes_per_second / PIECES_A_SECOND / align * align).clamp(align, MAX_PIECE_BYTES)
    }

    /// Sleeps until `bytes` may be written.
    pub(super) fn wait_for(&self, bytes: u64) {
        let time = self.reserve(bytes, Instant::now());
        if !time.is_zero() {
            thread::sleep(time);
        }
    }

    /// Takes the tokens for `bytes`; returns how long to wait for them.
    fn reserve(&self, bytes: u64, now: Instant) -> Duration {
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let end = (*paid_until).max(earliest).checked_add(cost);
        // A time that the clock cannot hold is as good as never.
        *paid_until = end.unwrap_or_else(|| now + Duration::from_secs(u64::from(u32::MAX)));
        paid_until.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn tokens_come_at_the_rate() {
        let throttle = Throttle::new(1000).expect("a limit");
        let start = *throttle.paid_until.lock().expect("unused");
        assert_eq!(throttle.reserve(500, start), SECOND / 2);
        assert_eq!(throttle.reserve(500, start), SECOND);
        assert_eq!(throttle.reserve(1000, start + SECOND), SECOND);
    }

    #[test]
    fn an_idle_time_is_made_up_for_up_to_the_burst() {
        let throttle = Throttle::new(1000).expect("a limit");
        let start = *throttle.paid_until.lock().expect("unused");
        assert_eq!(throttle.reserve(1000, start + 9 * SECOND), SECOND - BURST);
    }

    #[test]
    fn pieces_are_short_but_not_too_short() {
        let piece = |rate| Throttle::new(rate).expect("a limit").piece_bytes();
        assert_eq!((piece(1), piece(1 << 20), piece(u64::MAX)), (4096, 20480, MAX_PIECE_BYTES));
        assert!(Throttle::new(0).is_none());
    }

    #[test]
    fn impossible_waits_do_not_overflow() {
        let throttle = Throttle::new(1).expect("a limit");
        let now = Instant::now();
        for _ in 0..3 {
            assert!(throttle.reserve(u64::MAX, now) > SECOND);
        }
    }
}
