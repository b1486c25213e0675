//! What is said about answers of the sandbox, whatever they are.

use instar_abi::report::{MAX_TEXT_BYTES, error_kind, outcome};
use proptest::prelude::*;

use super::super::hearsay::{Says, answer, layer};
use super::super::sandbox::Answer;
use super::*;

fn merge(answer: Answer) -> std::result::Result<CommitReport, String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layer = |name| layer(directory.path(), name);
    let chain = Chain { layers: vec![layer("top"), layer("base")], base: 1, secrets: Vec::new() };
    let progress = Meter::start(Style::Silent, ProgressWish::default());
    let place = format!("{}/", directory.path().display());
    chain.merge(&How::default(), progress, &mut Says(answer)).map_err(|failure| failure.to_string().replace(&place, ""))
}

#[test]
fn each_kind_of_error_has_its_sentence() {
    let said = |kind, layer, errno, text: &[u8]| merge(answer(1, kind, layer, errno, text, b"")).expect_err("failed");
    let text = b"a finding\x1b[2J";
    assert_eq!(
        said(error_kind::OPEN, 1, 0, text),
        "instar: Could not open 'top': Could not open backing file: a finding\\x1b[2J"
    );
    assert_eq!(said(error_kind::CORRUPT, 1, 0, text), "instar: 'base': a finding\\x1b[2J");
    assert_eq!(said(error_kind::REFUSED, 0, 0, b"no"), "instar: 'top': no");
    assert_eq!(said(error_kind::JOB, 1, 0, b"no"), "instar: Block job failed: no");
    assert_eq!(said(error_kind::JOB, 1, 28, b""), "instar: Block job failed: No space left on device");
    assert_eq!(said(error_kind::STORAGE, 1, 5, b"detail"), "instar: Block job failed: Input/output error");
    assert_eq!(said(error_kind::INTERNAL, 1, 0, b"no memory"), "instar: 'base': the sandbox stopped: no memory");
}

#[test]
fn reports_that_lie_are_named_as_such() {
    let said = |answer| merge(answer).expect_err("no result");
    let wrong = "instar: 'top': the sandbox stopped: the guest program's report is not valid: ";
    assert_eq!(said(answer(1, 77, 9, 0, b"", b"")), format!("{wrong}unknown kind of error 77"));
    assert_eq!(said(answer(outcome::DONE, 0, 0, 0, b"", &[0; 23])), format!("{wrong}it is cut off"));
    assert_eq!(said(answer(1, error_kind::REFUSED, u32::MAX, 0, b"no", b"")), "instar: 'top': no");
}

proptest! {
    #[test]
    fn no_answer_brings_the_host_down(
        numbers in any::<(u32, u32, u32, i32, u32)>(),
        text in proptest::collection::vec(any::<u8>(), 0..MAX_TEXT_BYTES),
        operation in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let (outcome, kind, layer, errno, length) = numbers;
        let mut answer = answer(outcome % 3, kind % 10, layer, errno, &text, &operation);
        answer.header.text_length_bytes = length;
        if let Err(said) = merge(answer) {
            prop_assert!(said.starts_with("instar: ") && !said.chars().any(char::is_control));
        }
    }
}
