//! Byte counts for people: three significant digits and a binary unit.

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// `1.69 MiB`, `320 KiB`, `0.977 KiB`: the next unit begins at 1000 of the one below, and 999.5 to 1000 are `1e+03`.
pub(in crate::cli) fn for_people(bytes: u64) -> String {
    let power = (1..UNITS.len()).rev().find(|&power| bytes >= 1000 << (10 * (power - 1))).unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let value = bytes as f64 / (1u64 << (10 * power)) as f64;
    format!("{} {}", three_digits(value), UNITS[power])
}

/// Three significant digits without trailing zeros, rounded on the exact value. `value` is below 1024.
fn three_digits(value: f64) -> String {
    let scientific = format!("{value:.2e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if exponent > 2 {
        return format!("{}e+{exponent:02}", trim_zeros(mantissa));
    }
    let decimals = usize::try_from(2 - exponent).unwrap_or(0);
    trim_zeros(&format!("{value:.decimals$}")).to_owned()
}

fn trim_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_like_the_original() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (999, "999 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (100_352, "98 KiB"),
            (102_400, "100 KiB"),
            (327_680, "320 KiB"),
            (1_023_487, "999 KiB"),
            (1_023_488, "1e+03 KiB"),
            (1_024_000, "0.977 MiB"),
            (1_769_472, "1.69 MiB"),
            (2_490_368, "2.38 MiB"),
            (1_072_693_248, "0.999 GiB"),
            (1_073_741_823, "1 GiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(for_people(bytes), text, "{bytes}");
        }
    }
}
