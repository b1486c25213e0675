//! Bytes to text as qemu-img's JSON writer does it: every sequence that is no character becomes one U+FFFD.

/// Decodes `bytes`. A sequence is a lead byte and as many continuation bytes as it announces and as follow, so an overlong or
/// impossible character becomes a single replacement, whatever its length. 0xC0 0x80 is a NUL; noncharacters are replaced, too.
pub(super) fn decode(mut bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    while let Some((&lead, rest)) = bytes.split_first() {
        let (length, lead_bits) = match lead {
            0x00..=0x7f => (1, lead),
            0xc0..=0xdf => (2, lead & 0x1f),
            0xe0..=0xef => (3, lead & 0x0f),
            0xf0..=0xf7 => (4, lead & 0x07),
            0xf8..=0xfb => (5, lead & 0x03),
            0xfc..=0xfd => (6, lead & 0x01),
            _ => (1, 0xff),
        };
        let continuation = rest.iter().take(length - 1).take_while(|&&byte| byte & 0xc0 == 0x80).count();
        let code =
            rest[..continuation].iter().fold(u32::from(lead_bits), |code, &byte| code << 6 | u32::from(byte & 0x3f));
        let is_complete = continuation == length - 1 && lead_bits != 0xff;
        let character = char::from_u32(code).filter(|&character| {
            let is_shortest = character.len_utf8() == length || (code == 0 && length == 2);
            is_complete && is_shortest && !is_noncharacter(code)
        });
        text.push(character.unwrap_or(char::REPLACEMENT_CHARACTER));
        bytes = &rest[continuation..];
    }
    text
}

fn is_noncharacter(code: u32) -> bool {
    matches!(code, 0xfdd0..=0xfdef) || code & 0xfffe == 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replace_each_bad_sequence_once() {
        for (bytes, text) in [
            (&b"plain"[..], "plain"),
            ("ä€😀".as_bytes(), "ä€😀"),
            (b"\xff\xc3\xa4", "\u{fffd}ä"),
            (b"\xf0\x9f\x98", "\u{fffd}"),
            (b"\xe2\x82A", "\u{fffd}A"),
            (b"\xc0\x80", "\0"),
            (b"\xed\xa0\xbd\xed\xb8\x80", "\u{fffd}\u{fffd}"),
            (b"\x80\x80", "\u{fffd}\u{fffd}"),
            (b"\xf8\x88\x80\x80\x80", "\u{fffd}"),
            (b"\xfc\x84\x80\x80\x80\x80", "\u{fffd}"),
            (b"\xef\xbf\xbf", "\u{fffd}"),
            (b"\xef\xb7\x90", "\u{fffd}"),
            (b"\xe0\x9f\xbf", "\u{fffd}"),
            (b"\xf4\x90\x80\x80", "\u{fffd}"),
            (b"\xf4\x8f\xbf\xbd", "\u{10fffd}"),
            (b"\xc3\xc3\xa4", "\u{fffd}ä"),
            (b"\xf0\x9f\x98\xf0", "\u{fffd}\u{fffd}"),
        ] {
            assert_eq!(decode(bytes), text, "{bytes:x?}");
        }
    }
}
