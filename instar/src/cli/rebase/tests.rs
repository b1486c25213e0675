//! What becomes of a guest program's answers, whatever they are.

use instar_abi::report::{MAX_TEXT_BYTES, error_kind, outcome};
use proptest::prelude::*;

use super::*;
use crate::cli::hearsay::{Says, answer, layer};
use crate::cli::sandbox::Answer;

/// A rebase of `top`, which is based on `base`, onto `new`, which is based on `deep`.
fn carried_out(answer: Answer) -> Result<Done, String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let layer = |name| layer(directory.path(), name);
    let layers = ["top", "base", "new", "deep"].map(layer).into();
    let rebase = Rebase {
        chains: Chains { layers, old_layers: 1, join_layer: 2 },
        wanted: Wanted { name: Some(b"new"), format_name: Some(b"qcow2"), is_unsafe: false, compresses: false },
        verifies: false,
        secrets: Vec::new(),
    };
    let mut progress = Progress::start(None::<Vec<u8>>, ProgressWish::default());
    let pace = Pace { flushing: Flushing::default(), bytes_per_second: 0 };
    let place = format!("{}/", directory.path().display());
    rebase.carry_out(pace, &mut progress, &mut Says(answer)).map_err(|failure| failure.to_string().replace(&place, ""))
}

#[test]
fn each_kind_of_error_has_its_sentence() {
    let said =
        |kind, layer, errno, text: &[u8]| carried_out(answer(1, kind, layer, errno, text, b"")).expect_err("failed");
    let text = b"a finding\x1b[2J";
    let shown = "a finding\\x1b[2J";
    for (layer, sentence) in [
        "Could not open 'top': ",
        "Could not open 'top': Could not open backing file: ",
        "Could not open new backing file 'new': ",
        "Could not open new backing file 'new': Could not open backing file: ",
    ]
    .into_iter()
    .enumerate()
    {
        let layer = u32::try_from(layer).expect("four");
        assert_eq!(said(error_kind::OPEN, layer, 0, text), format!("instar: {sentence}{shown}"));
    }
    assert_eq!(said(error_kind::CORRUPT, 2, 0, text), format!("instar: 'new': {shown}"));
    assert_eq!(said(error_kind::JOB, 0, 0, b"no"), "instar: Could not change the backing file to 'new': no");
    assert_eq!(
        said(error_kind::STORAGE, 0, 28, b"detail"),
        "instar: Error while writing to COW image: No space left on device"
    );
    assert_eq!(said(error_kind::STORAGE, 1, 5, b""), "instar: error while reading from old backing file");
    assert_eq!(said(error_kind::STORAGE, 3, 5, b""), "instar: error while reading from new backing file");
    assert_eq!(said(error_kind::INTERNAL, 1, 0, b"no memory"), "instar: 'base': the sandbox stopped: no memory");
}

#[test]
fn reports_that_lie_are_named_as_such() {
    let said = |answer| carried_out(answer).expect_err("no result");
    let wrong = "instar: 'top': the sandbox stopped: the guest program's report is not valid: ";
    assert_eq!(said(answer(1, 77, 9, 0, b"", b"")), format!("{wrong}unknown kind of error 77"));
    assert_eq!(said(answer(outcome::DONE, 0, 0, 0, b"", &[0; 15])), format!("{wrong}it is cut off"));
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
        let mut answer = answer(outcome % 3, kind % 10, layer % 6, errno, &text, &operation);
        answer.header.text_length_bytes = length;
        if let Err(said) = carried_out(answer) {
            prop_assert!(said.starts_with("instar: ") && !said.chars().any(char::is_control));
        }
    }
}
