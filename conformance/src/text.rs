//! Makes captured text comparable: what changes from run to run is folded away, everything else stays exact.

/// Carriage returns as line feeds (the recordings were read that way), the case's folder as `$DIR/`.
pub fn universal(bytes: &[u8], folder: &str) -> String {
    let text = String::from_utf8_lossy(bytes).replace("\r\n", "\n").replace('\r', "\n");
    text.replace(&format!("{folder}/"), "$DIR/")
}

/// `#block` and digits as `#blockN`.
pub fn fold_node_names(text: &str) -> String {
    let mut parts = text.split("#block");
    let mut folded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        folded.push_str("#blockN");
        folded.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start_matches('N'));
    }
    folded
}

fn progress(line: &str) -> Option<f64> {
    line.strip_prefix("    (")?.strip_suffix("/100%)")?.parse().ok()
}

/// A run of progress lines becomes its first and last one: how many lie between varies from run to run.
pub fn collapse_progress(text: &str) -> String {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut kept = String::new();
    let mut index = 0;
    while index < lines.len() {
        let run = lines[index..].iter().take_while(|line| progress(line.trim_end_matches('\n')).is_some()).count();
        if run > 0 {
            kept.push_str(lines[index]);
            let last = lines[index + run - 1];
            if last != lines[index] {
                kept.push_str(last);
            }
            index += run;
        } else {
            kept.push_str(lines[index]);
            index += 1;
        }
    }
    kept
}

/// `instar` in place of `qemu-img` wherever the program names itself.
pub fn as_instar(text: &str) -> String {
    text.replace("qemu-img", "instar")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_keeps_first_and_last_update() {
        let text = "    (0.00/100%)\n    (0.00/100%)\n    (15.38/100%)\n    (100.00/100%)\nImage committed.\n";
        assert_eq!(collapse_progress(text), "    (0.00/100%)\n    (100.00/100%)\nImage committed.\n");
    }

    #[test]
    fn node_names_lose_their_number() {
        assert_eq!(fold_node_names("node '#block325' x '#blockN'"), "node '#blockN' x '#blockN'");
    }
}
