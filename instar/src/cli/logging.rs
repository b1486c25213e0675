//! What `-v` shows: the events that the whole program emits, one a line on standard error, with the time since the start.
//!
//! Off unless asked for, and then an event costs one comparison. A line is one write: that is all a jailed process can do.

use std::io::{Stderr, stderr};
use std::sync::LazyLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::time::uptime;
use tracing_subscriber::fmt::writer::OptionalWriter;

use super::output::{is_kept, warn};
use crate::apart;

/// Asks for events too: off, error, warn, info, debug or trace.
const VARIABLE: &str = "INSTAR_LOG";
/// What it asks for. Looked up once, so that nonsense is told once.
static FROM_ENVIRONMENT: LazyLock<LevelFilter> = LazyLock::new(from_environment);

/// Starts showing events, if the command line or the environment asks for it.
pub(super) fn start(verbosity: u8) {
    let typed = match verbosity {
        0 => LevelFilter::OFF,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let level = typed.max(*FROM_ENVIRONMENT);
    if level == LevelFilter::OFF || is_kept() {
        return;
    }
    // A second start, by a command that stands behind `qemu-img`, changes nothing.
    let _ = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_timer(uptime())
        .with_target(false)
        .with_writer(writer)
        .try_init();
}

fn from_environment() -> LevelFilter {
    let Some(value) = std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) else { return LevelFilter::OFF };
    value.to_str().and_then(|level| level.parse().ok()).unwrap_or_else(|| {
        warn(&format!("{VARIABLE} is none of off, error, warn, info, debug and trace; it is passed over"));
        LevelFilter::OFF
    })
}

/// Standard error; nothing in a worker process, which has none.
fn writer() -> OptionalWriter<Stderr> {
    if apart::is_worker() { OptionalWriter::none() } else { OptionalWriter::some(stderr()) }
}
