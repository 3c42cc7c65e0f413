//! Encoding prompts and decoding what a model wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use super::error::TokenizerError;
use super::file::{Loaded, Trust, guarded, load};
use super::stream::TextStream;
use crate::prompt::{Prompt, Segment};
use crate::weights::read_small_file;

/// A tokenizer whose control tokens can only be written by us.
///
/// All added tokens of the file count as control tokens. In [`Segment::Untrusted`] text none of
/// them is recognised: their letters are encoded like any other letters.
///
/// Trusted and untrusted text that stand side by side are encoded in one pass, because merges
/// reach over the seam; so a prompt has exactly the ids that the whole text would have.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// What stands before every text: the beginning-of-text token, or nothing.
    prefix: Vec<u32>,
    control: BTreeMap<String, u32>,
    control_ids: BTreeSet<u32>,
    /// The bytes of the longest token, or more.
    longest: usize,
    vocab_size: usize,
    json: String,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("prefix", &self.prefix)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// The longest text that is encoded, in bytes: more than any context holds, and little
    /// enough that hostile text is encoded in bounded time.
    pub const MAX_TEXT_BYTES: usize = 4 << 20;

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError`] when the file cannot be read, is dangerous or is none.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TokenizerError> {
        Self::from_json(&read_small_file(path.as_ref())?)
    }

    /// Reads the text of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// [`TokenizerError`] when the text is dangerous or no tokenizer.
    pub fn from_json(json: &str) -> Result<Self, TokenizerError> {
        Self::new(json, Trust::KnownPatterns)
    }

    /// Reads the text of a `tokenizer.json` whose author is trusted, with whatever regular
    /// expressions it has. A hostile one can take for ever on a short text.
    ///
    /// # Errors
    ///
    /// [`TokenizerError`] when the text is no tokenizer.
    pub fn from_trusted_json(json: &str) -> Result<Self, TokenizerError> {
        Self::new(json, Trust::AnyPattern)
    }

    fn new(json: &str, trust: Trust) -> Result<Self, TokenizerError> {
        let Loaded { tokenizer: inner, control } = load(json, trust)?;
        let control_ids = control.iter().map(|(_, id)| *id).collect();
        let control = control.into_iter().collect();
        let longest = inner.get_vocab(true).keys().map(String::len).max().unwrap_or(1).max(1);
        let (prefix, json) = (Vec::new(), json.to_owned());
        let largest = inner.get_vocab(true).into_values().max();
        let vocab_size = largest.map_or(0, |largest| largest as usize + 1);
        let mut tokenizer = Self { inner, prefix, control, control_ids, longest, vocab_size, json };
        tokenizer.prefix = tokenizer.find_prefix()?;
        Ok(tokenizer)
    }

    /// What the file's post-processor puts before a text.
    fn find_prefix(&self) -> Result<Vec<u32>, TokenizerError> {
        const PROBE: &str = "a";
        let plain = self.encode_with(PROBE, false)?;
        let whole = self.encode_with(PROBE, true)?;
        let before = whole.windows(plain.len().max(1)).position(|window| window == plain);
        Ok(whole[..before.unwrap_or(0)].to_vec())
    }

    /// The ids of a prompt, the beginning-of-text token before them once if the model has one.
    ///
    /// # Errors
    ///
    /// [`TokenizerError::TextTooLong`], or a failure of the tokenizers crate.
    pub fn encode(&self, prompt: &Prompt) -> Result<Vec<u32>, TokenizerError> {
        let (found, limit) = (prompt.len(), Self::MAX_TEXT_BYTES);
        if found > limit {
            return Err(TokenizerError::TextTooLong { found, limit });
        }
        let mut ids = self.prefix.clone();
        let mut run = String::new();
        for segment in prompt.segments() {
            match segment {
                Segment::Untrusted(text) => run.push_str(text),
                Segment::Trusted(text) => self.encode_trusted(text, &mut run, &mut ids)?,
            }
        }
        self.encode_run(&run, &mut ids)?;
        Ok(ids)
    }

    /// A number of tokens that the prompt has at least, known without encoding it: a hostile text
    /// that cannot fit into a context costs nothing.
    #[must_use]
    pub fn least_tokens(&self, prompt: &Prompt) -> usize {
        prompt.len().div_ceil(self.longest)
    }

    /// Adds trusted text to the run of plain text; at each control token in it the run ends.
    fn encode_trusted(
        &self,
        mut text: &str,
        run: &mut String,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        while let Some((at, token, id)) = self.first_control(text) {
            run.push_str(&text[..at]);
            self.encode_run(run, ids)?;
            run.clear();
            // The beginning-of-text token is there already.
            if self.prefix != [id] || ids.len() > self.prefix.len() {
                ids.push(id);
            }
            text = &text[at + token.len()..];
        }
        run.push_str(text);
        Ok(())
    }

    /// The first control token in a text, the longest of those that begin there.
    fn first_control(&self, text: &str) -> Option<(usize, &str, u32)> {
        let found = self
            .control
            .iter()
            .filter_map(|(token, id)| Some((text.find(token)?, token.as_str(), *id)));
        found.min_by_key(|(at, token, _)| (*at, usize::MAX - token.len()))
    }

    fn encode_run(&self, run: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if run.is_empty() {
            return Ok(());
        }
        let encoded = self.encode_with(run, false)?;
        match encoded.iter().find(|id| self.control_ids.contains(id)) {
            Some(&id) => Err(TokenizerError::ControlToken { id }),
            None => {
                ids.extend(encoded);
                Ok(())
            }
        }
    }

    fn encode_with(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TokenizerError> {
        guarded("encoding a text", || {
            let encoding = self.inner.encode_fast(text, add_special);
            Ok(encoding.map_err(TokenizerError::Tokenizers)?.get_ids().to_vec())
        })
    }

    /// The text of tokens, control tokens left out. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    ///
    /// A failure of the tokenizers crate.
    pub fn decode(&self, ids: &[u32]) -> Result<String, TokenizerError> {
        let text: Vec<u32> = ids.iter().copied().filter(|id| !self.is_control(*id)).collect();
        guarded("decoding tokens", || {
            self.inner.decode(&text, false).map_err(TokenizerError::Tokenizers)
        })
    }

    /// Decodes tokens one by one, in pieces that are whole characters.
    #[must_use]
    pub fn stream(&self) -> TextStream<&Self> {
        TextStream::new(self)
    }

    /// How large a vocabulary the tokens need, added ones included: one more than the largest id.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The id of a control token, by its text.
    #[must_use]
    pub fn control_id(&self, token: &str) -> Option<u32> {
        self.control.get(token).copied()
    }

    /// All control tokens.
    pub fn control_tokens(&self) -> impl Iterator<Item = (&str, u32)> {
        self.control.iter().map(|(token, id)| (token.as_str(), *id))
    }

    /// Whether a token is a control token.
    #[must_use]
    pub fn is_control(&self, id: u32) -> bool {
        self.control_ids.contains(&id)
    }

    /// What stands before every text: the beginning-of-text token, or nothing.
    #[must_use]
    pub fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// The text of the `tokenizer.json` that this was read from.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json
    }
}
