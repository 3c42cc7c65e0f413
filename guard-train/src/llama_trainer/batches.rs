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
    let mut sorted = examples.to_vec();
    sorted.sort_by_key(|example| std::cmp::Reverse(example.tokens()));
    let most = options.examples_per_batch.unwrap_or(usize::MAX);
    let mut batches: Vec<Vec<&TrainingExample<E>>> = Vec::new();
    let mut tokens = 0;
    for example in sorted {
        let size = example.tokens();
        match batches.last_mut() {
            Some(batch) if batch.len() < most && tokens + size <= options.tokens_per_batch => {
                batch.push(example);
                tokens += size;
            }
            _ => {
                batches.push(vec![example]);
                tokens = size;
            }
        }
    }
    batches
}
