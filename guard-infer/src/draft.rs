//! Guessing what a text goes on with. The model reads guesses beside the newest token, and as many of them are
//! kept as it would have chosen: the text is the same, in fewer steps.

use std::collections::HashMap;
use std::sync::OnceLock;

use guard_core::{Prompt, Tokenizer};

use crate::sampler::fnv1a;

/// The most tokens that are guessed ahead in a step, of all texts.
const MAX_GUESSES: usize = 6;

/// Guesses at one text, from what it and its prompt say elsewhere and from phrases that are known.
pub(crate) struct Drafter {
    ids: Vec<u32>,
    /// Where it went on the last time behind these tokens.
    pairs: HashMap<[u32; 2], usize>,
    triples: HashMap<[u32; 3], usize>,
    /// How many guesses are worth trying.
    length: usize,
    /// How often in a row nothing came true, and for how many steps nothing is guessed therefore.
    wrong: u32,
    rest: usize,
}

impl Drafter {
    /// Texts side by side up to which guessing pays: beyond, a step costs as much as its tokens.
    pub(crate) const MAX_ROWS: usize = 4;

    /// Guesses at a text that continues this prompt.
    pub(crate) fn new(prompt: &[u32]) -> Self {
        let mut drafter = Self {
            ids: Vec::with_capacity(2 * prompt.len()),
            pairs: HashMap::new(),
            triples: HashMap::new(),
            length: 2,
            wrong: 0,
            rest: 0,
        };
        drafter.learn(prompt);
        drafter
    }

    /// The text went on with these.
    pub(crate) fn learn(&mut self, tokens: &[u32]) {
        for &token in tokens {
            let at = self.ids.len();
            if let Some(&pair) = self.ids.last_chunk() {
                self.pairs.insert(pair, at);
            }
            if let Some(&triple) = self.ids.last_chunk() {
                self.triples.insert(triple, at);
            }
            self.ids.push(token);
        }
    }

    /// So many guesses were made, and so many came true. Where none does again and again, as in texts that are
    /// drawn, the next try comes later and later.
    pub(crate) fn judge(&mut self, guessed: usize, came_true: usize) {
        match (guessed, came_true) {
            (0, _) => self.rest = self.rest.saturating_sub(1),
            (_, 0) => {
                (self.length, self.rest) = (1, (1 << self.wrong) - 1);
                self.wrong = (self.wrong + 1).min(6);
            }
            _ => {
                let all = came_true == guessed;
                self.length = if all { (guessed + 2).min(MAX_GUESSES) } else { came_true };
                self.wrong = 0;
            }
        }
    }

    /// How many guesses are worth trying beside so many texts, which share what a step can take.
    pub(crate) fn most(&self, rows: usize) -> usize {
        let most = self.length.min(MAX_GUESSES / rows.max(1));
        if self.rest > 0 { 0 } else { most }
    }

    /// At most so many tokens that may follow: those that are likely, and what usually follows them.
    pub(crate) fn guess(&self, likely: &[u32], phrases: &PhraseTable, most: usize) -> Vec<u32> {
        let mut context: Vec<u32> = self.ids[self.ids.len().saturating_sub(PHRASE)..].to_vec();
        let start = context.len();
        context.extend(likely.iter().take(most));
        while context.len() - start < most {
            let next = phrases.next(&context).or_else(|| self.said_before(&context));
            let Some(next) = next else { break };
            context.push(next);
        }
        context.split_off(start)
    }

    fn said_before(&self, context: &[u32]) -> Option<u32> {
        let triple = context.last_chunk().and_then(|triple| self.triples.get(triple));
        let pair = || context.last_chunk().and_then(|pair| self.pairs.get(pair));
        triple.or_else(pair).map(|&at| self.ids[at])
    }
}

/// The longest context of a phrase, in tokens.
const PHRASE: usize = 4;

/// The shortest one.
const SHORTEST: usize = 2;

/// In what share of its contexts a phrase has to have been seen.
const SHARE: f64 = 0.4;

