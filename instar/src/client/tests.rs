//! What builders put on a command line is what the program's own parser takes from it, whatever the values are.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::CommandFactory;
use clap::parser::ValueSource;
use proptest::prelude::*;

use super::*;
use crate::cli::Arguments;
use crate::files::Operand;

/// The options that a command line gives, and their values.
type Given = BTreeMap<String, Vec<OsString>>;

/// The definition of the whole command line.
fn definition() -> clap::Command {
    let mut root = Arguments::command();
    root.build();
    root
}

/// The definition of a command, by the words that lead to it.
fn command<'a>(root: &'a clap::Command, path: &str) -> &'a clap::Command {
    path.split(' ').fold(root, |command, name| command.find_subcommand(name).expect("a command"))
}

/// What the parser takes from a command line: the command, and what it was given.
fn parsed(arguments: &[OsString]) -> (String, Given) {
    let line = [&["instar".into()], arguments].concat();
    let matches = definition().try_get_matches_from(line).expect("a command line");
    let (name, mut matches) = matches.subcommand().expect("a command");
    let mut path = name.to_owned();
    while let Some((name, below)) = matches.subcommand() {
        path = format!("{path} {name}");
        matches = below;
    }
    let root = definition();
    let ids = command(&root, &path).get_arguments().map(|argument| argument.get_id().as_str());
    let typed = ids.filter(|id| matches.value_source(id) == Some(ValueSource::CommandLine));
    let values = |id: &str| matches.get_raw(id).into_iter().flatten().map(OsStr::to_owned).collect();
    let given = typed.map(|id| (id.to_owned(), values(id))).collect();
    (path, given)
}

