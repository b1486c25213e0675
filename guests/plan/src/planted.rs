//! Classic bugs that a test can plant, one at a time, to see whether the judges notice. Without the feature `planted-bugs`, which
//! no program has, [`is`] is constant and nothing of this is left in the code.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $name,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];
        }
    };
}

bugs! {
    /// A zero cluster of the overlay does not get into the base.
    LostZeroCluster,
    /// The last cluster of the disk is left out if it is not whole.
    LostLastPartialCluster,
    /// The bit of a neighbouring subcluster is set.
    WrongSubclusterBit,
    /// A new cluster gets one reference too many.
    RefcountTooHigh,
    /// A new cluster gets no reference.
    RefcountMissing,
    /// Windows of the L2 tables that are read together are all taken for the first of them.
    StaleL2Window,
    /// New entries do not say that their cluster belongs to them alone.
    WrongCopiedFlag,
    /// A compressed cluster that is replaced keeps its references.
    CompressedRefcountKept,
    /// Enabled bitmaps do not record what changes.
    BitmapNotUpdated,
    /// The base does not grow with the overlay.
    BaseNotGrown,
    /// A rebase takes everything that it compares for equal.
    EverythingComparesEqual,
    /// Tables do not wait for the data that they show.
    NoBarrierBeforeTables,
    /// The overlay does not wait for the base's tables before it forgets.
    NoBarrierBeforeEmptying,
    /// Space is given back before the tables stop showing it.
    ReleasedTooEarly,
    /// An overlay is rebuilt without being marked dirty.
    RebuiltWithoutDirtyBit,
    /// The header names the new backing file before the overlay holds what it needs.
    HeaderSwitchedTooEarly,
    /// A header of several sectors is written in one piece.
    HeaderTorn,
    /// An external data file is cleared before the tables stop showing it.
    DataFileClearedTooEarly,
}

#[cfg(not(feature = "planted-bugs"))]
mod choice {
    /// No bug is planted.
    #[must_use]
    pub const fn is(_: super::Bug) -> bool {
        false
    }
}

#[cfg(feature = "planted-bugs")]
mod choice {
    use core::sync::atomic::{AtomicUsize, Ordering};

    use super::Bug;

    const NONE: usize = usize::MAX;
    static PLANTED: AtomicUsize = AtomicUsize::new(NONE);

    /// Whether this bug is planted.
    #[must_use]
    pub fn is(bug: Bug) -> bool {
        PLANTED.load(Ordering::Relaxed) == bug as usize
    }

    /// Plants a bug in this whole process, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.store(bug.map_or(NONE, |bug| bug as usize), Ordering::Relaxed);
    }
}

pub use choice::*;
