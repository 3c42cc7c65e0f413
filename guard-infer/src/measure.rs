//! What can be measured of a model, whatever it says: how long it takes, and how well it foresees texts.

use std::time::{Duration, Instant};

use guard_core::Prompt;

use crate::error::GenerateError;
use crate::generator::LlamaGenerator;
use crate::sampler::argmax;

/// What [`LlamaGenerator::time`] measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// From the prompt to the logits behind it.
    pub prefill: Duration,
    /// From these to the logits behind the last token that was written.
    pub decode: Duration,
}

impl LlamaGenerator {
    /// Reads a prompt of arbitrary tokens, and writes `written` more: always the most probable one, also
    /// where that would end the text, and without guesses ahead. For benchmarks.
    ///
    /// # Errors
    ///
    /// [`GenerateError::EmptyPrompt`] without a prompt, [`GenerateError::TooLong`] when both do not fit
    /// into the context, or what the device failed with.
    pub fn time(&self, prompt: usize, written: usize) -> Result<Timing, GenerateError> {
        let (tokens, limit) = (prompt.saturating_add(written), self.config().max_positions);
        if prompt == 0 {
            return Err(GenerateError::EmptyPrompt);
        }
        if tokens > limit {
            return Err(GenerateError::TooLong { tokens, limit });
        }
        let vocabulary = self.config().vocab_size;
        let ids: Vec<u32> = (0..prompt).map(|at| (at * 7919 % vocabulary) as u32).collect();
        let mut rows = self.engine().rows(1, tokens);
        let started = Instant::now();
        let mut logits = rows.logits(&[&ids])?;
        let prefill = started.elapsed();
        for _ in 0..written {
            let id = argmax(&logits[0]);
            logits = rows.logits(&[&[id]])?;
        }
        Ok(Timing { prefill, decode: started.elapsed() - prefill })
    }

    /// The log-probability of a text's tokens behind the first together, and how many these are: the
    /// perplexity of texts is `exp(-sum / count)`. What does not fit into the context is left out.
    ///
    /// # Errors
    ///
    /// [`GenerateError::EmptyPrompt`] when there are less than two tokens, or what the tokenizer or the
    /// device failed with.
    pub fn log_probability(&self, text: &str) -> Result<(f64, usize), GenerateError> {
        let mut ids = self.tokenizer().encode(&Prompt::text(text))?;
        ids.truncate(self.config().max_positions);
        if ids.len() < 2 {
            return Err(GenerateError::EmptyPrompt);
        }
        let sums = self.engine().rows(1, ids.len()).log_probabilities(&[&ids])?;
        Ok((sums.iter().sum(), ids.len() - 1))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use guard_core::burn::tensor::Device;
    use guard_core::{LoadOptions, ModelFiles, TokenBatch, log_sum_exp};

    use super::*;

    #[test]
    fn what_cannot_be_read_is_refused() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../guard-core/testdata/models/tied-gqa-llama3");
        let generator =
            LlamaGenerator::open(path, LoadOptions::default(), &Device::flex()).unwrap();
        let timing = generator.time(500, 12).unwrap();
        assert!(timing.prefill > Duration::ZERO && timing.decode > Duration::ZERO);
        assert!(matches!(generator.time(0, 1), Err(GenerateError::EmptyPrompt)));
        let error = generator.time(500, 13).unwrap_err();
        assert!(matches!(error, GenerateError::TooLong { tokens: 513, limit: 512 }));
        assert!(generator.time(usize::MAX, 1).is_err());
        assert!(matches!(generator.log_probability(""), Err(GenerateError::EmptyPrompt)));
    }

    #[test]
    fn a_text_is_as_probable_as_its_tokens() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../guard-core/testdata/models/tied-gqa-llama3");
        let files = ModelFiles::open(path).unwrap();
        let (model, _) = files.load(LoadOptions::default(), &Device::flex()).unwrap();
        let tokenizer = files.tokenizer().unwrap();
        let ids = tokenizer.encode(&Prompt::text("How is bread baked?")).unwrap();
        let hidden = model.forward(&TokenBatch::new(&[&ids]).unwrap(), None).unwrap();
        let logits = model.logits(hidden).try_into_vec_as::<f32>().unwrap();
        let rows = logits.chunks_exact(model.config().vocab_size).zip(&ids[1..]);
        let expected: f64 =
            rows.map(|(row, &id)| f64::from(row[id as usize]) - log_sum_exp(row)).sum();
        let generator = LlamaGenerator::new(model, tokenizer).unwrap();
        let (sum, count) = generator.log_probability("How is bread baked?").unwrap();
        assert_eq!(count, ids.len() - 1);
        assert!((sum - expected).abs() < 1e-3, "{sum} {expected}");
        let long = generator.log_probability(&"word ".repeat(2000)).unwrap();
        assert_eq!(long.1, 511);
    }
}
