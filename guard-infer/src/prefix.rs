//! What prompts begin with, read once.

use std::sync::Mutex;

use guard_core::{PackedCache, PackedLlama, PackedPiece, Prompt, Segment, Tokenizer};

use crate::call::Call;
use crate::error::GenerateError;
use crate::queue::lock;
use crate::turn::Turns;

/// The beginnings of prompts that are kept: a format has one for each of its modes.
const KEPT: usize = 4;

/// The fewest tokens that are worth keeping.
const LEAST: usize = 8;

/// Instructions that have been read. Only text of ours is kept, never a text that is judged: neither its
/// words nor how long they took tell one caller of another's.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    kept: Mutex<Vec<Prefix>>,
}

#[derive(Clone, Debug)]
struct Prefix {
    text: String,
    ids: Vec<u32>,
    cache: PackedCache,
}

impl Prefixes {
    /// A cache with what the prompt begins with, of whose tokens at least one is left to be read.
    pub(crate) fn begin(
        &self,
        (model, turns): (&PackedLlama, &Turns),
        call: &Call,
        prompt: &Prompt,
        ids: &[u32],
    ) -> Result<PackedCache, GenerateError> {
        let [Segment::Trusted(text), _, ..] = prompt.segments() else { return Ok(model.cache()) };
        let prefix = match self.find(text) {
            Some(prefix) => prefix,
            None => {
                // Whoever is over waits no longer; nothing will be read.
                let Some(_turn) = turns.take_all(call) else {
                    return Ok(model.cache());
                };
                // Another caller may have read it meanwhile.
                match self.find(text) {
                    Some(prefix) => prefix,
                    None => self.keep(read(model, &call.tokenizer, text)?),
                }
            }
        };
        let alike = prefix.ids.iter().zip(ids).take_while(|(a, b)| a == b).count();
        let alike = alike.min(prefix.cache.len()).min(ids.len() - 1);
        let mut cache = prefix.cache;
        cache.truncate(alike);
        Ok(cache)
    }

    fn find(&self, text: &str) -> Option<Prefix> {
        let kept = lock(&self.kept);
        kept.iter().find(|prefix| prefix.text == text).cloned()
    }

    fn keep(&self, prefix: Prefix) -> Prefix {
        let mut kept = lock(&self.kept);
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push(prefix.clone());
        prefix
    }
}

fn read(model: &PackedLlama, tokenizer: &Tokenizer, text: &str) -> Result<Prefix, GenerateError> {
    let ids = tokenizer.encode(&Prompt::new().trusted(text.to_owned()))?;
    let mut cache = model.cache();
    if ids.len() >= LEAST && ids.len() < model.config().max_positions {
        model.forward(&mut [PackedPiece::new(&ids, &mut cache)], &[])?;
    }
    Ok(Prefix { text: text.to_owned(), ids, cache })
}
