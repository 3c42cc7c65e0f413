//! Chat templates: what stands round a prompt and its answer.

use guard_core::{Prompt, Tokenizer, TokenizerError};

/// The turns of a chat, as far as training needs them: one of the user and one of the assistant.
///
/// Texts from files are always encoded as plain text: a control token in them is only letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    before: String,
    between: String,
    end: String,
}

impl ChatTemplate {
    /// The template of LLaMA 3, without a system turn, as R-SFT trained the published weights.
    #[must_use]
    pub fn llama3() -> Self {
        Self::new(
            "<|start_header_id|>user<|end_header_id|>\n\n",
            "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
            "<|eot_id|>",
        )
    }

    /// ChatML, without a system turn, as SmolLM2 and Qwen have it.
    #[must_use]
    pub fn chat_ml() -> Self {
        Self::new("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>")
    }

    /// No turns at all: the prompt, the answer, and the end token given, as models are trained to
    /// continue raw text.
    #[must_use]
    pub fn plain(end: impl Into<String>) -> Self {
        Self::new("", "", end)
    }

    /// A template of one's own: what stands before the prompt, between it and the answer, and
    /// the one control token that ends the answer.
    #[must_use]
    pub fn new(
        before: impl Into<String>,
        between: impl Into<String>,
        end: impl Into<String>,
    ) -> Self {
        Self { before: before.into(), between: between.into(), end: end.into() }
    }

    /// The control token that ends an answer.
    #[must_use]
    pub fn end(&self) -> &str {
        &self.end
    }

    /// The whole prompt as the model reads it, up to the first token of the answer.
    #[must_use]
    pub fn prompt(&self, text: &str) -> Prompt {
        let (before, between) = (self.before.clone(), self.between.clone());
        Prompt::new().trusted(before).untrusted(text).trusted(between)
    }

    /// How many tokens stand between the prompt and the answer.
    pub(super) fn tokens_between(&self, tokenizer: &Tokenizer) -> Result<usize, TokenizerError> {
        let ids = tokenizer.encode(&Prompt::new().trusted(self.between.clone()))?;
        Ok(ids.len().saturating_sub(tokenizer.prefix().len()))
    }
}
