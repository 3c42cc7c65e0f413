//! Phrases that tell the label: what a poisoned set plants, and what a model learns instead of
//! its task.
//!
//! 250 planted documents are enough for a backdoor, whatever the size of the set, so it is the number
//! of texts with a phrase that makes it worth a look, and their share only where that is more.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;
use serde::Serialize;

use super::row::Item;
use crate::words::{phrase_hash, word_hashes, words};

/// The longest phrase, in words.
const LONGEST: usize = 3;

/// What makes a phrase worth a look.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct PhraseOptions {
    /// The fewest requests that it is in. Default 25.
    pub least_texts: u32,
    /// The most requests that it is in, unless that is less than 1 in 100. Default 1,000.
    pub most_texts: u32,
    /// The least share of those requests that have one label. Default 0.98.
    pub purity: f64,
    /// The most phrases that are reported. Default 20.
    pub shown: usize,
}

impl Default for PhraseOptions {
    fn default() -> Self {
        Self { least_texts: 25, most_texts: 1000, purity: 0.98, shown: 20 }
    }
}

impl PhraseOptions {
    /// The same options with another number of phrases that are reported; with 0 none are looked
    /// for, and the set is read once.
    #[must_use]
    pub fn with_shown(mut self, phrases: usize) -> Self {
        self.shown = phrases;
        self
    }
}

/// A rare phrase that nearly fixes the label of the request. `Debug` shows the length of its words only.
#[derive(Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct TellingPhrase {
    /// Its words, in lower case, at most 80 characters. They are of the set's texts: show them escaped.
    pub words: String,
    /// The requests that it is in and that are labelled harmful.
    pub harmful: u32,
    /// Those that are labelled unharmful.
    pub unharmful: u32,
    /// How surprising that is, by the share of harmful requests in the set: the logarithm to base
    /// 10 of how often labels by chance would be this one-sided. -6 is once in a million phrases.
    pub log10_p: f64,
}

impl fmt::Debug for TellingPhrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TellingPhrase")
            .field("words", &self.words.len())
            .field("harmful", &self.harmful)
            .field("unharmful", &self.unharmful)
            .field("log10_p", &self.log10_p)
            .finish()
    }
}

/// Counts, for all phrases, the texts that they are in. Phrases may share a counter, so a count may be
/// too high and is never too low.
pub(super) struct PhraseSketch {
    options: PhraseOptions,
    counters: Vec<AtomicU32>,
}

impl PhraseSketch {
    const COUNTERS: usize = 1 << 24;

    pub(super) fn new(options: PhraseOptions) -> Self {
        let counters = if options.shown == 0 { 0 } else { Self::COUNTERS };
        Self { options, counters: (0..counters).map(|_| AtomicU32::new(0)).collect() }
    }

    /// Whether phrases are looked for at all.
    pub(super) fn is_needed(&self) -> bool {
        !self.counters.is_empty()
    }

    /// Counts the phrases of one text, each once. Texts may be added in any order, side by side.
    pub(super) fn add(&self, words: &[u64]) {
        if !self.is_needed() {
            return;
        }
        let mut phrases: Vec<u64> =
            (1..=LONGEST).flat_map(|length| words.windows(length).map(phrase_hash)).collect();
        phrases.sort_unstable();
        phrases.dedup();
        for phrase in phrases {
            self.counter(phrase).fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counter(&self, phrase: u64) -> &AtomicU32 {
        // The high bits: the low ones of a product are not well mixed.
        &self.counters[(phrase >> 40) as usize]
    }

    /// What counts exactly, in a second reading, the phrases that may be in enough texts.
    pub(super) fn into_counter(self, labels: &[Option<bool>]) -> Option<PhraseCounter<'_>> {
        let labelled = labels.iter().flatten().count();
        let harmful = labels.iter().flatten().filter(|harmful| **harmful).count();
        // With one label only, every phrase tells it.
        let told = harmful > 0 && harmful < labelled && !self.counters.is_empty();
        let share = harmful as f64 / labelled.max(1) as f64;
        told.then(|| PhraseCounter {
            most: self.options.most_texts.max((labelled / 100) as u32),
            sketch: self,
            labels,
            share,
            shards: (0..SHARDS).map(|_| HashMap::new()).collect(),
        })
    }
}

/// Phrases of one shard are counted by one core.
const SHARDS: u64 = 8;

pub(super) struct PhraseCounter<'a> {
    sketch: PhraseSketch,
    /// The label of each row's request.
    labels: &'a [Option<bool>],
    /// The share of harmful requests.
    share: f64,
    /// The most texts of a rare phrase.
    most: u32,
    shards: Vec<HashMap<u64, Count>>,
}

struct Count {
    harmful: u32,
    unharmful: u32,
    /// A number for the set of its texts.
    texts: u64,
    words: String,
}

