//! The tokenizer: text to tokens and back, with control tokens only where we wrote them.

mod encode;
mod error;
mod file;
pub(crate) mod patterns;
mod stream;
mod trim;

pub use encode::Tokenizer;
pub use error::TokenizerError;
pub use stream::TextStream;
pub use trim::TrimmedTokenizer;
