//! What the job asks for, checked.

use alloc::vec::Vec;
use core::ops::Range;

use instar_abi::job::{RebaseJob, rebase_flag};
use instar_abi::report::error_kind;
use instar_plan::rebase::NewBacking;

use crate::job::Job;
use crate::layer::Result;
use crate::report::Failure;

/// How much of a rebase is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// All of it.
    Whole,
    /// Nothing: what the overlay shows over the old chain is digested.
    DigestOld,
    /// Everything but the header.
    CopyOnly,
    /// Nothing: what the overlay shows over the new chain is digested.
    DigestNew,
    /// The header alone.
    HeaderOnly,
}

/// A rebase job's own part.
pub(super) struct Order {
    /// How much is done.
    pub(super) step: Step,
    /// Only the header changes.
    pub(super) is_unsafe: bool,
    /// It is to change only where that needs nothing else.
    pub(super) if_plain: bool,
    /// What is copied is stored compressed.
    pub(super) compresses: bool,
    /// The layers of the old chain.
    pub(super) old: Range<u32>,
    /// The layers that only the new chain has.
    pub(super) new: Range<u32>,
    /// Which layer of the old chain, counted from 0, the new chain goes on with; the old chain's length where it does not.
    pub(super) join: usize,
    name: Vec<u8>,
    format_name: Vec<u8>,
}

impl Order {
    /// Reads and checks the job's own part.
    ///
    /// # Errors
    /// If it contradicts the job's layers, or itself.
    pub(super) fn read(job: &Job<'_>) -> Result<Self> {
        let part: RebaseJob = job.operation_part()?;
        let wrong = |text| Failure::new(error_kind::INTERNAL, 0, text);
        let old_end = part
            .old_layers
            .checked_add(1)
            .filter(|end| *end <= job.layer_count)
            .ok_or_else(|| wrong("the job has a shorter old chain than it says"))?;
        if !(1..=old_end).contains(&part.join_layer) {
            return Err(wrong("the job joins the chains at a layer that it does not have"));
        }
        let name = usize::try_from(part.name_length_bytes)
            .ok()
            .and_then(|length| part.name.get(..length))
            .ok_or_else(|| wrong("the job's backing name is longer than its field"))?;
        let format_length = part.format_name.iter().position(|byte| *byte == 0).unwrap_or(part.format_name.len());
        let steps = [
            (rebase_flag::DIGEST_OLD, Step::DigestOld),
            (rebase_flag::COPY_ONLY, Step::CopyOnly),
            (rebase_flag::DIGEST_NEW, Step::DigestNew),
            (rebase_flag::HEADER_ONLY, Step::HeaderOnly),
        ];
        let step = steps.into_iter().find(|(flag, _)| part.flags & flag != 0).map_or(Step::Whole, |(_, step)| step);
        Ok(Self {
            step,
            is_unsafe: part.flags & rebase_flag::UNSAFE != 0,
            if_plain: part.flags & rebase_flag::IF_PLAIN != 0,
            compresses: part.flags & rebase_flag::COMPRESS != 0,
            old: 1..old_end,
            new: old_end..job.layer_count,
            join: usize::try_from(part.join_layer - 1).map_err(|_| wrong("the job has too many layers"))?,
            name: name.to_vec(),
            format_name: part.format_name[..format_length].to_vec(),
        })
    }

    /// The layer that the overlay will be based on; `None` where the job does not have it.
    pub(super) fn parent(&self) -> Option<u32> {
        let joined = u32::try_from(self.join).ok().and_then(|join| self.old.start.checked_add(join));
        if self.new.is_empty() { joined.filter(|layer| self.old.contains(layer)) } else { Some(self.new.start) }
    }

    /// What the header is to say.
    pub(super) fn backing(&self) -> NewBacking<'_> {
        NewBacking { name: &self.name, format_name: &self.format_name }
    }
}
