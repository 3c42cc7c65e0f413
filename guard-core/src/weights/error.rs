//! What can be wrong with the files of a model.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::generate::OptionsError;
use crate::model::UnknownProjection;

/// Files of a model that cannot be read or written. Each variant names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: `open`, `read`, `map` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A folder, pipe or device stands where a file should be.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// A file is larger than any honest one.
    #[error("{} has {found} bytes, at most {limit} are read", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// The largest size accepted.
        limit: u64,
    },
    /// The file shrank after it was opened.
    #[error("{} changed while it was read: expected {expected} bytes, found {found}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its size when it was opened.
        expected: u64,
        /// Its size now.
        found: u64,
    },
    /// A folder without any file of weights that can be read.
    #[error(
        "no weights in {}: expected model.safetensors, model.safetensors.index.json or one .gguf \
         file{}", path.display(), if *pickled { " (pickled .bin and .pt files are never read)" } else { "" }
    )]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// Whether there are pickled weights, which can run code and are never read.
        pickled: bool,
    },
    /// The path names pickled weights, which can run code and are never read.
    #[error("{}: pickled weights are never read, convert them to safetensors", path.display())]
    Pickled {
        /// The file.
        path: PathBuf,
    },
    /// config.json cannot be used.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The header of a safetensors file breaks a rule of the format.
    #[error("{}: bad safetensors header: {fault}", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// The rule that is broken.
        fault: SafetensorsFault,
    },
    /// The index of a sharded model breaks a rule.
    #[error("{}: bad shard index: {fault}", path.display())]
    ShardIndex {
        /// The index file.
        path: PathBuf,
        /// The rule that is broken.
        fault: ShardIndexFault,
    },
    /// A GGUF file breaks a rule of the format.
    #[error("{}: bad GGUF file: {fault}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// The rule that is broken.
        fault: GgufFault,
    },
    /// An adapter cannot be used.
    #[error("{}: {fault}", path.display())]
    Adapter {
        /// Its `adapter_config.json`.
        path: PathBuf,
        /// What is wrong with it.
        fault: AdapterFault,
    },
    /// The tensors are not those of the configuration.
    #[error("the weights do not fit the configuration: {0}")]
    Mismatch(Box<LoadReport>),
    /// A weight is not a finite number.
    #[error("{}: tensor `{tensor}` holds a value that is not finite", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor, by its name on the hub.
        tensor: String,
    },
    /// A weight that the type in which it is to be written cannot hold.
    #[error("{}: tensor `{tensor}` holds {value}, which {kind} cannot hold", path.display())]
    Unrepresentable {
        /// The file.
        path: PathBuf,
        /// The tensor, by its name on the hub.
        tensor: String,
        /// The weight.
        value: f32,
        /// The type.
        kind: String,
    },
    /// The model's weights cannot be read back from their device.
    #[error("cannot read tensor `{tensor}` back from the device")]
    Device {
        /// The tensor, by its name on the hub.
        tensor: String,
        /// What the device said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What can be wrong with an adapter.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterFault {
    /// The configuration is no JSON, or a field of it is missing.
    #[error("bad adapter configuration: {0}")]
    Json(#[from] serde_json::Error),
    /// It computes in a way that is not supported.
    #[error("the adapter sets `{field}` to {found}, which is not supported: expected {expected}")]
    Unsupported {
        /// The field of the configuration.
        field: String,
        /// What is supported.
        expected: &'static str,
        /// Its value, as JSON; the beginning of a long one.
        found: String,
    },
    /// The model has other adapters than the options say.
    #[error("{layer} has {found}, and {expected} by the options")]
    Differs {
        /// The first layer that differs, by its name on the hub.
        layer: String,
        /// What the options say: `no adapter`, or one of a rank and a scale.
        expected: String,
        /// What the layer has.
        found: String,
    },
    /// It belongs to a layer that the model does not have.
    #[error(transparent)]
    Target(#[from] UnknownProjection),
    /// A number is out of range.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// There is no adapter to write.
    #[error("the model has no adapter")]
    None,
}

impl WeightsError {
    pub(super) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// A rule of the safetensors format that a file breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SafetensorsFault {
    /// What the safetensors crate refuses: lengths, offsets, holes, overlaps, types, JSON.
    #[error(transparent)]
    Format(#[from] safetensors::SafeTensorError),
    /// Two tensors of one name, of which the format's readers keep one silently.
    #[error("tensor `{0}` is there twice")]
    Duplicate(String),
    /// More tensors than any model has.
    #[error("{found} tensors, at most {limit} are accepted")]
    TooMany {
        /// How many there are.
        found: usize,
        /// How many are accepted.
        limit: usize,
    },
    /// A number format that weights of a LLaMA do not have.
    #[error("tensor `{tensor}` has type {found}, expected F32, F16 or BF16")]
    Encoding {
        /// The tensor.
        tensor: String,
        /// Its type.
        found: String,
    },
}

/// A rule of `model.safetensors.index.json` that a file breaks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardIndexFault {
    /// It is not the JSON that it should be.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A shard's name is a path: it could lead anywhere.
    #[error("shard `{0}` is not a bare file name ending in .safetensors")]
    Name(String),
    /// A shard is a link out of the model's folder and out of its cache.
    #[error("shard `{0}` leads out of the model's folder")]
    Outside(String),
    /// The index names a shard that is not there.
    #[error("shard `{0}` is missing")]
    Missing(String),
    /// A tensor is not in the shard that the index names.
    #[error("tensor `{tensor}` is not in shard `{shard}`")]
    TensorMissing {
        /// The tensor.
        tensor: String,
        /// The shard that should hold it.
        shard: String,
    },
    /// A shard holds a tensor that the index gives to another, or to none.
    #[error("shard `{shard}` holds tensor `{tensor}`, which the index does not place there")]
    TensorMisplaced {
        /// The tensor.
        tensor: String,
        /// The shard that holds it.
        shard: String,
    },
}

/// A rule of the GGUF format that a file breaks, or a part of it that is not supported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufFault {
    /// It does not start with `GGUF`.
    #[error("it does not start with GGUF")]
    Magic,
    /// A version that is not read.
    #[error("version {0}, expected 2 or 3 in little-endian order")]
    Version(u32),
    /// It ends within something.
    #[error("it ends within {0}")]
    Truncated(&'static str),
    /// A count that no honest file has.
    #[error("{what}: {found}, at most {limit} are accepted")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// The count.
        found: u64,
        /// The largest count accepted.
        limit: u64,
    },
    /// A text that is not UTF-8.
    #[error("{0} is not UTF-8")]
    Text(&'static str),
    /// A type of value, or of tensor, that is not known or not supported.
    #[error("{what} has type {found}, expected {expected}")]
    Type {
        /// What has the type.
        what: String,
        /// The number or name of the type.
        found: String,
        /// What is supported.
        expected: &'static str,
    },
    /// A key or a tensor that is there twice.
    #[error("`{0}` is there twice")]
    Duplicate(String),
    /// A key that has to be there.
    #[error("key `{0}` is missing")]
    Missing(String),
    /// A value, shape or offset that is out of range.
    #[error("{what}: {found}, expected {expected}")]
    OutOfRange {
        /// What is out of range.
        what: String,
        /// What was found.
        found: String,
        /// What is accepted.
        expected: String,
    },
    /// The shape of the model cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What loading found: nothing to say when the file holds exactly the model's tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadReport {
    /// Tensors of the model that no file holds.
    pub missing: Vec<String>,
    /// Tensors of the files that the model has no use for.
    pub unused: Vec<String>,
    /// Tensors of another shape than the model's.
    pub mismatched: Vec<ShapeMismatch>,
    /// How many tensors were loaded.
    pub loaded: usize,
    /// How many bytes the loaded weights take on the device.
    pub bytes: usize,
}

/// A tensor of another shape than the model's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeMismatch {
    /// The tensor, by its name on the hub.
    pub tensor: String,
    /// The shape that the configuration asks for.
    pub expected: Vec<usize>,
    /// The shape in the file.
    pub found: Vec<usize>,
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tensors loaded", self.loaded)?;
        for (what, names) in [("missing", &self.missing), ("unused", &self.unused)] {
            if !names.is_empty() {
                write!(f, "; {} {what}: {}", names.len(), first_few(names.iter().cloned()))?;
            }
        }
        if !self.mismatched.is_empty() {
            let shapes = self.mismatched.iter().map(|mismatch| {
                let ShapeMismatch { tensor, expected, found } = mismatch;
                format!("{tensor} (expected {expected:?}, found {found:?})")
            });
            write!(f, "; {} of another shape: {}", self.mismatched.len(), first_few(shapes))?;
        }
        Ok(())
    }
}

fn first_few(names: impl ExactSizeIterator<Item = String>) -> String {
    const SHOWN: usize = 4;
    let more = names.len().saturating_sub(SHOWN);
    let shown = names.take(SHOWN).collect::<Vec<_>>().join(", ");
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}
