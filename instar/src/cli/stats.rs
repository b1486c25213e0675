//! `--stats`: what a command's sandboxes took, as the host has counted it, for people and for programs.

use std::fmt::Write;
use std::time::{Duration, Instant};

use instar_abi::job::operation;

use super::output::complain;
use crate::devices::Counters;
use crate::effort::Effort;

/// A run of a sandbox: which operation's program it was, and what it took.
pub(super) type Run = (u32, Effort);

/// Measures a command.
pub(super) struct Stats {
    began: Instant,
    is_wanted: bool,
}

impl Stats {
    /// Begins.
    pub(super) fn begin(is_wanted: bool) -> Self {
        Self { began: Instant::now(), is_wanted }
    }

    /// Tells it on standard error, if anybody wants to know.
    pub(super) fn tell(&self, runs: &[Run]) {
        if self.is_wanted {
            complain(human(self.began.elapsed(), runs).trim_end());
        }
    }

    /// As the value of a member of a JSON object, if anybody wants to know.
    pub(super) fn as_json(&self, runs: &[Run]) -> Option<String> {
        self.is_wanted.then(|| json(self.began.elapsed(), runs))
    }
}

fn job_name(job_operation: u32) -> &'static str {
    match job_operation {
        operation::INFO => "info",
        operation::COMMIT => "commit",
        operation::REBASE => "rebase",
        _ => "unknown",
    }
}

fn totals(runs: &[Run]) -> (u64, Counters) {
    let mut counters = Counters::default();
    runs.iter().for_each(|(_, effort)| counters.add(&effort.devices));
    (runs.iter().fold(0, |sum: u64, (_, effort)| sum.saturating_add(effort.exits)), counters)
}

fn human(total: Duration, runs: &[Run]) -> String {
    let (exits, counters) = totals(runs);
    let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
    let mut text = format!("total time: {:.3} ms\nsandboxes: {}\n", milliseconds(total), runs.len());
    for (job_operation, effort) in runs {
        let (start, run) = (milliseconds(effort.start), milliseconds(effort.run));
        let name = job_name(*job_operation);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {name}: started in {start:.3} ms, ran for {run:.3} ms, {} exits", effort.exits);
    }
    let _ = writeln!(text, "exits: {exits}");
    for (name, count) in counters.fields() {
        let _ = writeln!(text, "{}: {count}", name.replace('_', " "));
    }
    text
}

fn json(total: Duration, runs: &[Run]) -> String {
    let (exits, counters) = totals(runs);
    let mut text = format!("{{\n        \"total_seconds\": {:.6},\n        \"exits\": {exits},\n", total.as_secs_f64());
    for (name, count) in counters.fields() {
        let _ = writeln!(text, "        \"{name}\": {count},");
    }
    let sandboxes: Vec<String> = runs
        .iter()
        .map(|(job_operation, effort)| {
            let (start, run) = (effort.start.as_secs_f64(), effort.run.as_secs_f64());
            let (name, exits) = (job_name(*job_operation), effort.exits);
            format!(
                "            {{\"job\": \"{name}\", \"start_seconds\": {start:.6}, \"run_seconds\": {run:.6}, \"exits\": {exits}}}"
            )
        })
        .collect();
    let _ = write!(text, "        \"sandboxes\": [\n{}\n        ]\n    }}", sandboxes.join(",\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs() -> Vec<Run> {
        let effort = |exits, reads| Effort {
            start: Duration::from_micros(1500),
            run: Duration::from_micros(250),
            exits,
            devices: Counters { reads, ..Counters::default() },
        };
        vec![(operation::INFO, effort(3, 2)), (operation::COMMIT, effort(4, 5))]
    }

    #[test]
    fn people_read_one_number_a_line() {
        let text = human(Duration::from_millis(12), &runs());
        let start = "total time: 12.000 ms\nsandboxes: 2\n    info: started in 1.500 ms, ran for 0.250 ms, 3 exits\n    \
                     commit: started in 1.500 ms, ran for 0.250 ms, 4 exits\nexits: 7\nreads: 7\nwrites: 0\n";
        assert!(text.starts_with(start), "{text}");
        assert!(text.ends_with("zeroed bytes: 0\n"), "{text}");
    }

    #[test]
    fn programs_read_an_object() {
        for runs in [runs(), Vec::new()] {
            let value: serde_json::Value = serde_json::from_str(&json(Duration::from_millis(12), &runs)).expect("JSON");
            assert_eq!(value["total_seconds"], 0.012);
            assert_eq!(value["sandboxes"].as_array().map(Vec::len), Some(runs.len()));
            assert_eq!(value["reads"], 7 * u64::from(!runs.is_empty()));
        }
        let value: serde_json::Value = serde_json::from_str(&json(Duration::ZERO, &runs())).expect("JSON");
        assert_eq!(value["sandboxes"][1]["job"], "commit");
        assert_eq!(value["sandboxes"][1]["start_seconds"], 0.0015);
    }
}
