//! Progress as qemu-img shows it: a percentage that is written over itself.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGUSR1;

use super::output::Channel;

/// How far the percentage moves before it is shown again, unless [`Progress::in_steps_of`] says otherwise.
const STEP_PERCENT: f64 = 1.0;

/// Whether somebody has asked by signal for one line of progress.
#[derive(Default)]
pub(super) struct ProgressWish(Arc<AtomicBool>);

impl ProgressWish {
    /// From now on the signal asks; it no longer ends the program.
    pub(super) fn listen() -> Self {
        let wish = Self::default();
        // Without it the program only lacks an answer to the signal.
        let _ = signal_hook::flag::register(SIGUSR1, Arc::clone(&wish.0));
        wish
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// A line of progress on an output. It ends with a newline when it is dropped.
pub(super) struct Progress<W: Write> {
    out: Option<W>,
    shown_percent: f64,
    step_percent: f64,
    wish: ProgressWish,
}

impl<W: Write> Progress<W> {
    /// Shows the beginning, if there is an output to show it on.
    pub(super) fn start(out: Option<W>, wish: ProgressWish) -> Self {
        let mut progress = Self { out, shown_percent: 0.0, step_percent: STEP_PERCENT, wish };
        progress.show(0.0);
        progress
    }

    /// The same with another step.
    pub(super) fn in_steps_of(mut self, percent: f64) -> Self {
        self.step_percent = percent;
        self
    }

    /// Shows how much of a total is done.
    pub(super) fn update(&mut self, done: u64, total: u64) {
        if total == 0 {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "two decimals are shown")]
        let percent = (done.min(total) as f64) / (total as f64) * 100.0;
        if self.wish.take() && self.out.is_none() {
            let _ = writeln!(Channel::Err, "    ({percent:.2}/100%)");
        }
        #[expect(clippy::float_cmp, reason = "both ends are exact and always shown")]
        if (percent - self.shown_percent).abs() > self.step_percent || percent == 0.0 || percent == 100.0 {
            self.show(percent);
        }
    }

    /// Shows the end.
    pub(super) fn finish(mut self) {
        self.show(100.0);
    }

    fn show(&mut self, percent: f64) {
        self.shown_percent = percent;
        if let Some(out) = &mut self.out {
            // Progress that nobody can see is no reason to stop.
            let _ = write!(out, "    ({percent:.2}/100%)\r").and_then(|()| out.flush());
        }
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        if let Some(out) = &mut self.out {
            let _ = out.write_all(b"\n").and_then(|()| out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_one_percent_and_both_ends_are_shown() {
        let mut out = Vec::new();
        let mut progress = Progress::start(Some(&mut out), ProgressWish::default());
        for done in [0, 5, 10, 15, 21, 100] {
            progress.update(done, 1000);
        }
        progress.finish();
        let shown = "    (0.00/100%)\r    (0.00/100%)\r    (1.50/100%)\r    (10.00/100%)\r    (100.00/100%)\r\n";
        assert_eq!(String::from_utf8(out).expect("UTF-8"), shown);
    }

    #[test]
    fn an_early_end_ends_the_line() {
        let mut out = Vec::new();
        drop(Progress::start(Some(&mut out), ProgressWish::default()));
        assert_eq!(out, b"    (0.00/100%)\r\n");
        Progress::<Vec<u8>>::start(None, ProgressWish::default()).update(1, 0);
    }
}
