//! A report that the guest's own code writes is one that the host can read.

use instar::cli::info::ImageInfo;
use instar_abi::report::{InfoReport, MAX_TEXT_BYTES, REPORT_MAGIC, ReportHeader, outcome};
use instar_abi::wire::Wire;

/// Checks the report header; tells whether the job was done.
///
/// # Panics
/// If the report is not well formed.
pub fn is_done(report: &[u8]) -> bool {
    let header = ReportHeader::get(report);
    assert_eq!(header.magic, REPORT_MAGIC);
    assert!(header.text_length_bytes as usize <= MAX_TEXT_BYTES);
    match header.outcome {
        outcome::DONE => true,
        outcome::FAILED => {
            assert_ne!(header.text_length_bytes, 0, "a failure without a word");
            false
        }
        other => panic!("outcome {other}"),
    }
}

/// As [`is_done`], for an info report, which must also decode.
///
/// # Panics
/// If the report is not well formed.
pub fn check_info(report: &[u8]) {
    if is_done(report) {
        let body = &report[ReportHeader::SIZE_BYTES..];
        let (operation, payload) = body.split_at(InfoReport::SIZE_BYTES);
        let length = ReportHeader::get(report).payload_length_bytes as usize;
        ImageInfo::decode(operation, &payload[..length]).expect("the host can read what the guest reports");
    }
}
