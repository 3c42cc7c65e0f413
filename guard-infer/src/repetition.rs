//! Noticing that a text goes round in circles.

use std::collections::{HashSet, VecDeque};

use guard_core::RepetitionStop;

use crate::sampler::fnv1a;

/// Follows one text, token by token.
#[derive(Debug)]
pub(crate) struct RepetitionDetector {
    rule: RepetitionStop,
    recent: VecDeque<u32>,
    seen: HashSet<u64>,
    window: VecDeque<bool>,
    repeated: usize,
}

impl RepetitionDetector {
    pub(crate) fn new(rule: RepetitionStop) -> Self {
        Self {
            rule,
            recent: VecDeque::new(),
            seen: HashSet::new(),
            window: VecDeque::new(),
            repeated: 0,
        }
    }

    /// Adds a token and says whether the text is to be given up.
    pub(crate) fn push(&mut self, token: u32) -> bool {
        self.recent.push_back(token);
        if self.recent.len() > self.rule.ngram {
            self.recent.pop_front();
        }
        let whole = self.recent.len() == self.rule.ngram;
        let repeats = whole
            && !self.seen.insert(fnv1a(self.recent.iter().flat_map(|token| token.to_le_bytes())));
        self.window.push_back(repeats);
        self.repeated += usize::from(repeats);
        if self.window.len() > self.rule.window {
            self.repeated -= usize::from(self.window.pop_front().unwrap_or(false));
        }
        let limit = f64::from(self.rule.ratio) * self.rule.window as f64;
        self.window.len() == self.rule.window && self.repeated as f64 >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stops_at(rule: RepetitionStop, tokens: impl IntoIterator<Item = u32>) -> Option<usize> {
        let mut detector = RepetitionDetector::new(rule);
        tokens.into_iter().position(|token| detector.push(token)).map(|index| index + 1)
    }

    #[test]
    fn a_loop_is_given_up_and_a_text_is_not() {
        let rule = RepetitionStop { window: 16, ngram: 4, ratio: 1.0 };
        // A cycle of 3 repeats its 4-grams from token 7 on, so 16 in a row are there at 22.
        assert_eq!(stops_at(rule, (0..100).map(|i| i % 3)), Some(22));
        assert_eq!(stops_at(rule, 0..1000), None);
        assert_eq!(stops_at(RepetitionStop::default(), (0..2048).map(|i| i * i % 4093)), None);
    }

    #[test]
    fn a_loop_that_counts_is_given_up_too() {
        // Twenty tokens again and again of which one is new each time.
        let counting = (0..2048).map(|i| if i % 20 == 0 { 1000 + i } else { i % 20 });
        assert!(stops_at(RepetitionStop::default(), counting).is_some());
    }

    /// The default rule on the published outputs of the 1B and the 8B model, in LLaMA 3's tokens:
    /// it gives up all that ran on for more than 1,000 tokens and none of the others.
    #[test]
    #[allow(clippy::print_stderr)]
    fn published_outputs_that_run_on_are_given_up_and_no_others() {
        let shared = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
        let vocabulary = shared.join("tokenizers/llama3/tokenizer.json");
        if !vocabulary.exists() {
            eprintln!("skipped: no LLaMA 3 tokenizer and published outputs beside the project");
            return;
        }
        let tokenizer = guard_core::Tokenizer::from_file(vocabulary).unwrap();
        let (mut outputs, mut run_on) = (0, Vec::new());
        for model in ["1B", "8B"] {
            for folder in std::fs::read_dir(shared.join("data/predictions").join(model)).unwrap() {
                let path = folder.unwrap().path().join("generated_predictions.jsonl");
                for line in std::fs::read_to_string(path).unwrap().lines() {
                    let row: serde_json::Value = serde_json::from_str(line).unwrap();
                    let text = guard_core::Prompt::text(row["predict"].as_str().unwrap());
                    let tokens = tokenizer.encode(&text).unwrap()[1..].to_vec();
                    let length = tokens.len();
                    let stop = stops_at(RepetitionStop::default(), tokens);
                    assert_eq!(stop.is_some(), length > 1000, "an output of {length} tokens");
                    outputs += 1;
                    run_on.extend(stop);
                }
            }
        }
        run_on.sort_unstable();
        eprintln!("{} of {outputs} outputs given up, after {run_on:?} tokens", run_on.len());
        assert_eq!((outputs, run_on.len()), (4390, 7));
    }
}
