//! One child process: no standard input, captured output, a time limit.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a run left on its channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunOutput {
    /// Exit status; negative: killed by that signal; `None`: it was stopped at the time limit.
    pub rc: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
}

/// Reads a pipe to its end, in a thread of its own.
pub(crate) fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks ends the text; the exit status tells the rest.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

/// Runs `command` to its end or to the limit.
pub fn run(command: &mut Command, limit: Duration) -> io::Result<RunOutput> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let stdout = collect(child.stdout.take().expect("piped"));
    let stderr = collect(child.stderr.take().expect("piped"));
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if start.elapsed() > limit => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => {
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(20));
            }
        }
    };
    let rc = status.and_then(|status| status.code().or_else(|| status.signal().map(|signal| -signal)));
    let join = |handle: thread::JoinHandle<Vec<u8>>| handle.join().unwrap_or_default();
    Ok(RunOutput { rc, stdout: join(stdout), stderr: join(stderr) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_becomes_a_negative_status() {
        let output = run(Command::new("sh").args(["-c", "kill -SEGV $$"]), Duration::from_secs(10)).expect("runs");
        assert_eq!(output.rc, Some(-11));
    }

    #[test]
    fn hang_is_stopped_and_has_no_status() {
        let output = run(Command::new("sleep").arg("30"), Duration::from_millis(50)).expect("runs");
        assert_eq!(output.rc, None);
    }
}
