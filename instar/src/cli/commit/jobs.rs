//! The jobs that a commit is made of, in the sandbox: one, or with verification several; or their rehearsal.

use std::os::fd::AsFd;

use instar_abi::job::{CommitJob, commit_flag, format, operation};
use instar_abi::report::{CommitReport, error_kind, info_flag};
use instar_abi::wire::Wire;
use zeroize::Zeroizing;

use super::{COMMAND, Chain, How};
use crate::cli::error::Failure;
use crate::cli::job::{Devices, memory_bytes};
use crate::cli::meter::Meter;
use crate::cli::plan::{self, Moves, Subject, Wishes};
use crate::cli::sandbox::{Answer, Reported, Sandbox};
use crate::cli::stage::run_jobs;
use crate::cli::verdict::{AFTERWARDS, COPYING, Verdict};
use crate::cli::{repairs, room};
use crate::code::Code;
use crate::jail::Purpose;
use crate::vm::VmError;

impl Chain {
    pub(super) fn merge(
        &self,
        how: &How<'_>,
        mut progress: Meter,
        sandbox: &mut impl Sandbox,
    ) -> Result<CommitReport, Failure> {
        let jobs = self.jobs(how);
        let mut on_progress = |done, total| progress.update(done, total);
        let mut verdict = Verdict::default();
        let mut goes_on = |index, answer: &Answer| {
            answer.error().is_none() && (!how.verifies || verdict.goes_on(index, &answer.payload))
        };
        let memory_bytes = memory_bytes(&self.layers);
        let answers = run_jobs(sandbox, operation::COMMIT, &jobs, memory_bytes, &mut on_progress, &mut goes_on)
            .map_err(|error| Failure::Sandbox { image: self.name(0), error })?;
        let copying = answers.get(if how.verifies { COPYING } else { 0 });
        copying.into_iter().for_each(|answer| repairs::tell(&self.layers, &answer.payload));
        if let Some(part) = verdict.changed {
            // The overlay holds nothing there that could be written again.
            let hint =
                ", but shows that, too. Check the disk and restore the base before it is used or committed to again";
            return Err(self.verification_failure(self.base, part.to_string().as_bytes(), hint));
        }
        let Some(last) = answers.last() else {
            return Err(Failure::Sandbox { image: self.name(0), error: VmError::Report("there is none".to_owned()) });
        };
        if let Some(error) = last.error() {
            let is_verifying = how.verifies && answers.len() == AFTERWARDS + 1;
            return Err(if is_verifying {
                let hint = " and still reads as before: check the disk, then run the same command again";
                self.verification_failure(error.layer, &error.text, hint)
            } else {
                self.failure(error)
            });
        }
        progress.finish();
        self.report(last)
    }

