//! What a commit says, made fit for standing among others: one line an image.

use crate::text::Printable;

/// A result for people, with the image's name in front of each line.
pub(super) fn named(file: &[u8], result: &[u8]) -> Vec<u8> {
    let name = Printable(file).to_string();
    lines(result).flat_map(|line| [name.as_bytes(), b": ", line, b"\n"].concat()).collect()
}

/// A JSON document as one line. No string in it holds a line's end: JSON writes them as escape sequences.
pub(super) fn compact(document: &[u8]) -> Vec<u8> {
    let mut line: Vec<u8> = Vec::with_capacity(document.len());
    for part in lines(document) {
        if line.ends_with(b",") {
            line.push(b' ');
        }
        line.extend_from_slice(part.trim_ascii_start());
    }
    if !line.is_empty() {
        line.push(b'\n');
    }
    line
}

/// What was said on standard error, ending with a line.
pub(super) fn whole_lines(mut said: Vec<u8>) -> Vec<u8> {
    if said.last().is_some_and(|last| *last != b'\n') {
        said.push(b'\n');
    }
    said
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

/// How many images were not committed.
pub(super) fn summary(failed: usize, images: usize) -> String {
    let verb = if failed == 1 { "was" } else { "were" };
    let noun = if images == 1 { "image" } else { "images" };
    format!("{failed} of {images} {noun} {verb} not committed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_get_the_name_that_is_fit_for_a_terminal() {
        assert_eq!(named(b"a\x1b.qcow2", b"Image committed.\n"), b"a\\x1b.qcow2: Image committed.\n");
        assert_eq!(named(b"a", b""), b"");
    }

    #[test]
    fn documents_become_one_line_and_mean_the_same() {
        let pretty = "{\n    \"overlay\": \"a,  \\n b\",\n    \"stats\": {\n        \"exits\": 3,\n        \"sandboxes\": [\n            \
                      {\"job\": \"info\"},\n            {\"job\": \"commit\"}\n        ]\n    }\n}\n";
        let line = compact(pretty.as_bytes());
        let expected = "{\"overlay\": \"a,  \\n b\", \"stats\": {\"exits\": 3, \"sandboxes\": [{\"job\": \"info\"}, \
                        {\"job\": \"commit\"}]}}\n";
        assert_eq!(String::from_utf8(line.clone()).expect("UTF-8"), expected);
        let read = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).expect("JSON");
        assert_eq!(read(&line), read(pretty.as_bytes()));
        assert_eq!(compact(b""), b"");
    }

    #[test]
    fn the_summary_counts_as_people_do() {
        assert_eq!(summary(2, 5), "2 of 5 images were not committed");
        assert_eq!(summary(1, 5), "1 of 5 images was not committed");
        assert_eq!(summary(1, 1), "1 of 1 image was not committed");
        assert_eq!(whole_lines(b"cut".to_vec()), b"cut\n");
        assert_eq!(whole_lines(Vec::new()), b"");
    }
}
