//! The weights of a model: reading safetensors and GGUF, and writing the hub's folders.

mod encoding;
mod error;
mod export;
mod file;
mod gguf;
mod load;
mod model_files;
mod names;
mod safetensors;
mod store;

pub use error::{
    GgufFault, LoadReport, SafetensorsFault, ShapeMismatch, ShardIndexFault, WeightsError,
};
pub use export::SaveOptions;
pub use file::FileAccess;
pub use load::{LoadOptions, WeightType};
pub use model_files::ModelFiles;

pub(crate) use file::read_small_file;
