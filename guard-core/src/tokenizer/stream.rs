//! Text as it is generated: pieces that are whole characters.

use std::ops::Deref;

use super::encode::Tokenizer;
use super::error::TokenizerError;

/// Decodes tokens one by one. A token may end within a character; its bytes are held back until
/// the character is whole. `T` is the tokenizer, borrowed or shared.
#[derive(Debug)]
pub struct TextStream<T> {
    tokenizer: T,
    ids: Vec<u32>,
    /// Tokens before this one give the context in which the next piece is decoded.
    context: usize,
    /// Tokens before this one were given out.
    given: usize,
}

/// After so many tokens without a whole character the bytes are no UTF-8 at all.
const MAX_HELD: usize = 8;

impl<T: Deref<Target = Tokenizer>> TextStream<T> {
    /// A text without a token yet.
    pub fn new(tokenizer: T) -> Self {
        Self { tokenizer, ids: Vec::new(), context: 0, given: 0 }
    }

    /// Adds a token and returns the text that is whole now, which may be empty.
    ///
    /// # Errors
    ///
    /// A failure of the tokenizers crate.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        if !self.tokenizer.is_control(id) {
            self.ids.push(id);
        }
        let held = self.ids.len() - self.given;
        let text = self.pending()?;
        if held == 0 || (text.ends_with('\u{fffd}') && held < MAX_HELD) {
            return Ok(String::new());
        }
        self.context = self.given;
        self.given = self.ids.len();
        Ok(text)
    }

    /// Returns what is held back, incomplete characters as U+FFFD.
    ///
    /// # Errors
    ///
    /// A failure of the tokenizers crate.
    pub fn finish(mut self) -> Result<String, TokenizerError> {
        let text = self.pending()?;
        self.given = self.ids.len();
        Ok(text)
    }

    /// The text of the tokens that were not given out, decoded behind their context, since some
    /// decoders treat the first token of a text in their own way.
    fn pending(&self) -> Result<String, TokenizerError> {
        let before = self.tokenizer.decode(&self.ids[self.context..self.given])?;
        let whole = self.tokenizer.decode(&self.ids[self.context..])?;
        Ok(whole.get(before.len()..).unwrap_or_default().to_owned())
    }
}
