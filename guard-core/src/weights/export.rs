//! Writing a model's folder as the hub has it, so that transformers and vLLM load it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use burn::tensor::DType;
use serde_json::json;

use super::error::WeightsError;
use super::tensor_file::{NamedTensor, atomically, write_tensors};
use crate::model::Llama;
use crate::tokenizer::Tokenizer;

/// How a model is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveOptions {
    /// The largest file of weights, in bytes; a larger model is written as several files and an
    /// index. Default 5 GB, as on the hub.
    pub max_shard_bytes: usize,
    /// A token that ends a text, beside those of the model's configuration: what the model was
    /// trained to write. Default none.
    pub end_token: Option<u32>,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { max_shard_bytes: 5_000_000_000, end_token: None }
    }
}

impl SaveOptions {
    /// The same options with another largest file.
    #[must_use]
    pub fn with_max_shard_bytes(mut self, bytes: usize) -> Self {
        self.max_shard_bytes = bytes;
        self
    }

    /// The same options with a token that ends a text, written into `config.json` beside those
    /// that the model has.
    #[must_use]
    pub fn with_end_token(mut self, id: u32) -> Self {
        self.end_token = Some(id);
        self
    }
}

impl Llama {
    /// Writes `config.json`, the weights in their own float type and, where one is given,
    /// `tokenizer.json` into a folder, which is made if it is not there. Each file appears
    /// whole or not at all; `config.json` comes last. Adapters are merged into the weights.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] names the file that could not be written.
    pub fn save_folder(
        &self,
        folder: impl AsRef<Path>,
        tokenizer: Option<&Tokenizer>,
        options: SaveOptions,
    ) -> Result<(), WeightsError> {
        if self.has_adapters() {
            return self.clone().merge_adapters().save_folder(folder, tokenizer, options);
        }
        let folder = folder.as_ref();
        let config_path = folder.join("config.json");
        let tensors = self.named_tensors();
        let dtype = tensors.first().map_or(DType::F32, |tensor| tensor.values.dtype());
        let mut config = self.config().clone();
        config.eos.extend(options.end_token.filter(|id| !self.config().eos.contains(id)));
        let config = config
            .to_json(dtype_name(dtype))
            .map_err(|source| WeightsError::Config { path: config_path.clone(), source })?;
        fs::create_dir_all(folder).map_err(|source| WeightsError::io("write", folder, source))?;
        write_weights(folder, tensors, options.max_shard_bytes)?;
        if let Some(tokenizer) = tokenizer {
            write_atomically(&folder.join("tokenizer.json"), tokenizer.json().as_bytes())?;
        }
        write_atomically(&config_path, config.as_bytes())
    }
}

fn dtype_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

fn write_weights(
    folder: &Path,
    tensors: Vec<NamedTensor>,
    max_bytes: usize,
) -> Result<(), WeightsError> {
    let total: usize = tensors.iter().map(|tensor| tensor.bytes()).sum();
    let shards = split(tensors, max_bytes);
    if let [shard] = shards.as_slice() {
        return write_tensors(&folder.join("model.safetensors"), shard);
    }
    let mut weight_map = BTreeMap::new();
    for (number, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        write_tensors(&folder.join(&file), shard)?;
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), file.clone())));
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    write_atomically(&folder.join("model.safetensors.index.json"), index.to_string().as_bytes())
}

/// Cuts the tensors into runs of at most `max_bytes`, at least one tensor each.
fn split(tensors: Vec<NamedTensor>, max_bytes: usize) -> Vec<Vec<NamedTensor>> {
    let mut shards: Vec<Vec<NamedTensor>> = vec![Vec::new()];
    let mut room = max_bytes;
    for tensor in tensors {
        let bytes = tensor.bytes();
        let started = shards.last().is_some_and(|shard| !shard.is_empty());
        if started && bytes > room {
            shards.push(Vec::new());
            room = max_bytes;
        }
        room = room.saturating_sub(bytes);
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    shards
}

pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
    atomically(path, |scratch| {
        let write = || fs::File::create(scratch)?.write_all(bytes);
        write().map_err(|source| WeightsError::io("write", path, source))
    })
}
