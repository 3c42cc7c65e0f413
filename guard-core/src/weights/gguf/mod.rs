//! GGUF files: tensors, the shape of the model, and its vocabulary.

mod metadata;
mod model;
mod reader;
mod tokenizer;
mod vocabulary;
mod writer;

pub(super) use reader::GgufFile;
pub use writer::{GgufOptions, GgufType, UnknownGgufType};
