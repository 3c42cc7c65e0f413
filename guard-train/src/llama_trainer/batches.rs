//! A window, and how it is cut to fit the memory.

use crate::example::TrainingExample;
use crate::objective::{Objective, Window};
use crate::options::TrainOptions;

pub(super) fn window_of<O: Objective>(
    objective: &O,
    examples: &[&TrainingExample<O::Example>],
) -> Window {
    let count = |example: &&TrainingExample<O::Example>| objective.target_tokens(&example.example);
    Window { examples: examples.len(), target_tokens: examples.iter().map(count).sum() }
}

/// A window in parts that fit the memory, of examples of like length: longest first, so that a
/// lack of memory shows at once.
pub(crate) fn batches<'a, E>(
    examples: &[&'a TrainingExample<E>],
    options: &TrainOptions,
) -> Vec<Vec<&'a TrainingExample<E>>> {
    batches_by(|example| example.tokens(), examples, options)
}

/// The same for whatever has a number of tokens.
pub(crate) fn batches_by<'a, T>(
    tokens_of: impl Fn(&T) -> usize,
    items: &[&'a T],
    options: &TrainOptions,
) -> Vec<Vec<&'a T>> {
    let mut sorted = items.to_vec();
    sorted.sort_by_key(|item| std::cmp::Reverse(tokens_of(item)));
    let most = options.examples_per_batch.unwrap_or(usize::MAX);
    let mut batches: Vec<Vec<&T>> = Vec::new();
    let mut tokens = 0;
    for item in sorted {
        let size = tokens_of(item);
        match batches.last_mut() {
            Some(batch) if batch.len() < most && tokens + size <= options.tokens_per_batch => {
                batch.push(item);
                tokens += size;
            }
            _ => {
                batches.push(vec![item]);
                tokens = size;
            }
        }
    }
    batches
}
