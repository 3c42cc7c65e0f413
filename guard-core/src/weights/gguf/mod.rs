//! Reading GGUF files: tensors, the shape of the model, and its vocabulary.

mod metadata;
mod model;
mod reader;
mod tokenizer;

pub(super) use reader::GgufFile;
