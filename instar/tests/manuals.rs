//! Man pages and completions know every command and every option that the program knows.

#[path = "../examples/manuals/pages.rs"]
mod pages;

use std::collections::BTreeMap;

use clap::{Arg, Command};

/// Whether a long option stands in a text, and not only as the start of a longer one.
fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(start, _)| {
        let rest = &text[start + word.len()..];
        !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '-') && !rest.starts_with("\\-")
    })
}

fn visible(command: &Command) -> Vec<&Arg> {
    command.get_arguments().filter(|argument| !argument.is_hide_set() && !argument.is_positional()).collect()
}

/// A command and all below it.
fn all(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().filter(|command| !command.is_hide_set());
    std::iter::once(command).chain(below.flat_map(all)).collect()
}

fn files() -> BTreeMap<String, String> {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    pages::files().expect("rendered").into_iter().map(|(name, bytes)| (name, text(bytes))).collect()
}

#[test]
fn every_command_has_a_man_page_with_all_its_options() {
    let (files, root) = (files(), pages::command());
    let commands = all(&root);
    assert!(commands.len() >= 5, "instar, commit, doctor, info and rebase at least");
    for command in commands {
        let name = pages::page_name(command);
        let page = &files[&format!("man/{name}.1")];
        let title = page.lines().find(|line| line.starts_with(".TH")).unwrap_or_default();
        assert!(title.starts_with(&format!(".TH {name} 1")), "{title}");
        for argument in visible(command) {
            if let Some(long) = argument.get_long() {
                let long = format!("\\-\\-{}", long.replace('-', "\\-"));
                assert!(has_word(page, &long), "{name}: {long}");
            }
            if let Some(short) = argument.get_short() {
                assert!(page.contains(&format!("\\-{short}\\fR")), "{name}: -{short}");
            }
        }
        for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
            let reference = format!("{}(1)", pages::page_name(below)).replace('-', "\\-");
            assert!(page.contains(&reference), "{name} does not lead to {reference}");
        }
    }
}

#[test]
fn every_shell_completes_all_commands_and_options() {
    let (files, root) = (files(), pages::command());
    for shell in ["instar.bash", "_instar", "instar.fish"] {
        let script = &files[&format!("completions/{shell}")];
        for command in all(&root) {
            assert!(has_word(script, command.get_name()), "{shell}: {}", command.get_name());
            for argument in visible(command) {
                let long = argument.get_long().unwrap_or_default();
                let (bare, dashed) = (format!("-l {long}"), format!("--{long}"));
                assert!(long.is_empty() || has_word(script, &bare) || has_word(script, &dashed), "{shell}: {long}");
            }
        }
    }
}
