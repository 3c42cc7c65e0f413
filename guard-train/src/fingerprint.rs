//! Hashes that tell whether a run goes on with what it began with.

use std::fmt::{Debug, Write};

use guard_core::{Llama, WeightsError};
use sha2::{Digest, Sha256};

use crate::example::TrainingExample;

/// A longer `Debug` form is kept as its hash.
const LONGEST_TEXT: usize = 2000;

/// SHA-256 in hexadecimal digits.
pub(crate) fn hex(hash: Sha256) -> String {
    let mut text = String::with_capacity(64);
    for byte in hash.finalize() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The `Debug` form of a value, which shows every field; its hash where that is long.
pub(crate) fn of_debug(value: &impl Debug) -> String {
    let text = format!("{value:?}");
    match text.len() {
        0..=LONGEST_TEXT => text,
        _ => format!("SHA-256 {}", hex(Sha256::new_with_prefix(text))),
    }
}

/// The hash of examples: their tokens, and what the objective knows of them. Where they came from
/// is not in it.
pub(crate) fn of_examples<E: Debug>(examples: &[TrainingExample<E>]) -> String {
    let mut hash = Sha256::new();
    for example in examples {
        for answer in &example.answers {
            hash.update((answer.tokens.len() as u64).to_le_bytes());
            hash.update((answer.prompt_tokens as u64).to_le_bytes());
            let tokens = answer.tokens.iter().flat_map(|token| token.to_le_bytes());
            hash.update(tokens.collect::<Vec<u8>>());
        }
        hash.update(format!("{:?}\n", example.example));
    }
    hex(hash)
}

/// Which weights of a model a hash is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weights {
    /// All of them.
    All,
    /// Those that training leaves as they are.
    Frozen,
}

/// The hash of a model: its shape, the names of its parameters, the scales of its adapters, and
/// weights of it.
pub(crate) fn of_model(model: &Llama, weights: Weights) -> Result<String, WeightsError> {
    let mut hash = Sha256::new_with_prefix(format!("{:?}", model.config()));
    for (layer, scale) in model.adapter_scales() {
        hash.update(format!("{layer} {scale:?}"));
    }
    let mut failure = None;
    model.visit_parameters(&mut |parameter, values| {
        hash.update(format!("{} {:?}", parameter.name, parameter.shape));
        if weights == Weights::Frozen && parameter.trained {
            return;
        }
        match values.try_into_data() {
            Ok(data) => hash.update(data.as_bytes()),
            Err(error) => {
                let tensor = parameter.name.clone();
                failure =
                    Some(WeightsError::Device { tensor, source: format!("{error:?}").into() });
            }
        }
    });
    failure.map_or_else(|| Ok(hex(hash)), Err)
}
