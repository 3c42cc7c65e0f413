//! Which text of several stands for them.

use std::fmt;
use std::str::FromStr;

use rand::{Rng, RngExt};

/// Which of the right texts is chosen, and which of the wrong ones is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Selection {
    /// The longest in characters; of equals the first (released code).
    Longest,
    /// Any, with the same probability (paper, section 2.2).
    Random,
    /// The shortest in characters; of equals the first.
    Shortest,
}

impl Selection {
    pub(super) fn pick(
        self,
        places: &[usize],
        length: impl Fn(usize) -> usize,
        rng: &mut impl Rng,
    ) -> Option<usize> {
        let places = places.iter().copied();
        match self {
            // Of equals, `max_by_key` takes the last.
            Self::Longest => places.rev().max_by_key(|place| length(*place)),
            Self::Shortest => places.min_by_key(|place| length(*place)),
            Self::Random if places.len() == 0 => None,
            Self::Random => places.clone().nth(rng.random_range(0..places.len())),
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Longest => "longest",
            Self::Random => "random",
            Self::Shortest => "shortest",
        })
    }
}

/// A word that names no selection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown selection `{0}`: expected `longest`, `random` or `shortest`")]
pub struct UnknownSelection(pub String);

impl FromStr for Selection {
    type Err = UnknownSelection;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Longest, Self::Random, Self::Shortest]
            .into_iter()
            .find(|selection| selection.to_string() == word)
            .ok_or_else(|| UnknownSelection(word.to_owned()))
    }
}
