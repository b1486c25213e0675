//! Makes the images of a plan with an installed qemu-img and qemu-io. What they refuse to make is reported, not judged.

use super::contents;
use super::plan::{Action, Image, Plan, Range};
use crate::runner::{RunOutput, TIME_LIMIT, run};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The programs that make images.
#[derive(Clone, Debug)]
pub struct Builder {
    qemu_img: PathBuf,
    qemu_io: PathBuf,
}

/// Why a plan cannot be built.
#[derive(Debug)]
pub enum BuildError {
    /// A program did not run.
    Run(io::Error),
    /// qemu-img refuses an image: the plan makes no sense.
    Refused(String),
}

impl std::fmt::Display for BuildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Run(error) => write!(f, "a program cannot be run: {error}"),
            Self::Refused(text) => write!(f, "cannot be built: {text}"),
        }
    }
}

impl std::error::Error for BuildError {}

impl From<io::Error> for BuildError {
    fn from(error: io::Error) -> Self {
        Self::Run(error)
    }
}

impl Builder {
    /// Takes the given qemu-img, and the qemu-io beside it or in PATH.
    pub fn new(qemu_img: &Path) -> Self {
        let beside = qemu_img.with_file_name("qemu-io");
        let qemu_io = if beside.is_file() { beside } else { PathBuf::from("qemu-io") };
        Self { qemu_img: qemu_img.to_path_buf(), qemu_io }
    }

    /// Builds every image in `folder`; `scratch` takes the bytes to be written.
    pub fn build(&self, plan: &Plan, folder: &Path, scratch: &Path) -> Result<(), BuildError> {
        for image in &plan.images {
            self.create(plan, image, folder)?;
            self.act(image, folder, scratch)?;
        }
        Ok(())
    }

    fn create(&self, plan: &Plan, image: &Image, folder: &Path) -> Result<(), BuildError> {
        let size = image.size.to_string();
        let mut arguments = vec!["create", "-q", "-f", image.format()];
        let options = image.options.join(",");
        if !options.is_empty() {
            arguments.extend(["-o", &options]);
        }
        if let Some(backing) = &image.backing {
            let below = plan.images.iter().find(|other| other.name == *backing);
            let format = below.map_or("raw", Image::format);
            arguments.extend(["-b", backing, "-F", format]);
        }
        arguments.extend([image.name.as_str(), &size]);
        self.demand(&self.qemu_img, folder, &arguments)
    }

    fn act(&self, image: &Image, folder: &Path, scratch: &Path) -> Result<(), BuildError> {
        let mut commands = Vec::new();
        let source = |number: usize| scratch.join(format!("{}-{number}.bytes", image.name));
        for (number, action) in image.actions.iter().enumerate() {
            let bytes = source(number);
            let path = bytes.to_string_lossy();
            let place = |range: &Range| format!("{} {}", range.offset, range.length);
            match action {
                Action::Write(range, write) => {
                    contents::write_named(&bytes, *range, *write)?;
                    commands.push(format!("write -q -s {path} {}", place(range)));
                }
                Action::WriteNoise(range, write) => {
                    contents::write_noise(&bytes, *range, *write)?;
                    commands.push(format!("write -q -s {path} {}", place(range)));
                }
                Action::WriteZeroBytes(range) => commands.push(format!("write -q -P 0 {}", place(range))),
                Action::WriteCompressed(range, write) => {
                    contents::write_named(&bytes, *range, *write)?;
                    commands.push(format!("write -q -c -s {path} {}", place(range)));
                }
                Action::Zero(range, true) => commands.push(format!("write -q -z -u {}", place(range))),
                Action::Zero(range, false) => commands.push(format!("write -q -z {}", place(range))),
                Action::Discard(range) => commands.push(format!("discard -q {}", place(range))),
                Action::Abandon(range, write) => {
                    contents::write_named(&bytes, *range, *write)?;
                    commands.push(format!("write -q -s {path} {}", place(range)));
                    commands.push("abort".into());
                    self.write(image, folder, &mut commands)?;
                }
                Action::Snapshot(name) => {
                    self.write(image, folder, &mut commands)?;
                    self.demand(&self.qemu_img, folder, &["snapshot", "-q", "-c", name, &image.name])?;
                }
                Action::Bitmap(name, granularity, enabled) => {
                    self.write(image, folder, &mut commands)?;
                    let granularity = granularity.to_string();
                    let mut arguments = vec!["bitmap", "--add", "-g", &granularity, "-f", image.format()];
                    arguments.extend(if *enabled { None } else { Some("--disable") });
                    arguments.extend([image.name.as_str(), name]);
                    self.demand(&self.qemu_img, folder, &arguments)?;
                }
                Action::Resize(size) => {
                    self.write(image, folder, &mut commands)?;
                    let size = size.to_string();
                    let arguments = ["resize", "-q", "--shrink", "-f", image.format(), &image.name, &size];
                    self.demand(&self.qemu_img, folder, &arguments)?;
                }
            }
        }
        self.write(image, folder, &mut commands)
    }

    /// Runs the collected qemu-io commands. What qemu-io cannot do (a write that a format does not know) leaves the image as it is.
    fn write(&self, image: &Image, folder: &Path, commands: &mut Vec<String>) -> Result<(), BuildError> {
        if commands.is_empty() {
            return Ok(());
        }
        let mut command = Command::new(&self.qemu_io);
        command.current_dir(folder).args(["-d", "unmap", "-f", image.format()]);
        for line in commands.drain(..) {
            command.args(["-c", &line]);
        }
        run(command.arg(&image.name), TIME_LIMIT)?;
        Ok(())
    }

    fn demand(&self, program: &Path, folder: &Path, arguments: &[&str]) -> Result<(), BuildError> {
        let output: RunOutput = run(Command::new(program).current_dir(folder).args(arguments), TIME_LIMIT)?;
        if output.rc == Some(0) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        Err(BuildError::Refused(format!("{}: {said}", arguments.join(" "))))
    }
}
