//! How long a model takes, whatever it says.

use std::time::{Duration, Instant};

use crate::error::GenerateError;
use crate::generator::LlamaGenerator;

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
            let best = logits[0].iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
            let id = best.map_or(0, |(id, _)| id as u32);
            logits = rows.logits(&[&[id]])?;
        }
        Ok(Timing { prefill, decode: started.elapsed() - prefill })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use guard_core::LoadOptions;
    use guard_core::burn::tensor::Device;

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
    }
}
