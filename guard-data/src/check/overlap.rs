//! Texts of benchmarks in a training set.

use std::collections::HashMap;

use super::report::Problem;
use crate::sample::Sample;
use crate::words::{phrase_hash, word_hashes};

/// The words in a row that make a text known: as many as GPT-3's authors took.
const NGRAM: usize = 13;

/// The requests of benchmarks, as numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlap {
    names: Vec<String>,
    /// Whole requests, whatever their case and punctuation, and the benchmark of each.
    whole: HashMap<u64, usize>,
    phrases: HashMap<u64, usize>,
}

/// A text of a benchmark that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OverlapHit {
    pub(super) problem: Problem,
    pub(super) name: String,
}

impl Overlap {
    pub(super) fn add(&mut self, benchmark: &str, sample: &Sample) {
        let number = match self.names.iter().position(|name| name == benchmark) {
            Some(number) => number,
            None => {
                self.names.push(benchmark.to_owned());
                self.names.len() - 1
            }
        };
        let words = word_hashes(&sample.prompt);
        if words.is_empty() {
            return;
        }
        // A text that is in two benchmarks is told of the first.
        self.whole.entry(phrase_hash(&words)).or_insert(number);
        for phrase in words.windows(NGRAM) {
            self.phrases.entry(phrase_hash(phrase)).or_insert(number);
        }
    }

    /// Whether there is anything to find.
    pub(super) fn is_needed(&self) -> bool {
        !self.names.is_empty()
    }

    /// The benchmark that a text of these words is in, whole or in part.
    pub(super) fn find(&self, words: &[u64]) -> Option<OverlapHit> {
        if words.is_empty() {
            return None;
        }
        let hit =
            |problem, number: &usize| OverlapHit { problem, name: self.names[*number].clone() };
        if let Some(number) = self.whole.get(&phrase_hash(words)) {
            return Some(hit(Problem::InBenchmark, number));
        }
        let known = words.windows(NGRAM).find_map(|phrase| self.phrases.get(&phrase_hash(phrase)));
        known.map(|number| hit(Problem::PartlyInBenchmark, number))
    }
}
