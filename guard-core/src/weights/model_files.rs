//! The files of a model: a folder as the hub has it, or a lone GGUF file.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::Deserialize;

use super::error::{LoadReport, WeightsError};
use super::file::{FileAccess, read_small_file};
use super::gguf::GgufFile;
use super::load::{LoadOptions, load};
#[cfg(feature = "flex")]
use super::packed::load_packed;
use super::safetensors::{open, open_sharded};
use super::store::TensorStore;
use crate::config::{LlamaConfig, TokenIds};
#[cfg(feature = "flex")]
use crate::kernel::packed::PackedLlama;
use crate::model::Llama;
use crate::tokenizer::{Tokenizer, TokenizerError};

/// A model on disk with all headers read and checked, and no weight loaded yet.
///
/// ```no_run
/// use guard_core::burn::tensor::Device;
/// use guard_core::{LoadOptions, ModelFiles};
///
/// let files = ModelFiles::open("GuardReasoner-1B")?;
/// let (model, report) = files.load(LoadOptions::default(), &Device::default())?;
/// println!("{report}: {:?}", model.config());
/// # Ok::<(), guard_core::WeightsError>(())
/// ```
#[derive(Debug)]
pub struct ModelFiles {
    path: PathBuf,
    config: LlamaConfig,
    weights: Weights,
}

#[derive(Debug)]
enum Weights {
    Folder(TensorStore),
    Gguf(Box<GgufFile>),
}

impl ModelFiles {
    /// Opens a folder with `config.json` and safetensors, or a `.gguf` file, mapped into memory.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] names the file and what is wrong with it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, WeightsError> {
        Self::open_with(path, FileAccess::default())
    }

    /// Opens the files of a model and says how they are to be read.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] names the file and what is wrong with it.
    pub fn open_with(path: impl AsRef<Path>, access: FileAccess) -> Result<Self, WeightsError> {
        let path = path.as_ref();
        if path.is_dir() {
            return Self::open_folder(path, access);
        }
        if is_pickled(path) {
            return Err(WeightsError::Pickled { path: path.to_owned() });
        }
        let gguf = GgufFile::open(path, access)?;
        let config = gguf.config.clone();
        Ok(Self { path: path.to_owned(), config, weights: Weights::Gguf(Box::new(gguf)) })
    }

    /// Opens a GGUF file that is part of the program, as by `include_bytes!`. `name` stands for its
    /// path in errors.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] says what is wrong with it.
    pub fn from_gguf_bytes(name: &str, bytes: &'static [u8]) -> Result<Self, WeightsError> {
        let gguf = GgufFile::from_bytes(name, bytes)?;
        let config = gguf.config.clone();
        Ok(Self { path: name.into(), config, weights: Weights::Gguf(Box::new(gguf)) })
    }

    fn open_folder(folder: &Path, access: FileAccess) -> Result<Self, WeightsError> {
        let single = folder.join("model.safetensors");
        let index = folder.join("model.safetensors.index.json");
        let store = if single.exists() {
            open(&single, access)?
        } else if index.exists() {
            open_sharded(&index, access)?
        } else {
            return match only_gguf(folder)? {
                Some(gguf) => Self::open_with(gguf, access),
                None => Err(no_weights(folder)),
            };
        };
        let mut config = LlamaConfig::from_file(folder.join("config.json"))?;
        add_generation_eos(folder, &mut config)?;
        Ok(Self { path: folder.to_owned(), config, weights: Weights::Folder(store) })
    }

    /// The path that was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The shape of the model. A folder's `generation_config.json` adds its end tokens to those
    /// of `config.json`.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// Loads the weights. Missing tensors, tensors of another shape and, unless the options
    /// allow them, tensors without a use are errors; a tied head that is stored as well is not,
    /// as long as it equals the embedding.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Mismatch`] with the whole report, or what reading failed at.
    pub fn load(
        &self,
        options: LoadOptions,
        device: &Device,
    ) -> Result<(Llama, LoadReport), WeightsError> {
        load(self.store(), &self.config, options, device)
    }

    /// Loads the weights packed for inference on the CPU, straight from the files. The float type of the
    /// options is not looked at.
    ///
    /// # Errors
    ///
    /// As [`ModelFiles::load`].
    #[cfg(feature = "flex")]
    pub fn load_packed(
        &self,
        options: LoadOptions,
    ) -> Result<(PackedLlama, LoadReport), WeightsError> {
        load_packed(self.store(), &self.config, options)
    }

    /// The tokenizer: the folder's `tokenizer.json`, or the GGUF file's vocabulary.
    ///
    /// # Errors
    ///
    /// [`TokenizerError`] names what is wrong with it.
    pub fn tokenizer(&self) -> Result<Tokenizer, TokenizerError> {
        match &self.weights {
            Weights::Folder(_) => Tokenizer::from_file(self.path.join("tokenizer.json")),
            Weights::Gguf(gguf) => Tokenizer::from_json(&gguf.tokenizer_json()?),
        }
    }

    /// A text of the GGUF file's keys; see [`GgufOptions::with_note`](super::GgufOptions::with_note).
    #[must_use]
    pub fn note(&self, key: &str) -> Option<&str> {
        match &self.weights {
            Weights::Folder(_) => None,
            Weights::Gguf(gguf) => gguf.note(key),
        }
    }

    /// The text of another file in the model's folder. `None` when there is no such file, or the
    /// model is no folder.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] when the file is there and cannot be read.
    pub fn read_beside(&self, name: &str) -> Result<Option<String>, WeightsError> {
        let path = self.path.join(name);
        match path.symlink_metadata() {
            Ok(_) => read_small_file(&path).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The names and shapes of the stored tensors, by name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.store().tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.shape.as_slice()))
    }

    fn store(&self) -> &TensorStore {
        match &self.weights {
            Weights::Folder(store) => store,
            Weights::Gguf(gguf) => &gguf.store,
        }
    }
}

/// The end tokens of `generation_config.json`, which lists more of them than `config.json` in
/// LLaMA 3's folders.
fn add_generation_eos(folder: &Path, config: &mut LlamaConfig) -> Result<(), WeightsError> {
    #[derive(Deserialize)]
    struct GenerationConfig {
        #[serde(default)]
        eos_token_id: Option<TokenIds>,
    }

    let path = folder.join("generation_config.json");
    if !path.exists() {
        return Ok(());
    }
    let bad = |source| WeightsError::Config { path: path.clone(), source };
    let generation: GenerationConfig =
        serde_json::from_str(&read_small_file(&path)?).map_err(|error| bad(error.into()))?;
    for id in generation.eos_token_id.map(TokenIds::into_vec).unwrap_or_default() {
        if !config.eos.contains(&id) {
            config.eos.push(id);
        }
    }
    config.validate().map_err(bad)
}

/// The one GGUF file of a folder, if there is exactly one.
fn only_gguf(folder: &Path) -> Result<Option<PathBuf>, WeightsError> {
    let entries = std::fs::read_dir(folder).map_err(|e| WeightsError::io("read", folder, e))?;
    let mut found = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "gguf"));
    let first = found.next();
    Ok(first.filter(|_| found.next().is_none()))
}

fn no_weights(folder: &Path) -> WeightsError {
    let pickled = std::fs::read_dir(folder)
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|e| is_pickled(&e.path()))));
    WeightsError::NoWeights { path: folder.to_owned(), pickled }
}

fn is_pickled(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("bin" | "pt" | "pth" | "pkl" | "ckpt"))
}