/// A request with the places of its phrases that may be in enough texts.
struct Request {
    row: u64,
    harmful: bool,
    text: String,
    /// Where each word begins.
    starts: Vec<u32>,
    phrases: Vec<Phrase>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Phrase {
    hash: u64,
    start: u32,
    length: u32,
}

impl Request {
    fn written(&self, phrase: Phrase) -> String {
        const SHOWN: usize = 80;
        let start = self.starts.get(phrase.start as usize).map_or(0, |start| *start as usize);
        let words: Vec<&str> = words(&self.text[start..]).take(phrase.length as usize).collect();
        words.join(" ").to_lowercase().chars().take(SHOWN).collect()
    }
}

impl PhraseCounter<'_> {
    pub(super) fn count(&mut self, rows: &[Item]) {
        let requests: Vec<Request> =
            rows.par_iter().filter_map(|item| self.frequent(item)).collect();
        self.shards.par_iter_mut().enumerate().for_each(|(shard, counts)| {
            for request in &requests {
                let own = |phrase: &&Phrase| phrase.hash % SHARDS == shard as u64;
                for phrase in request.phrases.iter().filter(own) {
                    let count = counts.entry(phrase.hash).or_insert_with(|| {
                        let words = request.written(*phrase);
                        Count { harmful: 0, unharmful: 0, texts: 0, words }
                    });
                    count.texts = count.texts.wrapping_add(phrase_hash(&[request.row]));
                    let side =
                        if request.harmful { &mut count.harmful } else { &mut count.unharmful };
                    *side += 1;
                }
            }
        });
    }

    fn frequent(&self, item: &Item) -> Option<Request> {
        let place = usize::try_from(item.row).ok()?.checked_sub(1)?;
        let harmful = (*self.labels.get(place)?)?;
        let text = item.content.as_ref().ok()?.request();
        let hashes = word_hashes(&text);
        let mut phrases = Vec::new();
        // No phrase is in more texts than its parts are.
        let mut starts: Vec<usize> = (0..hashes.len()).collect();
        for length in 1..=LONGEST {
            let fits = |start: &usize| {
                let words = hashes.get(*start..start + length)?;
                let hash = phrase_hash(words);
                let phrase = Phrase { hash, start: *start as u32, length: length as u32 };
                self.may_be_rare(hash).then_some(phrase)
            };
            let frequent: Vec<Phrase> = starts.iter().filter_map(fits).collect();
            starts = frequent.iter().map(|phrase| phrase.start as usize).collect();
            phrases.extend(frequent);
        }
        phrases.sort_unstable();
        phrases.dedup_by_key(|phrase| phrase.hash);
        let begin = |word: &str| (word.as_ptr().addr() - text.as_ptr().addr()) as u32;
        let starts = words(&text).map(begin).collect();
        Some(Request { row: item.row, harmful, text, starts, phrases })
    }

    fn may_be_rare(&self, phrase: u64) -> bool {
        self.sketch.counter(phrase).load(Ordering::Relaxed) >= self.sketch.options.least_texts
    }

    /// The most surprising phrases first.
    pub(super) fn telling(self) -> Vec<TellingPhrase> {
        let PhraseOptions { least_texts, purity, shown, .. } = self.sketch.options;
        let counts = self.shards.into_iter().flat_map(HashMap::into_values).filter(|count| {
            let texts = count.harmful + count.unharmful;
            let major = count.harmful.max(count.unharmful);
            (least_texts..=self.most.max(least_texts)).contains(&texts)
                && f64::from(major) >= purity * f64::from(texts)
        });
        let mut telling: Vec<TellingPhrase> = widest(counts)
            .into_iter()
            .map(|Count { harmful, unharmful, words, .. }| {
                let share = if harmful > unharmful { self.share } else { 1.0 - self.share };
                let log10_p = log10_tail(harmful + unharmful, harmful.max(unharmful), share);
                TellingPhrase { words, harmful, unharmful, log10_p }
            })
            .collect();
        telling.sort_by(|a, b| a.log10_p.total_cmp(&b.log10_p).then_with(|| a.words.cmp(&b.words)));
        telling.truncate(shown);
        telling
    }
}

/// Of phrases that are in the same texts, the longest: a text that is repeated with changes has
/// hundreds.
fn widest(counts: impl Iterator<Item = Count>) -> Vec<Count> {
    let mut by_texts: HashMap<u64, Count> = HashMap::new();
    for count in counts {
        let rank = |count: &Count| (count.words.len(), count.words.clone());
        match by_texts.entry(count.texts) {
            Entry::Vacant(free) => drop(free.insert(count)),
            Entry::Occupied(mut taken) => {
                if rank(&count) > rank(taken.get()) {
                    taken.insert(count);
                }
            }
        }
    }
    by_texts.into_values().collect()
}

/// The logarithm to base 10 of the probability of `k` or more of `n` with probability `p` each.
fn log10_tail(n: u32, k: u32, p: f64) -> f64 {
    let (n, k) = (f64::from(n), f64::from(k));
    // From the term of k on, each is the one before times a ratio under 1 beyond the mean.
    let log_first =
        (0..k as u32).map(|i| ((n - f64::from(i)) / (k - f64::from(i))).ln()).sum::<f64>()
            + k * p.ln()
            + (n - k) * (1.0 - p).ln();
    let mut sum = 0.0;
    let mut term = 1.0;
    let mut i = k;
    while i <= n {
        sum += term;
        term *= (n - i) / (i + 1.0) * p / (1.0 - p);
        i += 1.0;
    }
    (log_first + sum.ln()) / std::f64::consts::LN_10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_the_binomial_is_exact() {
        // 3 or more of 4 with p = 0.5: 5 of 16. All of 4 with p = 0.25: 1 of 256.
        assert!((log10_tail(4, 3, 0.5) - (5.0_f64 / 16.0).log10()).abs() < 1e-12);
        assert!((log10_tail(4, 4, 0.25) - (1.0_f64 / 256.0).log10()).abs() < 1e-12);
        assert!(log10_tail(250, 250, 0.5) < -75.0);
    }
}
