//! The model behind a generator: on burn, or on packed weights on the CPU.

use guard_core::burn::tensor::activation::log_softmax;
use guard_core::burn::tensor::{Int, Tensor, TensorData};
use guard_core::{KvCache, Llama, LlamaConfig, TokenBatch};
#[cfg(feature = "flex")]
use guard_core::{PackedCache, PackedLlama, PackedPiece};

use crate::error::GenerateError;

/// A model that reads tokens.
#[derive(Debug)]
pub(crate) enum Engine {
    Burn(Box<Llama>),
    #[cfg(feature = "flex")]
    Packed(Box<PackedLlama>),
}

/// Sequences that a model reads, and what it has read of each.
pub(crate) enum Rows<'a> {
    Burn(&'a Llama, KvCache),
    #[cfg(feature = "flex")]
    Packed(&'a PackedLlama, Vec<PackedCache>),
}

impl Engine {
    pub(crate) fn config(&self) -> &LlamaConfig {
        match self {
            Self::Burn(model) => model.config(),
            #[cfg(feature = "flex")]
            Self::Packed(model) => model.config(),
        }
    }

    /// Rows of which nothing is read, with room for `capacity` tokens each.
    pub(crate) fn rows(&self, count: usize, capacity: usize) -> Rows<'_> {
        match self {
            Self::Burn(model) => Rows::Burn(model, model.cache(count, capacity)),
            #[cfg(feature = "flex")]
            Self::Packed(model) => Rows::Packed(model, (0..count).map(|_| model.cache()).collect()),
        }
    }
}

impl Rows<'_> {
    fn vocab_size(&self) -> usize {
        match self {
            Self::Burn(model, _) => model.config().vocab_size,
            #[cfg(feature = "flex")]
            Self::Packed(model, _) => model.config().vocab_size,
        }
    }

    /// Whether they lie on packed weights.
    pub(crate) fn is_packed(&self) -> bool {
        !matches!(self, Self::Burn(..))
    }

    /// The number of tokens that are read of each row.
    pub(crate) fn lengths(&self) -> Vec<usize> {
        match self {
            Self::Burn(_, cache) => cache.lengths().to_vec(),
            #[cfg(feature = "flex")]
            Self::Packed(_, caches) => caches.iter().map(PackedCache::len).collect(),
        }
    }

    /// Rows of which row `i` is a copy of row `rows[i]`.
    pub(crate) fn select(&self, rows: &[usize]) -> Self {
        match self {
            Self::Burn(model, cache) => Self::Burn(model, cache.select(rows)),
            #[cfg(feature = "flex")]
            Self::Packed(model, caches) => {
                Self::Packed(model, rows.iter().map(|&row| caches[row].clone()).collect())
            }
        }
    }

    /// Reads tokens behind each row.
    pub(crate) fn read(&mut self, tokens: &[&[u32]]) -> Result<(), GenerateError> {
        match self {
            Self::Burn(model, cache) => {
                model.forward(&TokenBatch::new(tokens)?, Some(cache))?;
            }
            #[cfg(feature = "flex")]
            Self::Packed(model, caches) => {
                model.forward(&mut pieces(caches, tokens), &[])?;
            }
        }
        Ok(())
    }

    /// The same, and gives the logits behind the last token of each row.
    pub(crate) fn logits(&mut self, tokens: &[&[u32]]) -> Result<Vec<Vec<f32>>, GenerateError> {
        let values = match self {
            Self::Burn(model, cache) => {
                let batch = TokenBatch::new(tokens)?;
                let hidden = model.forward(&batch, Some(cache))?;
                let last = model.gather(hidden, &batch.last_places());
                model.logits(last).try_into_vec_as::<f32>()?
            }
            #[cfg(feature = "flex")]
            Self::Packed(model, caches) => {
                model.forward(&mut pieces(caches, tokens), &last_places(tokens))?
            }
        };
        Ok(values.chunks_exact(self.vocab_size()).map(<[f32]>::to_vec).collect())
    }

    /// The log-probability of each row's tokens behind the first, together. All are read but the last.
    pub(crate) fn log_probabilities(
        &mut self,
        texts: &[&[u32]],
    ) -> Result<Vec<f64>, GenerateError> {
        let read: Vec<&[u32]> = texts.iter().map(|text| &text[..text.len() - 1]).collect();
        let next = texts.iter().flat_map(|text| &text[1..]);
        let wanted: Vec<(usize, u32)> = next.copied().enumerate().collect();
        let mut found = self.read_and_score(&read, &wanted)?.into_iter();
        let sum = |text: &&[u32]| found.by_ref().take(text.len() - 1).sum();
        Ok(texts.iter().map(sum).collect())
    }

    /// Reads tokens behind each row, and gives the log-probability of each of some tokens: pairs of a place,
    /// counted through all rows and in rising order, and a token behind it.
    pub(crate) fn read_and_score(
        &mut self,
        tokens: &[&[u32]],
        wanted: &[(usize, u32)],
    ) -> Result<Vec<f64>, GenerateError> {
        match self {
            Self::Burn(model, cache) => on_burn(model, cache, tokens, wanted),
            #[cfg(feature = "flex")]
            Self::Packed(model, caches) => {
                Ok(model.log_probabilities(&mut pieces(caches, tokens), wanted)?)
            }
        }
    }
}

fn on_burn(
    model: &Llama,
    cache: &mut KvCache,
    tokens: &[&[u32]],
    wanted: &[(usize, u32)],
) -> Result<Vec<f64>, GenerateError> {
    let batch = TokenBatch::new(tokens)?;
    let hidden = model.forward(&batch, Some(cache))?;
    let (rows, width) = (tokens.iter().enumerate(), batch.width());
    let all: Vec<usize> =
        rows.flat_map(|(row, ids)| (0..ids.len()).map(move |at| row * width + at)).collect();
    let places: Vec<usize> = wanted.iter().map(|(place, _)| all[*place]).collect();
    let logits = model.logits(model.gather(hidden, &places));
    let ids: Vec<i32> = wanted.iter().map(|(_, id)| *id as i32).collect();
    let shape = [ids.len(), 1];
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &logits.device());
    let found = log_softmax(logits, 1).gather(1, ids).try_into_vec_as::<f32>()?;
    Ok(found.into_iter().map(f64::from).collect())
}

#[cfg(feature = "flex")]
fn pieces<'a>(caches: &'a mut [PackedCache], tokens: &[&'a [u32]]) -> Vec<PackedPiece<'a>> {
    tokens.iter().zip(caches).map(|(tokens, cache)| PackedPiece::new(tokens, cache)).collect()
}

/// The place of each row's last token, counted through all rows.
#[cfg(feature = "flex")]
fn last_places(tokens: &[&[u32]]) -> Vec<usize> {
    let ends = tokens.iter().scan(0, |end, tokens| {
        *end += tokens.len();
        Some(*end)
    });
    ends.map(|end| end.saturating_sub(1)).collect()
}
