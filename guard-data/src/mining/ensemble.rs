//! Hard samples of several models as one set (paper, section 2.2 and 4.2).

use std::collections::HashSet;

use sha2::{Digest, Sha256};

use super::PreferencePair;

/// The pairs of one of the models that were trained on different parts of the data.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct EnsembleMember {
    /// The sets that it was not trained on, by the `source` of their samples.
    pub left_out: Vec<String>,
    /// Its pairs.
    pub pairs: Vec<PreferencePair>,
}

impl EnsembleMember {
    /// The pairs of a model that was trained on all sets but these.
    #[must_use]
    pub fn new(left_out: &[&str], pairs: Vec<PreferencePair>) -> Self {
        Self { left_out: left_out.iter().map(|&name| name.to_owned()).collect(), pairs }
    }
}

/// Which pairs make the ensemble's set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MergeRule {
    /// Those of the model itself, and those of all members.
    Paper,
    /// As the released code: of a set that some member left out, the pairs of those members that
    /// did not; of other sets, the pairs of the model itself.
    Released,
}

/// The pairs of an ensemble.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Merged {
    /// The pairs: of one prompt, the first.
    pub pairs: Vec<PreferencePair>,
    /// Pairs that were left out because of that.
    pub duplicates: usize,
    /// Sets that a member is said not to have seen and that no pair is of: most likely misspelt.
    pub unknown_sets: Vec<String>,
}

/// Merges the pairs of a model with those of others. Weights stay as they are: each model's were
/// scaled on its own.
///
/// Sets come in the order in which `own` and then the members name them.
#[must_use]
pub fn merge_ensemble(
    own: Vec<PreferencePair>,
    members: Vec<EnsembleMember>,
    rule: MergeRule,
) -> Merged {
    let unknown_sets = unknown_sets(&own, &members);
    let pairs = match rule {
        MergeRule::Paper => {
            let of_members = members.into_iter().flat_map(|member| member.pairs);
            own.into_iter().chain(of_members).collect()
        }
        MergeRule::Released => by_set(&own, &members),
    };
    let mut seen = HashSet::new();
    let all = pairs.len();
    let pairs: Vec<PreferencePair> =
        pairs.into_iter().filter(|pair| seen.insert(prompt_hash(pair))).collect();
    Merged { duplicates: all - pairs.len(), pairs, unknown_sets }
}

fn prompt_hash(pair: &PreferencePair) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update((pair.instruction.len() as u64).to_le_bytes());
    hasher.update(&pair.instruction);
    hasher.update(&pair.input);
    hasher.finalize().into()
}

fn unknown_sets(own: &[PreferencePair], members: &[EnsembleMember]) -> Vec<String> {
    let pairs = || own.iter().chain(members.iter().flat_map(|member| &member.pairs));
    let is_unknown = |set: &&String| !pairs().any(|pair| pair.source.as_ref() == Some(set));
    let left_out = members.iter().flat_map(|member| &member.left_out);
    let mut unknown: Vec<String> = left_out.filter(is_unknown).cloned().collect();
    unknown.sort();
    unknown.dedup();
    unknown
}

fn by_set(own: &[PreferencePair], members: &[EnsembleMember]) -> Vec<PreferencePair> {
    let mut sets: Vec<Option<String>> = Vec::new();
    for pair in own.iter().chain(members.iter().flat_map(|member| &member.pairs)) {
        if !sets.contains(&pair.source) {
            sets.push(pair.source.clone());
        }
    }
    let mut pairs = Vec::new();
    for set in sets {
        let left_out =
            |member: &EnsembleMember| set.as_ref().is_some_and(|set| member.left_out.contains(set));
        let of_set = |pair: &&PreferencePair| pair.source == set;
        if members.iter().any(left_out) {
            let saw = members.iter().filter(|member| !left_out(member));
            pairs.extend(saw.flat_map(|member| &member.pairs).filter(of_set).cloned());
        } else {
            pairs.extend(own.iter().filter(of_set).cloned());
        }
    }
    pairs
}
