//! The ways to show progress: qemu-img's line, a bar, lines of JSON, or nothing.
//!
//! Line and bar go to standard output, as qemu-img's line does; JSON goes to standard error, apart from the result.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::error::Failure;
use super::output::Channel;
use super::progress::{Progress, ProgressWish};
use crate::text::Printable;

/// How much time lies between two lines of JSON.
const JSON_PERIOD: Duration = Duration::from_millis(200);
/// What the bar looks like: done, rate, remaining time.
const BAR: &str = "[{wide_bar:.cyan}] {percent:>3}% {binary_bytes_per_sec} {eta} left ";
/// The same where images are counted.
const BAR_OF_IMAGES: &str = "[{wide_bar:.cyan}] {pos} of {len} images {eta} left ";

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Bytes of one disk.
    Bytes,
    /// Whole images.
    Images,
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Images => "images",
        }
    }

    /// Decimals of a rate that say something.
    fn decimals(self) -> usize {
        match self {
            Self::Bytes => 0,
            Self::Images => 3,
        }
    }

    fn bar(self) -> &'static str {
        match self {
            Self::Bytes => BAR,
            Self::Images => BAR_OF_IMAGES,
        }
    }
}

/// A way to show progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// qemu-img's line.
    Plain,
    /// A bar with rate and remaining time.
    Bar,
    /// Lines of JSON.
    Json,
    /// Nothing, but for an answer to the signal that asks.
    Silent,
}

impl Style {
    /// The style that the options ask for. `wanted` says whether progress is wanted at all where `how` does not say how.
    ///
    /// # Errors
    /// A word that is none of the five.
    pub(super) fn choose(
        command: &'static str,
        how: Option<&OsStr>,
        wanted: bool,
        quiet: bool,
    ) -> Result<Self, Failure> {
        let on_terminal = if Channel::Out.is_terminal() { Self::Bar } else { Self::Plain };
        let style = match how.map(OsStrExt::as_bytes) {
            None if !wanted => Self::Silent,
            None | Some(b"auto") => on_terminal,
            Some(b"plain") => Self::Plain,
            Some(b"bar") => Self::Bar,
            Some(b"json") => Self::Json,
            Some(b"none") => Self::Silent,
            Some(other) => {
                let text =
                    format!("--progress expects 'auto', 'plain', 'bar', 'json' or 'none', not '{}'", Printable(other));
                return Err(Failure::usage(command, text));
            }
        };
        Ok(if quiet { Self::Silent } else { style })
    }
}

/// Progress that is being shown.
pub(super) enum Meter {
    /// A line, or nothing.
    Line(Progress<Channel>),
    /// A bar.
    Bar(ProgressBar),
    /// JSON.
    Json(JsonLines<Channel>),
}

impl Meter {
    /// Shows the beginning of something that is counted in bytes.
    pub(super) fn start(style: Style, wish: ProgressWish) -> Self {
        Self::start_counting(Unit::Bytes, style, wish)
    }

    /// Shows the beginning.
    pub(super) fn start_counting(unit: Unit, style: Style, wish: ProgressWish) -> Self {
        match style {
            Style::Plain => Self::Line(Progress::start(Some(Channel::Out), wish)),
            Style::Silent => Self::Line(Progress::start(None, wish)),
            Style::Bar => {
                // Without a terminal there is nothing that a bar could be drawn on; then nothing is.
                let target = if Channel::Out.is_terminal() {
                    ProgressDrawTarget::stdout()
                } else {
                    ProgressDrawTarget::stderr()
                };
                let bar = ProgressBar::with_draw_target(Some(0), target);
                Self::Bar(bar.with_style(
                    ProgressStyle::with_template(unit.bar()).unwrap_or_else(|_| ProgressStyle::default_bar()),
                ))
            }
            Style::Json => Self::Json(JsonLines::start(unit, Channel::Err)),
        }
    }

    /// Has something else written, which must not be written over.
    pub(super) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match self {
            Self::Bar(bar) => bar.suspend(write),
            Self::Line(_) | Self::Json(_) => write(),
        }
    }

    /// Shows how much of a total is done, in the unit that is counted.
    pub(super) fn update(&mut self, done: u64, total: u64) {
        match self {
            Self::Line(progress) => progress.update(done, total),
            Self::Bar(bar) => {
                bar.set_length(total);
                bar.set_position(done.min(total));
            }
            Self::Json(lines) => lines.update(done, total),
        }
    }

    /// Shows the end.
    pub(super) fn finish(self) {
        match self {
            Self::Line(progress) => progress.finish(),
            Self::Bar(bar) => bar.finish(),
            Self::Json(lines) => lines.finish(),
        }
    }
}