/// What a model usually writes behind some tokens, from texts of its kind. Contexts are kept as hashes: where
/// two of them meet, a guess is wrong, and nothing else.
#[derive(Debug, Default)]
pub(crate) struct PhraseTable {
    next: HashMap<u64, u32>,
}

/// A table that is made of its texts when it is needed: answers at once need none.
#[derive(Debug, Default)]
pub(crate) struct Phrases {
    texts: Vec<String>,
    table: OnceLock<PhraseTable>,
}

impl Phrases {
    pub(crate) fn new(texts: Vec<String>) -> Self {
        Self { texts, table: OnceLock::new() }
    }

    pub(crate) fn table(&self, tokenizer: &Tokenizer) -> &PhraseTable {
        self.table.get_or_init(|| PhraseTable::learn(tokenizer, &self.texts))
    }
}

impl PhraseTable {
    /// The phrases of texts. What cannot be encoded has none.
    fn learn(tokenizer: &Tokenizer, texts: &[String]) -> Self {
        let mut counts: HashMap<u64, HashMap<u32, u32>> = HashMap::new();
        for text in texts {
            let ids = tokenizer.encode(&Prompt::text(text)).unwrap_or_default();
            let ids = &ids[tokenizer.prefix().len().min(ids.len())..];
            for length in SHORTEST..=PHRASE {
                for phrase in ids.windows(length + 1) {
                    let (context, next) = (&phrase[..length], phrase[length]);
                    *counts.entry(hash(context)).or_default().entry(next).or_default() += 1;
                }
            }
        }
        let usual = |(context, next): (u64, HashMap<u32, u32>)| {
            let all: u32 = next.values().sum();
            // Of equals the lower token, so that a table is the same each time.
            let (token, count) =
                next.into_iter().min_by_key(|&(token, count)| (u32::MAX - count, token))?;
            (f64::from(count) >= SHARE * f64::from(all)).then_some((context, token))
        };
        Self { next: counts.into_iter().filter_map(usual).collect() }
    }

    fn next(&self, context: &[u32]) -> Option<u32> {
        if self.next.is_empty() {
            return None;
        }
        let lengths = (SHORTEST..=PHRASE.min(context.len())).rev();
        lengths.filter_map(|n| self.next.get(&hash(&context[context.len() - n..]))).next().copied()
    }
}

fn hash(context: &[u32]) -> u64 {
    fnv1a(context.iter().flat_map(|token| token.to_le_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_before_is_guessed_again() {
        let mut drafter = Drafter::new(&[1, 2, 3, 4, 5, 1, 2, 9, 7, 1, 2]);
        let none = PhraseTable::default();
        // Behind 1, 2 came 9 the last time; behind 7, 1, 2 nothing has come yet.
        assert_eq!(drafter.guess(&[], &none, 3), [9, 7, 1]);
        drafter.learn(&[3]);
        assert_eq!(drafter.guess(&[], &none, 2), [4, 5]);
        assert_eq!(drafter.guess(&[4], &none, 2), [4, 5]);
        assert_eq!(drafter.guess(&[8, 8], &none, 4), [8, 8]);
        assert!(Drafter::new(&[]).guess(&[], &none, 4).is_empty());
    }

    #[test]
    fn guesses_are_as_long_as_they_come_true() {
        let mut drafter = Drafter::new(&[]);
        drafter.judge(2, 2);
        assert_eq!(drafter.most(1), 4);
        drafter.judge(4, 4);
        drafter.judge(6, 6);
        assert_eq!((drafter.most(1), drafter.most(Drafter::MAX_ROWS)), (MAX_GUESSES, 1));
        drafter.judge(6, 2);
        assert_eq!(drafter.most(1), 2);
        // Once wrong is tried again at once, twice after a step, and so on.
        for rest in [0, 1, 3, 7] {
            drafter.judge(1, 0);
            for _ in 0..rest {
                assert_eq!(drafter.most(1), 0);
                drafter.judge(0, 0);
            }
            assert_eq!(drafter.most(1), 1);
        }
    }
}
