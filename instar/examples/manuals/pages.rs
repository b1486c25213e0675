//! Man pages and completions, rendered from the definition of the command line.

use std::io;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

/// Where the files lie, below the folder that they are written to.
pub(crate) const MAN: &str = "man";
pub(crate) const COMPLETIONS: &str = "completions";

/// All files: their names below the folder, and what is in them.
pub(crate) fn files() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    man_pages(&command(), &mut files)?;
    for (shell, name) in [(Shell::Bash, "instar.bash"), (Shell::Zsh, "_instar"), (Shell::Fish, "instar.fish")] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command(), "instar", &mut script);
        files.push((format!("{COMPLETIONS}/{name}"), script));
    }
    Ok(files)
}

/// The command line's definition, with the names of commands as they are typed.
pub(crate) fn command() -> Command {
    let mut command = instar::cli::Arguments::command().disable_help_subcommand(true);
    command.build();
    command
}

/// The name of a command's page, such as instar-commit.
pub(crate) fn page_name(command: &Command) -> String {
    command.get_bin_name().unwrap_or(command.get_name()).replace(' ', "-")
}

fn man_pages(command: &Command, files: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let name = page_name(command);
    let mut page = Vec::new();
    let source = concat!("instar ", env!("CARGO_PKG_VERSION"));
    clap_mangen::Man::new(command.clone()).title(name.clone()).source(source).render(&mut page)?;
    files.push((format!("{MAN}/{name}.1"), page));
    command.get_subcommands().filter(|command| !command.is_hide_set()).try_for_each(|command| man_pages(command, files))
}
