//! Which secret opens which image of a chain, as image options say it: `encrypt.key-secret=ID` for a qcow2 image,
//! `key-secret=ID` for a LUKS volume, with one `backing.` in front for every link below.
//!
//! Knows names of secrets, never a secret.

use std::collections::VecDeque;

/// What the options say of one image's key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LayerKey {
    /// `encrypt.format`.
    pub encrypt_format: Option<String>,
    /// `encrypt.key-secret`.
    pub encrypt_secret: Option<String>,
    /// `key-secret`.
    pub volume_secret: Option<String>,
}

/// What they say of an image and the images below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageKeys(VecDeque<LayerKey>);

/// An option that is about keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum KeyOption {
    EncryptFormat,
    EncryptSecret,
    VolumeSecret,
}

/// The most links that options reach down.
const MAX_DEPTH: usize = super::chain::MAX_LAYERS;

impl KeyOption {
    /// The option with this name, and how many links below it is about.
    pub(super) fn named(mut name: &str) -> Option<(usize, Self)> {
        let mut depth = 0;
        while let Some(rest) = name.strip_prefix("backing.") {
            (name, depth) = (rest, depth + 1);
        }
        let option = match name {
            "encrypt.format" => Self::EncryptFormat,
            "encrypt.key-secret" => Self::EncryptSecret,
            "key-secret" => Self::VolumeSecret,
            _ => return None,
        };
        (depth < MAX_DEPTH).then_some((depth, option))
    }
}

impl ImageKeys {
    pub(super) fn set(&mut self, depth: usize, option: KeyOption, value: String) {
        if self.0.len() <= depth {
            self.0.resize_with(depth + 1, LayerKey::default);
        }
        let key = &mut self.0[depth];
        let field = match option {
            KeyOption::EncryptFormat => &mut key.encrypt_format,
            KeyOption::EncryptSecret => &mut key.encrypt_secret,
            KeyOption::VolumeSecret => &mut key.volume_secret,
        };
        *field = Some(value);
    }

    /// What is said of the image itself, and what of the images below.
    #[must_use]
    pub fn split(mut self) -> (LayerKey, Self) {
        let own = self.0.pop_front().unwrap_or_default();
        (own, self)
    }

    /// What is said here, and where nothing is, in `others`.
    #[must_use]
    pub(super) fn or(mut self, others: Self) -> Self {
        if self.0.len() < others.0.len() {
            self.0.resize_with(others.0.len(), LayerKey::default);
        }
        for (own, other) in self.0.iter_mut().zip(others.0) {
            own.encrypt_format = own.encrypt_format.take().or(other.encrypt_format);
            own.encrypt_secret = own.encrypt_secret.take().or(other.encrypt_secret);
            own.volume_secret = own.volume_secret.take().or(other.volume_secret);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backing_is_one_link_further_down() {
        assert_eq!(KeyOption::named("encrypt.key-secret"), Some((0, KeyOption::EncryptSecret)));
        assert_eq!(KeyOption::named("backing.backing.key-secret"), Some((2, KeyOption::VolumeSecret)));
        assert_eq!(KeyOption::named("backing.encrypt.cipher"), None);
        assert_eq!(KeyOption::named(&format!("{}key-secret", "backing.".repeat(MAX_DEPTH))), None);
    }

    #[test]
    fn options_above_win_over_options_in_a_name() {
        let mut above = ImageKeys::default();
        above.set(1, KeyOption::EncryptSecret, "a".to_owned());
        let mut named = ImageKeys::default();
        named.set(0, KeyOption::EncryptSecret, "b".to_owned());
        let (top, below) = above.split();
        assert_eq!(top, LayerKey::default());
        let (own, _) = below.clone().or(named.clone()).split();
        assert_eq!(own.encrypt_secret.as_deref(), Some("a"));
        let (own, _) = ImageKeys::default().or(named).split();
        assert_eq!(own.encrypt_secret.as_deref(), Some("b"));
    }
}
