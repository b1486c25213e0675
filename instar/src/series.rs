//! Runs one or more guest programs on the same files, one after the other and in one jail.
//!
//! In the jail nothing can be made any more, so that all machines are there before it closes. The files stay open all the time,
//! and so do their locks: nobody else can write between two runs.

use std::mem;
use std::time::Instant;

use crate::effort::Effort;
use crate::jail::Jail;
use crate::session::{Report, Session};
use crate::vm::{Vm, VmError, Watchdog};

/// Runs sessions on the same files, of which each may write to some. `goes_on` looks at each report, counted from 0, and says
/// whether the next session is run. Gives the reports of those that were, and what they took. The jail is closed right before
/// the first guest's first instruction; the process is then taken for one that ends soon, and the machines are left to that
/// end. The first session's limit counts for all.
///
/// # Errors
/// Every way in which one of them ends without a report that can be read; sessions on different files.
pub fn run(
    mut sessions: Vec<Session<'_>>,
    jail: Option<Jail<'_>>,
    goes_on: &mut dyn FnMut(usize, &Report) -> bool,
) -> Result<Vec<(Report, Effort)>, VmError> {
    let Some(first) = sessions.first() else { return Ok(Vec::new()) };
    if sessions.iter().any(|session| !uses_files_of(session, first)) {
        return Err(VmError::Config("a series of jobs has different files".to_owned()));
    }
    let (platform, limit, mut backends) = (first.platform, first.limit, first.backends()?);
    let jail = jail.map(|jail| Jail { runner: platform.kind(), ..jail });
    let mut began = Instant::now();
    let mut machines = Vec::with_capacity(sessions.len());
    let mut efforts = Vec::with_capacity(sessions.len());
    for session in &mut sessions {
        machines.push(session.machine(jail.as_ref())?);
        let now = Instant::now();
        efforts.push(Effort { start: now - began, ..Effort::default() });
        began = now;
    }
    let mut watchdog = platform.watchdog(limit)?;
    let mut warnings = match &jail {
        Some(jail) => {
            let layers = jail.close().map_err(VmError::Jail)?;
            layers.tell();
            layers.warnings()
        }
        None => Vec::new(),
    };
    if let Some(effort) = efforts.first_mut() {
        effort.start += began.elapsed();
    }
    let mut done = Vec::with_capacity(sessions.len());
    let mut result = Ok(());
    for (index, ((session, vm), mut effort)) in sessions.into_iter().zip(&mut machines).zip(efforts).enumerate() {
        match one(session, vm, backends, &mut watchdog, &mut effort) {
            Ok((report, given_back)) => {
                backends = given_back;
                let report = report.with_warnings(mem::take(&mut warnings));
                let goes_on = goes_on(index, &report);
                done.push((report, effort));
                if !goes_on {
                    break;
                }
            }
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    machines.into_iter().for_each(|machine| machine.leave(jail.is_some()));
    result.map(|()| done)
}

type Backends<'f> = Vec<crate::devices::Backend<'f>>;

fn one<'f>(
    session: Session<'_>,
    vm: &mut Vm,
    mut backends: Backends<'f>,
    watchdog: &mut Watchdog,
    effort: &mut Effort,
) -> Result<(Report, Backends<'f>), VmError> {
    for (backend, device) in backends.iter_mut().zip(session.devices) {
        backend.hand_over(device.writable).map_err(|error| VmError::setup("making what was written durable", error))?;
    }
    let began = Instant::now();
    let (report, backends, counters) = session.carry_out(vm, backends, watchdog)?;
    *effort = Effort { run: began.elapsed(), exits: vm.exits(), devices: counters, ..effort.clone() };
    Ok((report, backends))
}

fn uses_files_of(session: &Session<'_>, other: &Session<'_>) -> bool {
    session.devices.len() == other.devices.len()
        && session.devices.iter().zip(other.devices).all(|(own, other)| std::ptr::eq(own.file, other.file))
}
