//! What a trainer of token models learns from.

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
}

impl<E> TrainingExample<E> {
    /// An example with these answers.
    #[must_use]
    pub fn new(answers: Vec<AnswerSequence>, example: E) -> Self {
        Self { answers, example }
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

#[cfg(test)]
mod tests {
    use super::*;

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