    /// The jobs that make up the commit: all in one; or a look at what must not change, copying, comparing, and what the overlay
    /// may forget. Each may write to what it has to change, and to nothing else.
    fn jobs<'a>(&'a self, how: &How<'a>) -> Vec<(Devices<'a>, CommitJob)> {
        if !how.verifies {
            return vec![self.whole(how)];
        }
        let emptying = how.empties.then(|| self.part(how, commit_flag::EMPTY_ONLY, false, true));
        let digesting = self.part(how, commit_flag::DIGEST_ONLY, false, false);
        let copying = self.part(how, commit_flag::COPY_ONLY, true, self.is_dirty());
        let comparing = self.part(how, commit_flag::COMPARE_ONLY, false, false);
        [digesting, copying, comparing].into_iter().chain(emptying).collect()
    }

    /// The job that does everything.
    fn whole<'a>(&'a self, how: &How<'a>) -> (Devices<'a>, CommitJob) {
        self.part(how, 0, true, how.empties || self.is_dirty())
    }

    /// Whether the overlay was not closed properly: it is repaired then, whatever becomes of it.
    fn is_dirty(&self) -> bool {
        self.layers[0].summary.flags & info_flag::DIRTY != 0
    }

    /// A job, and the devices that it is about.
    fn part<'a>(
        &'a self,
        how: &How<'a>,
        own_flags: u32,
        writes_base: bool,
        writes_overlay: bool,
    ) -> (Devices<'a>, CommitJob) {
        let mut flags = if how.empties { commit_flag::EMPTY_OVERLAY } else { 0 };
        if self.layers[self.base].given_format == format::PROBE {
            flags |= commit_flag::BASE_FORMAT_PROBED;
        }
        let base_layer = u32::try_from(self.base).unwrap_or(u32::MAX);
        let devices =
            Devices::chain(&self.layers, |index| (writes_base && index == self.base) || (writes_overlay && index == 0))
                .with_secrets(&self.secrets)
                .flushed(how.flushing)
                .limited_to(how.bytes_per_second)
                .used_for(how.removal.map_or(Purpose::Writing, |removal| Purpose::Removing(removal.as_fd())));
        (devices, CommitJob { base_layer, flags: flags | own_flags })
    }

    fn report(&self, answer: &Answer) -> Result<CommitReport, Failure> {
        if answer.operation.len() < CommitReport::SIZE_BYTES {
            return Err(Failure::Sandbox { image: self.name(0), error: VmError::Report("it is cut off".to_owned()) });
        }
        Ok(CommitReport::get(&answer.operation))
    }

    /// Says what merging would do.
    pub(super) fn plan(&self, how: &How<'_>, wishes: &Wishes<'_>, sandbox: &mut impl Sandbox) -> Result<(), Failure> {
        let (devices, job) = self.rehearsed(how);
        let rehearsed = plan::rehearse(&self.layers, operation::COMMIT, &devices, &job, sandbox)?;
        if let Some(error) = rehearsed.answer.error() {
            return Err(self.failure(error));
        }
        let report = self.report(&rehearsed.answer)?;
        let subject = Subject { command: COMMAND, layers: &self.layers, target: self.base };
        let moves = Moves {
            bytes: report.bytes_committed,
            clusters: report.clusters_committed,
            cleared_clusters: report.overlay_clusters_cleared,
            deletes_overlay: how.removal.is_some(),
        };
        plan::show(&subject, &moves, &rehearsed, wishes, &devices, sandbox)
    }

    /// Refuses what cannot fit on the base's file system.
    pub(super) fn check_room(&self, how: &How<'_>, sandbox: &mut impl Sandbox) -> Result<(), Failure> {
        room::check(&self.layers, self.base, || self.rehearsed(how), sandbox)
    }

    /// What is rehearsed: everything at once, as verification changes nothing.
    fn rehearsed<'a>(&'a self, how: &How<'a>) -> (Devices<'a>, Zeroizing<Vec<u8>>) {
        let (devices, part) = self.whole(how);
        let job = devices.job(operation::COMMIT, &part);
        (devices, job)
    }

    /// What the guest program reported, as the user will read it.
    fn failure(&self, error: Reported) -> Failure {
        let (image, code) = (self.name(error.layer), error.code(Code::JobFailed));
        match error.kind {
            error_kind::OPEN => Failure::Open(error.into_open_error(&self.layers)),
            error_kind::CORRUPT | error_kind::UNSUPPORTED | error_kind::REFUSED => {
                Failure::Image { code, image, text: error.text }
            }
            error_kind::JOB | error_kind::STORAGE => Failure::Job { code, image, text: error.text },
            error_kind::INTERNAL => Failure::Sandbox { image, error: error.into_stop() },
            kind => Failure::Sandbox { image, error: VmError::Report(format!("unknown kind of error {kind}")) },
        }
    }

    /// What the fresh sandbox found when it read the base again, and what is to be done.
    fn verification_failure(&self, layer: usize, text: &[u8], hint: &str) -> Failure {
        let text =
            [b"Verification failed: ", text, b"; '", &self.name(0), b"' was not changed", hint.as_bytes()].concat();
        Failure::Image { code: Code::VerificationFailed, image: self.name(layer), text }
    }
}
