//! Landlock: no file can be reached any more but by a descriptor that is open; no socket can be bound or connected.

use std::os::fd::BorrowedFd;

use landlock::{
    ABI, Access, AccessFs, AccessNet, LandlockStatus, PathBeneath, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};

use super::layers::Layer;

const NAME: &str = "landlock";
/// The newest interface whose rights are asked for; an older kernel restricts what it knows.
const NEWEST: ABI = ABI::V10;

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
    let rules = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    let rules = match removes_from {
        None => rules,
        Some(directory) => rules.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?,
    };
    rules.restrict_self()
}