/// The options of all commands with JSON, and these.
fn expected(options: impl IntoIterator<Item = (&'static str, Vec<OsString>)>) -> Given {
    let own = [("output", vec!["json".into()]), ("errors", vec!["json".into()])];
    let is_given = |(_, values): &(&str, Vec<OsString>)| !values.is_empty();
    own.into_iter().chain(options).filter(is_given).map(|(id, values)| (id.to_owned(), values)).collect()
}

fn flag(is_given: bool) -> Vec<OsString> {
    Vec::from_iter(is_given.then(|| "true".into()))
}

/// Names that could be mistaken for something else.
const ODD_NAMES: &[&str] =
    &["-", "--", "-b", "--base", "--output=human", "a:b", "json:{}", "nbd:x", "a,b=c", " ", "plan", "=", ":", "a/b:c"];

/// What a file can be called.
fn name() -> impl Strategy<Value = OsString> {
    let bytes = proptest::collection::vec(1..=u8::MAX, 1..20).prop_map(OsString::from_vec);
    prop_oneof![3 => bytes, 1 => proptest::sample::select(ODD_NAMES).prop_map(OsString::from)]
}

fn cache() -> impl Strategy<Value = Option<Cache>> {
    let all = vec![Cache::Writeback, Cache::None, Cache::Writethrough, Cache::Directsync, Cache::Unsafe];
    proptest::option::of(proptest::sample::select(all))
}

fn word(cache: Option<Cache>) -> Vec<OsString> {
    cache.map(|cache| cache.word().into()).into_iter().collect()
}

/// Settings of all builders: format, allowed directories, flags, sandbox, and the number of links to images with keys.
type Common = (Option<String>, Vec<OsString>, [bool; 2], Option<Sandbox>, BTreeSet<u8>);

fn common() -> impl Strategy<Value = Common> {
    let sandbox = proptest::sample::select(vec![Sandbox::Kvm, Sandbox::Process]);
    (
        proptest::option::of(".{1,9}"),
        proptest::collection::vec(name(), 0..3),
        any::<[bool; 2]>(),
        proptest::option::of(sandbox),
        proptest::collection::btree_set(0..9u8, 0..3),
    )
}

/// A builder with these settings.
macro_rules! with {
    ($builder:expr, $common:expr) => {{
        let (format, directories, [any_path, jail], sandbox, keys) = $common.clone();
        let mut builder = $builder.allow_any_path(any_path).require_jail(jail);
        if let Some(format) = format {
            builder = builder.format(format);
        }
        if let Some(sandbox) = sandbox {
            builder = builder.sandbox(sandbox);
        }
        for directory in directories {
            builder = builder.allow_dir(directory);
        }
        for links in keys {
            builder = builder.secret(Secret::file(format!("s{links}"), "a,b").base64(links == 1));
            builder = builder.key(links, format!("s{links}"));
        }
        builder
    }};
}

/// What the parser must find of these settings and this image. How the program understands the image is checked as well.
fn of_common(common: &Common, image: &OsStr, found: &Given) -> Vec<(&'static str, Vec<OsString>)> {
    let (format, directories, [any_path, jail], sandbox, keys) = common.clone();
    let [file] = &found["files"][..] else { panic!("{found:?}") };
    let operand = if keys.is_empty() {
        Operand::from_name(file.as_bytes()).expect("a path")
    } else {
        Operand::from_image_options(file.as_bytes()).expect("options")
    };
    let path = if keys.is_empty() { as_name(image) } else { image.to_owned() };
    assert_eq!(operand.path, path.as_bytes());
    assert_eq!(operand.driver.clone(), format.clone().filter(|_| !keys.is_empty()));
    let mut below = operand.keys;
    for links in 0..9 {
        let (own, rest) = below.split();
        let id = keys.contains(&links).then(|| format!("s{links}"));
        assert_eq!((own.encrypt_secret, own.volume_secret, own.encrypt_format), (id.clone(), id, None));
        below = rest;
    }
    let secret = |links: u8| {
        let format = if links == 1 { ",format=base64" } else { "" };
        OsString::from(format!("secret,id=s{links},file=a,,b{format}"))
    };
    vec![
        ("files", vec![file.clone()]),
        ("image_options", flag(!keys.is_empty())),
        ("format", Vec::from_iter(format.filter(|_| keys.is_empty()).map(OsString::from))),
        ("objects", keys.into_iter().map(secret).collect()),
        ("allowed_directories", directories),
        ("any_path", flag(any_path)),
        ("required", flag(jail)),
        ("sandbox", Vec::from_iter(sandbox.map(|sandbox| sandbox.word().into()))),
    ]
}

/// A name as an image's name on the command line: a path, which no colon makes anything else.
fn as_name(name: &OsStr) -> OsString {
    let is_protocol = name.as_bytes().split(|byte| *byte == b'/').next().is_some_and(|first| first.contains(&b':'));
    if is_protocol { [OsStr::new("./"), name].into_iter().collect() } else { name.to_owned() }
}

proptest! {
    #[test]
    fn a_commit_is_parsed_as_built(
        (image, base, siblings) in (name(), proptest::option::of(name()), proptest::collection::vec(name(), 0..3)),
        (cache, rate, [force, verify, stats]) in (cache(), any::<Option<u64>>(), any::<[bool; 3]>()),
        (afterwards, measures, picture) in (0..4usize, any::<bool>(), proptest::option::of(name())),
        common in common(),
    ) {
        let mut commit = with!(Commit::new(&image), common).force(force).verify(verify).stats(stats);
        let all = [("drop", Afterwards::Keep), ("empty", Afterwards::Empty), ("delete_overlay", Afterwards::Delete)];
        if let Some((_, afterwards)) = all.get(afterwards) {
            commit = commit.afterwards(*afterwards);
        }
        if let Some(base) = &base {
            commit = commit.base(base);
        }
        if let Some(cache) = cache {
            commit = commit.cache(cache);
        }
        if let Some(rate) = rate {
            commit = commit.rate_limit(rate);
        }
        for directory in &siblings {
            commit = commit.check_siblings(directory);
        }
        let options = |found: &Given| {
            let mut options = of_common(&common, &image, found);
            options.extend([
                ("base", Vec::from_iter(base.as_deref().map(as_name))),
                ("cache", word(cache)),
                ("rate", Vec::from_iter(rate.map(|rate| rate.to_string().into()))),
                ("sibling_directories", siblings.clone()),
                ("force", flag(force)),
                ("verify", flag(verify)),
                ("stats", flag(stats)),
            ]);
            options.extend(all.get(afterwards).map(|(id, _)| (*id, flag(true))));
            options
        };
        let (command, found) = parsed(&commit.arguments());
        prop_assert_eq!(command, "commit");
        let progress = [("progress", vec!["json".into()])];
        prop_assert_eq!(&found, &expected(options(&found).into_iter().chain(progress)));

        let mut plan = Plan::commit(&commit);
        if let Some(picture) = &picture {
            plan = plan.svg(picture);
        }
        let (command, found) = parsed(&if measures { plan.measure().arguments() } else { plan.arguments() });
        prop_assert_eq!(command, "plan commit");
        let own = [("measure", flag(measures)), ("svg", Vec::from_iter(picture))];
        prop_assert_eq!(&found, &expected(options(&found).into_iter().chain(own)));
    }

    #[test]
    fn a_rebase_is_parsed_as_built(
        (image, backing) in (name(), proptest::option::of((name(), any::<bool>(), ".{0,9}"))),
        (cache, backing_cache, rate) in (cache(), cache(), any::<Option<u64>>()),
        [is_unsafe, compress, share, verify, stats] in any::<[bool; 5]>(),
        common in common(),
    ) {
        let (name, format) = match &backing {
            Some((name, true, format)) => (name.clone(), Some(OsString::from(format))),
            Some((name, false, format)) => (as_name(name), Some(OsString::from(format))),
            None => (OsString::new(), None),
        };
        let rebase = match backing {
            Some((name, true, format)) => Rebase::onto(&image, BackingName::exactly(name), format),
            Some((name, false, format)) => Rebase::onto(&image, name, format),
            None => Rebase::detach(&image),
        };
        let mut rebase = with!(rebase, common).unsafe_mode(is_unsafe).compress(compress).force_share(share);
        rebase = rebase.verify(verify).stats(stats);
        if let Some(cache) = cache {
            rebase = rebase.cache(cache);
        }
        if let Some(cache) = backing_cache {
            rebase = rebase.backing_cache(cache);
        }
        if let Some(rate) = rate {
            rebase = rebase.rate_limit(rate);
        }
        let (command, found) = parsed(&rebase.arguments());
        prop_assert_eq!(command, "rebase");
        let mut options = of_common(&common, &image, &found);
        options.extend([
            ("backing", vec![name]),
            ("backing_format", Vec::from_iter(format)),
            ("cache", word(cache)),
            ("backing_cache", word(backing_cache)),
            ("rate", Vec::from_iter(rate.map(|rate| rate.to_string().into()))),
            ("is_unsafe", flag(is_unsafe)),
            ("compress", flag(compress)),
            ("force_share", flag(share)),
            ("verify", flag(verify)),
            ("stats", flag(stats)),
        ]);
        prop_assert_eq!(&found, &expected(options));
        let (command, planned) = parsed(&Plan::rebase(&rebase).arguments());
        prop_assert_eq!(command, "plan rebase");
        prop_assert_eq!(planned, found);
    }

    #[test]
    fn a_question_is_parsed_as_built(
        image in name(),
        [chain, share, stats] in any::<[bool; 3]>(),
        version in proptest::option::of(".{0,9}"),
        common in common(),
    ) {
        let mut info = with!(Info::new(&image), common).backing_chain(chain).force_share(share).stats(stats);
        if let Some(version) = &version {
            info = info.qemu_version(version);
        }
        let (command, found) = parsed(&info.arguments());
        prop_assert_eq!(command, "info");
        let mut options = of_common(&common, &image, &found);
        options.extend([
            ("backing_chain", flag(chain)),
            ("force_share", flag(share)),
            ("stats", flag(stats)),
            ("qemu_version", Vec::from_iter(version.map(OsString::from))),
        ]);
        prop_assert_eq!(&found, &expected(options));
    }
}

/// What a builder need not offer: how the program shows things to people, and several images at a time, which a caller starts itself.
const NOT_OFFERED: [&str; 4] = ["jobs", "quiet", "show_progress", "verbosity"];

#[test]
fn builders_offer_every_option_of_their_commands() {
    let everything: Common =
        (Some("qcow2".to_owned()), vec!["d".into()], [true; 2], Some(Sandbox::Kvm), BTreeSet::new());
    let keys: Common = (None, Vec::new(), [false; 2], None, BTreeSet::from([0]));
    let commit = with!(Commit::new("a"), everything).base("b").cache(Cache::None).rate_limit(1).check_siblings("d");
    let commit = commit.force(true).verify(true).stats(true);
    let rebase = with!(Rebase::onto("a", "b", "raw"), everything).unsafe_mode(true).compress(true).force_share(true);
    let rebase = rebase.cache(Cache::None).backing_cache(Cache::None).rate_limit(1).verify(true).stats(true);
    let info =
        with!(Info::new("a"), everything).backing_chain(true).force_share(true).stats(true).qemu_version("8.2.0");
    let lines = [
        commit.clone().afterwards(Afterwards::Keep).arguments(),
        commit.clone().afterwards(Afterwards::Empty).arguments(),
        commit.clone().afterwards(Afterwards::Delete).arguments(),
        with!(Commit::new("a"), keys).arguments(),
        rebase.arguments(),
        with!(Rebase::detach("a"), keys).arguments(),
        info.arguments(),
        with!(Info::new("a"), keys).arguments(),
        Plan::commit(&commit.clone().afterwards(Afterwards::Keep)).svg("s").measure().arguments(),
        Plan::commit(&commit.clone().afterwards(Afterwards::Empty)).arguments(),
        Plan::commit(&commit.afterwards(Afterwards::Delete)).arguments(),
        Plan::commit(&with!(Commit::new("a"), keys)).arguments(),
        Plan::rebase(&rebase).svg("s").measure().arguments(),
        Plan::rebase(&with!(Rebase::detach("a"), keys)).arguments(),
    ];
    let mut offered: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in &lines {
        let (command, given) = parsed(line);
        offered.entry(command).or_default().extend(given.into_keys());
    }
    let root = definition();
    for (path, mut offered) in offered {
        let options = command(&root, &path).get_arguments().map(|argument| argument.get_id().as_str());
        let wanted = options.filter(|id| *id != "help" && !NOT_OFFERED.contains(id)).map(str::to_owned);
        // A plan has no progress.
        offered.extend(path.starts_with("plan commit").then(|| "progress".to_owned()));
        // With `rebase` it is a flag, for people alone.
        let is_for_people = |id: &String| path.ends_with("rebase") && id == "progress";
        assert_eq!(offered, wanted.filter(|id| !is_for_people(id)).collect(), "{path}");
    }
}

#[test]
fn the_program_is_the_one_that_is_named_first() {
    let named = Commit::new("a").program("/x/instar").settings;
    let not_named = Commit::new("a").settings;
    let says = |path: &str| Some(OsString::from(path));
    assert_eq!(named.program_with(says("/y/instar")), PathBuf::from("/x/instar"));
    assert_eq!(not_named.program_with(says("/y/instar")), PathBuf::from("/y/instar"));
    assert_eq!(not_named.program_with(says("")), PathBuf::from("instar"));
    assert_eq!(not_named.program_with(None), PathBuf::from("instar"));
}
