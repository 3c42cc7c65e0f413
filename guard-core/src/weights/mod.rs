//! The weights of a model: reading and writing the hub's folders and GGUF files.

mod adapter;
mod encoding;
mod error;
mod export;
mod file;
mod gguf;
mod load;
mod model_files;
mod names;
#[cfg(feature = "flex")]
mod packed;
mod safetensors;
mod store;
mod tensor_file;

pub use error::{
    AdapterFault, GgufFault, LoadReport, SafetensorsFault, ShapeMismatch, ShardIndexFault,
    WeightsError,
};
pub use export::SaveOptions;
pub use file::FileAccess;
pub use gguf::{GgufOptions, GgufType, UnknownGgufType};
pub use load::{LoadOptions, PackedType, UnknownPackedType, WeightType};
pub use model_files::ModelFiles;
pub use tensor_file::{NamedTensor, TensorFile, write_tensors};

pub(crate) use file::read_small_file;
#[cfg(all(test, feature = "flex"))]
pub(crate) use packed::row;
