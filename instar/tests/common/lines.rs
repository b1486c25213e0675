//! Command lines of instar that stand in a text, and whether the program's own parser takes them.

use clap::Parser;

/// Words from the program's name on, if there is one among them.
pub(crate) fn of_instar(words: &[String]) -> Option<Vec<String>> {
    let at = words.iter().position(|word| word == "instar" || word.ends_with("/bin/instar"))?;
    let end = words[at..].iter().position(|word| ["|", ">", "&&", ";"].contains(&word.as_str()));
    Some(words[at..end.map_or(words.len(), |end| at + end)].to_vec())
}

/// A line as a shell takes it apart.
pub(crate) fn words(line: &str) -> Vec<String> {
    shlex::split(line).unwrap_or_else(|| panic!("no shell reads this: {line}"))
}

/// Fails where the program would not understand a line. `place` says where it stands.
#[track_caller]
pub(crate) fn must_parse(line: &[String], place: &str) {
    if let Err(error) = instar::cli::Arguments::try_parse_from(line) {
        let is_question =
            matches!(error.kind(), clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayVersion);
        assert!(is_question, "{place}: {line:?}: {error}");
    }
}
