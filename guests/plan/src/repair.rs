//! What the refcounts of a qcow2 image that was not closed properly have to become: references are counted by what they
//! are, and compared with what is recorded.
//!
//! Source: qcow2 format document, sections "Header" (dirty bit) and "Host cluster management".

use core::fmt;

/// What refers to a host cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The header, or a table that nothing else may refer to.
    Metadata,
    /// An L1 table: the cluster is an L2 table.
    Table,
    /// An L2 table: the cluster holds a guest cluster.
    Data,
    /// An L2 table: the cluster holds packed guest clusters, or parts of them.
    Packed,
}

/// References beyond this are not counted; no image within the format's limits gets there.
const COUNT_MAX: u32 = (1 << 26) - 1;
const OWNER_SHIFT: u32 = 26;
const OWNER_MASK: u32 = 7 << OWNER_SHIFT;
/// The L1 table that is being walked has led here already.
const SEEN: u32 = 1 << 31;
/// One L1 table leads here more than once.
const REPEATED: u32 = 1 << 30;

/// The references to one host cluster, in four bytes, as there are many clusters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct References(u32);

/// Two references that exclude each other, or more of them than can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conflict;

impl References {
    /// Counts one more.
    ///
    /// # Errors
    /// If the cluster is something else already, or cannot be shared.
    pub fn add(&mut self, owner: Owner) -> Result<(), Conflict> {
        let bits = (owner as u32 + 1) << OWNER_SHIFT;
        let known = self.0 & OWNER_MASK;
        let is_shareable = known == 0 || (known == bits && owner != Owner::Metadata);
        if !is_shareable || self.0 & COUNT_MAX == COUNT_MAX {
            return Err(Conflict);
        }
        if self.0 & SEEN != 0 {
            self.0 |= REPEATED;
        }
        if matches!(owner, Owner::Table | Owner::Data) {
            self.0 |= SEEN;
        }
        self.0 = (self.0 | bits) + 1;
        Ok(())
    }

    /// Another L1 table is going to be walked.
    pub fn begin_tree(&mut self) {
        self.0 &= !SEEN;
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> u64 {
        (self.0 & COUNT_MAX).into()
    }
}

/// A refcount that has to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The host cluster.
    pub cluster: u64,
    /// The refcount as it is.
    pub recorded: u64,
    /// The number of references, which it has to become.
    pub references: u64,
}

/// What counting anew does not put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irreparable {
    /// One L1 table leads to the cluster from two places, and the refcount does not know: one of the two is wrong.
    UsedTwice,
    /// The refcounts are not wide enough for the number of references.
    DoesNotFit,
}

impl fmt::Display for Irreparable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UsedTwice => "is used twice",
            Self::DoesNotFit => "has more references than fit into its refcount",
        })
    }
}

impl core::error::Error for Irreparable {}

/// What has to happen to the refcount of `cluster`, which is `recorded` and can be at most `refcount_max`.
///
/// # Errors
/// If more is broken than the refcount.
pub fn plan_refcount(
    cluster: u64,
    recorded: u64,
    references: References,
    refcount_max: u64,
) -> Result<Option<Correction>, Irreparable> {
    let count = references.count();
    if recorded == count {
        return Ok(None);
    }
    if references.0 & REPEATED != 0 && recorded < count {
        return Err(Irreparable::UsedTwice);
    }
    if count > refcount_max {
        return Err(Irreparable::DoesNotFit);
    }
    Ok(Some(Correction { cluster, recorded, references: count }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(owners: &[Owner]) -> Result<References, Conflict> {
        let mut references = References::default();
        owners.iter().try_for_each(|owner| references.add(*owner))?;
        Ok(references)
    }

    #[test]
    fn clusters_have_one_kind_of_owner() {
        use Owner::{Data, Metadata, Packed, Table};
        for owners in [[Metadata, Metadata], [Metadata, Data], [Data, Table], [Table, Packed], [Packed, Data]] {
            assert_eq!(references(&owners), Err(Conflict), "{owners:?}");
        }
        assert_eq!(references(&[Packed, Packed, Packed]).unwrap().count(), 3);
        assert_eq!(references(&[]).unwrap().count(), 0);
    }

    #[test]
    fn snapshots_share_and_one_table_does_not() {
        let mut shared = references(&[Owner::Data]).unwrap();
        shared.begin_tree();
        shared.add(Owner::Data).unwrap();
        let correction = Correction { cluster: 7, recorded: 1, references: 2 };
        assert_eq!(plan_refcount(7, 1, shared, 65535), Ok(Some(correction)));
        let repeated = references(&[Owner::Data, Owner::Data]).unwrap();
        assert_eq!(plan_refcount(7, 1, repeated, 65535), Err(Irreparable::UsedTwice));
        assert_eq!(plan_refcount(7, 2, repeated, 65535), Ok(None), "a repaired image may well have such");
        let packed = references(&[Owner::Packed, Owner::Packed]).unwrap();
        assert!(plan_refcount(7, 0, packed, 65535).unwrap().is_some());
        assert_eq!(plan_refcount(7, 0, packed, 1), Err(Irreparable::DoesNotFit));
    }

    #[test]
    fn what_nothing_refers_to_becomes_free() {
        let correction = Correction { cluster: 9, recorded: 3, references: 0 };
        assert_eq!(plan_refcount(9, 3, References::default(), 1), Ok(Some(correction)));
        assert_eq!(plan_refcount(9, 0, References::default(), 1), Ok(None));
    }
}