/// One JSON object a line.
pub(super) struct JsonLines<W> {
    unit: Unit,
    out: W,
    start: Instant,
    last: Instant,
    done: u64,
    total: u64,
}

impl<W: Write> JsonLines<W> {
    fn start(unit: Unit, out: W) -> Self {
        let start = Instant::now();
        let mut lines = Self { unit, out, start, last: start, done: 0, total: 0 };
        lines.show(false);
        lines
    }

    fn update(&mut self, done: u64, total: u64) {
        (self.done, self.total) = (done.min(total), total);
        if self.last.elapsed() >= JSON_PERIOD {
            self.show(false);
        }
    }

    fn finish(mut self) {
        self.done = self.total;
        self.show(true);
    }

    fn show(&mut self, finished: bool) {
        self.last = Instant::now();
        let line = json_line(self.unit, self.done, self.total, self.start.elapsed(), finished);
        // Progress that nobody can see is no reason to stop.
        let _ = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
    }
}

fn json_line(unit: Unit, done: u64, total: u64, elapsed: Duration, finished: bool) -> String {
    #[expect(clippy::cast_precision_loss, reason = "rates and times are shown rounded")]
    let (done_f, total_f, seconds) = (done as f64, total as f64, elapsed.as_secs_f64());
    let percent = match (finished, total) {
        (true, _) => 100.0,
        (false, 0) => 0.0,
        (false, _) => done_f / total_f * 100.0,
    };
    let rate = if seconds > 0.0 { done_f / seconds } else { 0.0 };
    let remaining = if rate > 0.0 { format!("{:.1}", (total_f - done_f) / rate) } else { "null".to_owned() };
    let (unit, decimals) = (unit.name(), unit.decimals());
    format!(
        "{{\"done_{unit}\": {done}, \"total_{unit}\": {total}, \"percent\": {percent:.2}, \
         \"{unit}_per_second\": {rate:.decimals$}, \"remaining_seconds\": {remaining}, \"finished\": {finished}}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_choose_the_style_and_quiet_wins() {
        let choose = |how: Option<&str>, wanted, quiet| {
            Style::choose("commit", how.map(OsStr::new), wanted, quiet).expect("a known word")
        };
        assert_eq!(choose(None, false, false), Style::Silent);
        assert_eq!(choose(Some("plain"), false, false), Style::Plain);
        assert_eq!(choose(Some("bar"), true, false), Style::Bar);
        assert_eq!(choose(Some("none"), true, false), Style::Silent);
        assert_eq!(choose(Some("json"), true, true), Style::Silent);
        assert!(Style::choose("commit", Some(OsStr::new("Plain")), true, false).is_err());
    }

    #[test]
    fn lines_are_json_with_rate_and_remaining_time() {
        let line = json_line(Unit::Bytes, 50, 200, Duration::from_secs(2), false);
        let expected = "{\"done_bytes\": 50, \"total_bytes\": 200, \"percent\": 25.00, \"bytes_per_second\": 25, \
                        \"remaining_seconds\": 6.0, \"finished\": false}";
        assert_eq!(line, expected);
        let line = json_line(Unit::Images, 1, 4, Duration::from_secs(2), false);
        let expected = "{\"done_images\": 1, \"total_images\": 4, \"percent\": 25.00, \"images_per_second\": 0.500, \
                        \"remaining_seconds\": 6.0, \"finished\": false}";
        assert_eq!(line, expected);
        for (done, total, seconds) in [(0, 0, 0), (0, 5, 1), (u64::MAX, u64::MAX, 0), (5, 5, u64::MAX)] {
            let line = json_line(Unit::Images, done, total, Duration::from_secs(seconds), true);
            serde_json::from_str::<serde_json::Value>(&line).expect("JSON");
        }
    }

    #[test]
    fn the_templates_of_the_bar_are_valid() {
        for unit in [Unit::Bytes, Unit::Images] {
            ProgressStyle::with_template(unit.bar()).expect("a template");
        }
    }
}
