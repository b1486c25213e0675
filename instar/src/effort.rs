//! What a run of a guest program took: its exits, what it asked of its devices, and how long everything lasted.
//!
//! Counted by the host alone.

use std::time::Duration;

use crate::devices::Counters;

/// What one run took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// From the beginning to when the guest could start: making the machine, and closing the jail.
    pub start: Duration,
    /// From the guest's first instruction to its last.
    pub run: Duration,
    /// How often the processor left the guest.
    pub exits: u64,
    /// What devices were asked for.
    pub devices: Counters,
}

impl Effort {
    /// Length of an effort as bytes.
    pub const SIZE_BYTES: usize = 8 * (3 + Counters::COUNT);

    /// As bytes, for the way between two processes of this program.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let own = [nanoseconds(self.start), nanoseconds(self.run), self.exits];
        let counts = self.devices.fields().map(|(_, count)| count);
        own.into_iter().chain(counts).flat_map(u64::to_le_bytes).collect()
    }

    /// What [`Effort::to_bytes`] made; `None` for another number of bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        if bytes.len() != Self::SIZE_BYTES || !rest.is_empty() {
            return None;
        }
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut next = || words.next().unwrap_or(0);
        let (start, run) = (Duration::from_nanos(next()), Duration::from_nanos(next()));
        let mut effort = Self { start, run, exits: next(), devices: Counters::default() };
        effort.devices.fields_mut().into_iter().for_each(|field| *field = next());
        Some(effort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_bring_everything_back() {
        let mut effort =
            Effort { start: Duration::from_micros(1500), run: Duration::from_nanos(7), exits: 9, ..Effort::default() };
        effort.devices.fields_mut().into_iter().zip(1..).for_each(|(field, number)| *field = number);
        let bytes = effort.to_bytes();
        assert_eq!((bytes.len(), Effort::from_bytes(&bytes)), (Effort::SIZE_BYTES, Some(effort)));
        assert_eq!(Effort::from_bytes(&bytes[1..]), None);
    }
}
