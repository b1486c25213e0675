//! Rate limits as typed: a number and a suffix, in bytes per second.

use std::ffi::OsStr;

use crate::text::Printable;

/// Reads a rate. White space may stand in front. Decimal with a fraction, or hexadecimal without one; one of `b k K M G T P E` may follow.
///
/// # Errors
/// The sentence that says what is wrong.
pub(super) fn parse(typed: &OsStr) -> Result<u64, String> {
    let text = typed.to_str().unwrap_or_default().trim_start();
    let invalid = || format!("Invalid rate limit specified: '{}'", Printable(typed.as_encoded_bytes()));
    let range = || format!("Invalid rate limit specified. Must be between 0 and {}.", i64::MAX);
    if let Some(digits) = text.strip_prefix('-') {
        return Err(if digits.starts_with(|first: char| first.is_ascii_digit()) { range() } else { invalid() });
    }
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let value = u64::from_str_radix(digits, 16).map_err(|_| invalid())?;
        return if i64::try_from(value).is_ok() { Ok(value) } else { Err(range()) };
    }
    let (number, shift) = split_suffix(text).ok_or_else(invalid)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let unit = 1u128 << shift;
    let whole: u128 = whole.parse().map_err(|_| range())?;
    let bytes = whole.checked_mul(unit).and_then(|bytes| bytes.checked_add(part(fraction, unit)));
    bytes.and_then(|bytes| i64::try_from(bytes).ok()).map(i64::unsigned_abs).ok_or_else(range)
}

/// The number and how many bits its suffix stands for.
fn split_suffix(text: &str) -> Option<(&str, u32)> {
    let last = text.chars().next_back()?;
    let shift = match last.to_ascii_lowercase() {
        '0'..='9' | '.' => return Some((text, 0)),
        'b' => 0,
        'k' => 10,
        'm' => 20,
        'g' => 30,
        't' => 40,
        'p' => 50,
        'e' => 60,
        _ => return None,
    };
    Some((&text[..text.len() - 1], shift))
}

/// The decimal fraction of a unit, rounded down; digits beyond the eighteenth do not count.
fn part(digits: &str, unit: u128) -> u128 {
    let digits = &digits[..digits.len().min(18)];
    let scale = (0..digits.len()).fold(1u128, |scale, _| scale * 10);
    digits.parse::<u128>().map_or(0, |value| value * unit / scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rate(text: &str) -> Result<u64, String> {
        parse(OsStr::new(text))
    }

    #[test]
    fn suffixes_are_powers_of_1024() {
        assert_eq!(rate("0"), Ok(0));
        assert_eq!(rate("5b"), Ok(5));
        assert_eq!(rate("64M"), Ok(64 << 20));
        assert_eq!(rate("1.5k"), Ok(1536));
        assert_eq!(rate("7E"), Ok(7 << 60));
        assert_eq!(rate("0x10"), Ok(16));
    }

    #[test]
    fn nonsense_and_numbers_out_of_range_read_differently() {
        for text in ["abc", "1x", "", "k", ".5", "1kk", "-x", "0xk", "1.5.5"] {
            assert_eq!(rate(text), Err(format!("Invalid rate limit specified: '{text}'")));
        }
        let range = "Invalid rate limit specified. Must be between 0 and 9223372036854775807.";
        for text in ["-5", "8E", "9223372036854775808", "99999999999999999999999999999999999999999999999"] {
            assert_eq!(rate(text), Err(range.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            let _ = rate(&text);
        }

        #[test]
        fn any_number_is_read_or_refused(text in "[0-9]{0,45}\\.?[0-9]{0,45}[bkMGTPE]?") {
            let _ = rate(&text);
        }
    }
}
