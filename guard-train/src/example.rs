//! What a trainer of token models learns from.

use std::fmt;

use guard_core::{LlamaConfig, ModelError};

/// An example for [`LlamaTrainer`](crate::LlamaTrainer): its answers as tokens, and what the
/// objective knows about it. Supervised examples have one answer, preference pairs two, the
/// chosen one first.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct TrainingExample<E> {
    /// The answers, in the order in which the objective counts their target tokens.
    pub answers: Vec<AnswerSequence>,
    /// The example as the objective sees it.
    pub example: E,
    row: Option<usize>,
}

impl<E> TrainingExample<E> {
    /// An example with these answers.
    #[must_use]
    pub fn new(answers: Vec<AnswerSequence>, example: E) -> Self {
        Self { answers, example, row: None }
    }

    /// The same example, made of this row of its source, from 0.
    #[must_use]
    pub fn with_row(mut self, row: usize) -> Self {
        self.row = Some(row);
        self
    }

    /// The row of its source, from 0, if that is known. It is not its place in the data where
    /// rows were dropped before.
    #[must_use]
    pub fn row(&self) -> Option<usize> {
        self.row
    }

    /// What the user is told of the example at this place: its row, or else its place.
    pub(crate) fn row_or(&self, place: usize) -> usize {
        self.row.unwrap_or(place)
    }

    /// Checks what a model of this shape refuses to read.
    pub(crate) fn check(&self, config: &LlamaConfig) -> Result<(), ModelError> {
        let (vocab_size, limit) = (config.vocab_size, config.max_positions);
        for answer in self.answers.iter().filter(|answer| answer.target_tokens() > 0) {
            if let Some(&id) = answer.tokens.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(ModelError::TokenOutOfRange { id, vocab_size });
            }
            let tokens = answer.read().len();
            if tokens > limit {
                return Err(ModelError::ContextFull { tokens, limit });
            }
        }
        Ok(())
    }

    /// The tokens of all answers, prompts included.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.answers.iter().map(|answer| answer.tokens.len()).sum()
    }

    /// The target tokens of all answers.
    #[must_use]
    pub fn target_tokens(&self) -> usize {
        self.answers.iter().map(AnswerSequence::target_tokens).sum()
    }
}

/// A prompt and an answer to it, as one row of tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct AnswerSequence {
    /// The prompt's tokens, then the answer's.
    pub tokens: Vec<u32>,
    /// How many of them are the prompt's.
    pub prompt_tokens: usize,
}

impl AnswerSequence {
    /// A row of a prompt and an answer. A model predicts a token from those before it, so where
    /// there is no prompt the first token of the answer is not learnt.
    #[must_use]
    pub fn new(prompt: &[u32], answer: &[u32]) -> Self {
        let tokens = [prompt, answer].concat();
        Self { tokens, prompt_tokens: prompt.len() }
    }

    /// How many tokens are learnt.
    #[must_use]
    pub fn target_tokens(&self) -> usize {
        self.tokens.len().saturating_sub(self.first_target())
    }

    /// The first token that is predicted from another.
    fn first_target(&self) -> usize {
        self.prompt_tokens.max(1)
    }

    /// What the model reads: the last token predicts nothing.
    pub(crate) fn read(&self) -> &[u32] {
        self.tokens.split_last().map_or(&[], |(_, before)| before)
    }

    /// The tokens that are predicted.
    pub(crate) fn targets(&self) -> &[u32] {
        self.tokens.get(self.first_target()..).unwrap_or_default()
    }

    /// The places of [`AnswerSequence::read`] that predict them.
    pub(crate) fn places(&self) -> std::ops::Range<usize> {
        let end = self.tokens.len().saturating_sub(1);
        (self.first_target() - 1).min(end)..end
    }
}

/// Which of a trainer's two sets of examples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ExampleSet {
    /// What it learns from.
    Data,
    /// What it measures its loss on.
    Validation,
}

impl fmt::Display for ExampleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Data => "the data",
            Self::Validation => "the validation set",
        })
    }
}

/// Where an example is, as errors name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ExamplePlace {
    /// The set that it is in.
    pub set: ExampleSet,
    /// Its place in the set as it was given, from 0.
    pub index: usize,
    /// The row of its source, from 0, if that is known.
    pub row: Option<usize>,
}

impl ExamplePlace {
    pub(crate) fn new<E>(set: ExampleSet, index: usize, example: &TrainingExample<E>) -> Self {
        Self { set, index, row: example.row() }
    }
}

impl fmt::Display for ExamplePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "example {} of {}", self.index, self.set)?;
        match self.row {
            Some(row) => write!(f, " (row {row} of its source)"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_knows_its_row_and_errors_name_it() {
        let example = TrainingExample::new(Vec::new(), ());
        assert_eq!((example.row(), example.row_or(3)), (None, 3));
        let place = ExamplePlace::new(ExampleSet::Validation, 3, &example);
        assert_eq!(place.to_string(), "example 3 of the validation set");
        let example = example.with_row(5);
        assert_eq!((example.row(), example.row_or(3)), (Some(5), 5));
        let place = ExamplePlace::new(ExampleSet::Data, 3, &example);
        assert_eq!(place.to_string(), "example 3 of the data (row 5 of its source)");
    }

    #[test]
    fn what_a_model_cannot_read_is_known_before_it_reads() {
        let config = LlamaConfig::tiny(8);
        let limit = config.max_positions;
        let check = |tokens: &[u32]| {
            TrainingExample::new(vec![AnswerSequence::new(&[1], tokens)], ()).check(&config)
        };
        assert_eq!(check(&[7, 2]), Ok(()));
        assert_eq!(check(&[2, 8]), Err(ModelError::TokenOutOfRange { id: 8, vocab_size: 8 }));
        // The last token is not read.
        assert_eq!(check(&vec![2; limit]), Ok(()));
        let tokens = limit + 1;
        assert_eq!(check(&vec![2; tokens]), Err(ModelError::ContextFull { tokens, limit }));
        // Nobody reads a row of which nothing is learnt.
        let nothing = AnswerSequence::new(&[9], &[]);
        assert_eq!(TrainingExample::new(vec![nothing], ()).check(&config), Ok(()));
    }

    #[test]
    fn each_target_is_predicted_from_the_token_before_it() {
        let row = AnswerSequence::new(&[1, 2], &[3, 4]);
        assert_eq!((row.read(), row.targets()), ([1, 2, 3].as_slice(), [3, 4].as_slice()));
        assert_eq!((row.places(), row.target_tokens()), (1..3, 2));
        let bare = AnswerSequence::new(&[], &[3, 4]);
        assert_eq!((bare.targets(), bare.places()), ([4].as_slice(), 0..1));
        for nothing in [AnswerSequence::new(&[1, 2], &[]), AnswerSequence::new(&[], &[])] {
            assert_eq!((nothing.target_tokens(), nothing.places().len()), (0, 0));
        }
    }
}
