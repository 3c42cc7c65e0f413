//! Writing a model's folder as the hub has it, so that transformers and vLLM load it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use ::safetensors::{Dtype, SafeTensorError, View};
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor};
use burn_pack::AtomicFile;
use serde_json::json;

use super::error::{SafetensorsFault, WeightsError};
use super::load::survey;
use crate::model::Llama;
use crate::tokenizer::Tokenizer;

/// How a model is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SaveOptions {
    /// The largest file of weights, in bytes; a larger model is written as several files and an
    /// index. Default 5 GB, as on the hub.
    pub max_shard_bytes: usize,
}

impl Default for SaveOptions {
    fn default() -> Self {
        Self { max_shard_bytes: 5_000_000_000 }
    }
}

impl SaveOptions {
    /// The same options with another largest file.
    #[must_use]
    pub fn with_max_shard_bytes(mut self, bytes: usize) -> Self {
        self.max_shard_bytes = bytes;
        self
    }
}

impl Llama {
    /// Writes `config.json`, the weights in their own float type and, where one is given,
    /// `tokenizer.json` into a folder, which is made if it is not there. Each file appears
    /// whole or not at all; `config.json` comes last.
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
        let folder = folder.as_ref();
        let config_path = folder.join("config.json");
        let tensors = Named::of(self);
        let dtype = tensors.first().map_or(DType::F32, |tensor| tensor.value.dtype());
        let config = self
            .config()
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

/// A parameter under its name on the hub.
struct Named {
    name: String,
    value: Erased,
}

/// A parameter of one or two dimensions; the tensor stays on its device until it is written.
enum Erased {
    Vector(Tensor<1>),
    Matrix(Tensor<2>),
}

impl Erased {
    fn dtype(&self) -> DType {
        match self {
            Self::Vector(tensor) => tensor.dtype(),
            Self::Matrix(tensor) => tensor.dtype(),
        }
    }

    fn shape(&self) -> Vec<usize> {
        match self {
            Self::Vector(tensor) => tensor.dims().to_vec(),
            Self::Matrix(tensor) => tensor.dims().to_vec(),
        }
    }

    fn bytes(&self) -> usize {
        self.shape().iter().product::<usize>() * self.dtype().size()
    }

    /// The weights in little-endian order, read back from the device.
    fn read(&self) -> Result<Vec<u8>, DeviceError> {
        let data = match self {
            Self::Vector(tensor) => tensor.clone().try_into_data(),
            Self::Matrix(tensor) => tensor.clone().try_into_data(),
        };
        Ok(data.map_err(|error| format!("{error:?}"))?.as_bytes().to_vec())
    }
}

impl Named {
    /// All parameters. A visit meets them in the order in which [`Llama::new`] asked for them,
    /// since both follow the fields of the modules.
    fn of(model: &Llama) -> Vec<Self> {
        struct Collector(Vec<Erased>);

        impl ModuleVisitor for Collector {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let value = param.val();
                self.0.push(match D {
                    1 => Erased::Vector(value.reshape([-1])),
                    _ => {
                        let rows = value.dims()[0] as i32;
                        Erased::Matrix(value.reshape([rows, -1]))
                    }
                });
            }
        }

        let mut collector = Collector(Vec::new());
        model.visit(&mut collector);
        let names = survey(model.config(), &model.device()).into_iter().map(|(name, _)| name);
        names.zip(collector.0).map(|(name, value)| Self { name, value }).collect()
    }
}

type DeviceError = Box<dyn std::error::Error + Send + Sync>;

/// A parameter that is read from its device when the safetensors writer asks for it, so that
/// writing takes memory for one tensor only. The writer knows no failure: it is kept aside and
/// the file dropped.
struct Lazy<'a> {
    tensor: &'a Named,
    shape: Vec<usize>,
    failure: &'a Mutex<Option<WeightsError>>,
}

impl View for Lazy<'_> {
    fn dtype(&self) -> Dtype {
        match self.tensor.value.dtype() {
            DType::F16 => Dtype::F16,
            DType::BF16 => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.tensor.value.read().unwrap_or_else(|source| {
            let tensor = self.tensor.name.clone();
            if let Ok(mut failure) = self.failure.lock() {
                *failure = Some(WeightsError::Device { tensor, source });
            }
            vec![0; self.data_len()]
        }))
    }

    fn data_len(&self) -> usize {
        self.tensor.value.bytes()
    }
}

fn write_weights(folder: &Path, tensors: Vec<Named>, max_bytes: usize) -> Result<(), WeightsError> {
    let total: usize = tensors.iter().map(|tensor| tensor.value.bytes()).sum();
    let shards = split(tensors, max_bytes);
    if let [shard] = shards.as_slice() {
        return write_shard(&folder.join("model.safetensors"), shard);
    }
    let mut weight_map = BTreeMap::new();
    for (number, shard) in shards.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", number + 1, shards.len());
        write_shard(&folder.join(&file), shard)?;
        weight_map.extend(shard.iter().map(|tensor| (tensor.name.clone(), file.clone())));
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": weight_map});
    write_atomically(&folder.join("model.safetensors.index.json"), index.to_string().as_bytes())
}

/// Cuts the tensors into runs of at most `max_bytes`, at least one tensor each.
fn split(tensors: Vec<Named>, max_bytes: usize) -> Vec<Vec<Named>> {
    let mut shards: Vec<Vec<Named>> = vec![Vec::new()];
    let mut room = max_bytes;
    for tensor in tensors {
        let bytes = tensor.value.bytes();
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

fn write_shard(path: &Path, shard: &[Named]) -> Result<(), WeightsError> {
    let failure = Mutex::new(None);
    let views = shard.iter().map(|tensor| {
        let view = Lazy { tensor, shape: tensor.value.shape(), failure: &failure };
        (tensor.name.as_str(), view)
    });
    // transformers refuses files whose metadata does not name the framework.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    atomically(path, |scratch| {
        let written = ::safetensors::serialize_to_file(views, Some(metadata), scratch);
        written.map_err(|error| match error {
            SafeTensorError::IoError(source) => WeightsError::io("write", path, source),
            other => WeightsError::Safetensors {
                path: path.to_owned(),
                fault: SafetensorsFault::Format(other),
            },
        })?;
        let failure = failure.lock().ok().and_then(|mut failure| failure.take());
        failure.map_or(Ok(()), Err)
    })
}

fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), WeightsError> {
    atomically(path, |scratch| {
        let write = || fs::File::create(scratch)?.write_all(bytes);
        write().map_err(|source| WeightsError::io("write", path, source))
    })
}

/// Lets `write` fill a scratch file beside `path` and then moves it there.
fn atomically(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), WeightsError>,
) -> Result<(), WeightsError> {
    let failed = |error: burn_pack::Error| {
        WeightsError::io("write", path, std::io::Error::other(error.to_string()))
    };
    let (scratch, handle) = AtomicFile::create(path).map_err(failed)?;
    drop(handle);
    write(scratch.path())?;
    scratch.commit().map_err(failed)
}
