//! Landlock: no file can be reached any more but by a descriptor that is open; no socket can be bound or connected.

use std::os::fd::{BorrowedFd, OwnedFd};

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::layers::Layer;

const NAME: &str = "landlock";
/// The newest interface whose rights are asked for; an older kernel restricts what it knows.
const NEWEST: ABI = ABI::V10;

/// The first number behind standard input, output and error.
const FIRST_FREE: i32 = 3;

/// Shuts everything; out of one directory files can still be removed.
pub(super) fn shut(removes_from: Option<BorrowedFd<'_>>) -> Layer {
    match restrict(removes_from) {
        Ok(RestrictionStatus {
            landlock: LandlockStatus::Available { effective_abi, kernel_abi }, ruleset, ..
        }) if ruleset != RulesetStatus::NotEnforced => {
            let abi = kernel_abi.unwrap_or(effective_abi as i32);
            Layer::active(NAME, format!("ABI {abi}"))
        }
        Ok(RestrictionStatus { landlock: LandlockStatus::NotEnabled, .. }) => {
            Layer::missing(NAME, "the kernel has it but it is off; add landlock to the boot option lsm=")
        }
        Ok(_) => Layer::missing(NAME, "the kernel has none; Linux has it from version 5.13 on"),
        Err(error) => Layer::missing(NAME, error.to_string()),
    }
}

fn restrict(removes_from: Option<BorrowedFd<'_>>) -> Result<RestrictionStatus, RulesetError> {
    let rules = no_rights()?;
    let rules = match removes_from {
        None => rules,
        Some(directory) => rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?,
    };
    rules.restrict_self()
}

fn no_rights() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()
}

/// Rules that shut everything, for another process to follow, under a number that is not one of the standard channels.
pub(super) fn rules_without_rights() -> (Layer, Option<OwnedFd>) {
    const NAME: &str = "landlock of the guest";
    let made = no_rights().map_err(|error| error.to_string()).and_then(|rules| {
        let rules = Option::<OwnedFd>::from(rules).ok_or("the kernel has none, or it is off")?;
        let dup = rustix::io::fcntl_dupfd_cloexec(&rules, FIRST_FREE);
        dup.map_err(|error| std::io::Error::from(error).to_string())
    });
    match made {
        Ok(rules) => (Layer::active(NAME, ""), Some(rules)),
        Err(reason) => (Layer::missing(NAME, reason), None),
    }
}
