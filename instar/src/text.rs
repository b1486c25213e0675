//! Strings of unknown origin made fit for a terminal: names recorded in images, texts from the sandbox.
//!
//! Knows only bytes and characters. Nothing that comes out of here can move the cursor, end a line or reorder text.

use std::fmt;
use std::fmt::Write as _;

/// The most input bytes of one string that are shown; the rest is replaced by an ellipsis.
pub const MAX_SHOWN_BYTES: usize = 4096;

/// Shows bytes as text: what is not printable appears as an escape sequence, what is too long is cut.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(MAX_SHOWN_BYTES)];
        for chunk in shown.utf8_chunks() {
            for character in chunk.valid().chars() {
                put_character(f, character)?;
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        if shown.len() < self.0.len() { f.write_char('…') } else { Ok(()) }
    }
}

fn put_character(f: &mut fmt::Formatter<'_>, character: char) -> fmt::Result {
    match character {
        '\n' => f.write_str("\\n"),
        '\r' => f.write_str("\\r"),
        '\t' => f.write_str("\\t"),
        _ if character.is_control() && character.is_ascii() => write!(f, "\\x{:02x}", u32::from(character)),
        _ if character.is_control() || reorders_text(character) => write!(f, "\\u{{{:x}}}", u32::from(character)),
        _ => f.write_char(character),
    }
}

/// Unicode's marks and overrides of writing direction and its line separators: they can make a name look like another.
fn reorders_text(character: char) -> bool {
    matches!(character, '\u{061c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escape_sequences_lose_their_escape() {
        assert_eq!(Printable(b"a\x1b[31mb\nc\td\x7f").to_string(), "a\\x1b[31mb\\nc\\td\\x7f");
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        assert_eq!(Printable("Bild (1) äöü\\.qcow2".as_bytes()).to_string(), "Bild (1) äöü\\.qcow2");
    }

    #[test]
    fn invalid_utf8_shows_as_hexadecimal() {
        assert_eq!(Printable(b"a\xff\xc3b").to_string(), "a\\xff\\xc3b");
    }

    #[test]
    fn direction_overrides_and_second_control_set_are_escaped() {
        assert_eq!(Printable("a\u{202e}b\u{9b}c".as_bytes()).to_string(), "a\\u{202e}b\\u{9b}c");
    }

    #[test]
    fn long_strings_are_cut() {
        let shown = Printable(&[b'n'; MAX_SHOWN_BYTES + 1]).to_string();
        assert_eq!(shown.chars().count(), MAX_SHOWN_BYTES + 1);
        assert!(shown.ends_with('…'));
    }

    proptest! {
        #[test]
        fn no_input_puts_a_control_character_on_the_terminal(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let shown = Printable(&bytes).to_string();
            prop_assert!(!shown.chars().any(|c| c.is_control() || reorders_text(c)));
        }
    }
}
