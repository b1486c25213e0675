//! What a command took.

use serde::Deserialize;

/// What a command took, as the host has counted it; nothing of it comes from a guest. Later versions may count more.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Stats {
    /// Time from start to end.
    pub total_seconds: f64,
    /// How often the processor left the guests.
    pub exits: u64,
    /// Reads into the guests: tables, and data that is compressed or encrypted.
    #[serde(default)]
    pub reads: u64,
    /// Writes from the guests.
    #[serde(default)]
    pub writes: u64,
    /// Lists of copies that the host carried out.
    #[serde(default)]
    pub copies: u64,
    /// Lists of comparisons that the host carried out.
    #[serde(default)]
    pub compares: u64,
    /// Lists of packed clusters that machines beside the guest's unpacked.
    #[serde(default)]
    pub unpacks: u64,
    /// Lists of clusters that machines beside the guest's packed.
    #[serde(default)]
    pub packs: u64,
    /// Zeroed ranges.
    #[serde(default)]
    pub zeroes: u64,
    /// Ranges that were given back.
    #[serde(default)]
    pub discards: u64,
    /// Changes of a file's length.
    #[serde(default)]
    pub resizes: u64,
    /// Barriers: everything before is durable.
    #[serde(default)]
    pub barriers: u64,
    /// Requests that failed.
    #[serde(default)]
    pub failures: u64,
    /// Bytes that entered the guests.
    #[serde(default)]
    pub read_bytes: u64,
    /// Bytes that came from the guests.
    #[serde(default)]
    pub written_bytes: u64,
    /// Bytes that the host copied from file to file.
    #[serde(default)]
    pub copied_bytes: u64,
    /// Bytes of disk that the host compared with others, or with zeros.
    #[serde(default)]
    pub compared_bytes: u64,
    /// Bytes that came out of machines that unpack.
    #[serde(default)]
    pub unpacked_bytes: u64,
    /// Bytes that went into machines that pack.
    #[serde(default)]
    pub packed_bytes: u64,
    /// Bytes that were made zeros.
    #[serde(default)]
    pub zeroed_bytes: u64,
    /// Every sandbox that ran, in their order.
    pub sandboxes: Vec<SandboxRun>,
}

/// A sandbox that ran.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct SandboxRun {
    /// What it did: `info`, `commit`, `rebase`.
    pub job: String,
    /// How long it took to start.
    pub start_seconds: f64,
    /// How long it ran.
    pub run_seconds: f64,
    /// How often the processor left the guest.
    pub exits: u64,
}
