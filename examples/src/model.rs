//! The flags of every example that runs a model.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use clap::Args;
use guard_infer::guard_core::burn::tensor::Device;
use guard_infer::{
    BuildError, DeviceName, GuardBuilder, GuardSettings, JudgeMode, JudgeOptions, Llama,
    LlamaGenerator, LlamaGuard, LoadOptions, ModelFiles, PromptStyle, SaveOptions, Tokenizer,
};

use crate::lines::Outcome;

/// A model, and where it runs.
#[derive(Args, Debug)]
pub struct ModelArguments {
    /// A model: a folder as the hub has it, or a .gguf file.
    #[arg(long)]
    pub model: PathBuf,
    /// Where it runs.
    #[command(flatten)]
    pub place: DeviceArguments,
}

impl ModelArguments {
    /// Loads the model.
    ///
    /// # Errors
    ///
    /// When there is no such device or model.
    pub fn open(&self) -> Outcome<LlamaGenerator> {
        let device = self.place.device.open()?;
        let files = ModelFiles::open(&self.model)?;
        let generator = LlamaGenerator::from_files(&files, LoadOptions::default(), &device)?;
        Ok(generator.with_max_rows(self.place.rows()))
    }
}

/// A model that another is to be made of, its tokenizer and its files. A weight that is no finite
/// number is an error.
///
/// # Errors
///
/// When there is no such model.
pub fn load(path: &Path, device: &Device) -> Outcome<(Llama, Tokenizer, ModelFiles)> {
    let files = ModelFiles::open(path)?;
    let (model, _) = files.load(LoadOptions::default().with_finite_check(), device)?;
    Ok((model, files.tokenizer()?, files))
}

/// Writes the folder of a model that was made of another: asked as that one is.
///
/// # Errors
///
/// When it cannot be written.
pub fn save(model: &Llama, tokenizer: &Tokenizer, of: &ModelFiles, folder: &Path) -> Outcome<()> {
    model.save_folder(folder, Some(tokenizer), SaveOptions::default())?;
    if let Some(settings) = of.read_beside(GuardSettings::FILE)? {
        std::fs::write(folder.join(GuardSettings::FILE), settings)?;
    }
    Ok(())
}

/// A name of a model that stays the same wherever it is called from, and is another one once the model
/// was written anew: what the old one said is not taken for what this one says.
#[must_use]
pub fn identity(model: &Path) -> String {
    let path = model.canonicalize().unwrap_or_else(|_| model.to_owned());
    let written = path.join("config.json").metadata().or_else(|_| path.metadata());
    let written = written.and_then(|file| file.modified()).ok();
    let since = written.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("{} of {}", path.display(), since.map_or(0, |since| since.as_millis()))
}

/// How a guard is asked.
#[derive(Args, Debug)]
pub struct JudgeArguments {
    /// How the model is asked: benchmark, deploy, chat or compact. Default: what the model's
    /// guard.json says; without one, benchmark.
    #[arg(long)]
    pub style: Option<PromptStyle>,
    /// Whether the guard reasons first: reason, verdict (answers at once, from the probabilities of
    /// the labels), adaptive (reasons where these lie between 0.2 and 0.8), adaptive:LOW:HIGH.
    #[arg(long, default_value_t)]
    pub mode: JudgeMode,
    /// The most tokens of reasoning and answers.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
}

impl JudgeArguments {
    /// A guard on this model.
    ///
    /// # Errors
    ///
    /// When there is no such device or model.
    pub fn guard(&self, model: &Path, place: &DeviceArguments) -> Result<LlamaGuard, BuildError> {
        let mut builder = GuardBuilder::new(model).device(place.device).max_rows(place.rows());
        if let Some(style) = self.style {
            builder = builder.prompt_style(style);
        }
        if self.mode != JudgeMode::Reason {
            builder = builder.scores();
        }
        builder.build()
    }

    /// The options of each call.
    #[must_use]
    pub fn options(&self) -> JudgeOptions {
        JudgeOptions::default().with_max_tokens(self.max_tokens as usize).with_mode(self.mode)
    }
}

/// Where a model runs.
#[derive(Args, Debug)]
pub struct DeviceArguments {
    /// auto, cpu, cuda, vulkan, metal, rocm or wgpu, with an optional number such as cuda:1.
    #[arg(long, default_value_t)]
    pub device: DeviceName,
    /// How many texts are written side by side, at least 1.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub rows: u16,
}

impl DeviceArguments {
    /// How many texts are written side by side.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.into()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, create_dir, write};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_model_that_was_written_anew_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, config) = (folder.path().join("inner"), folder.path().join("config.json"));
        create_dir(&inner).unwrap();
        write(&config, "{}").unwrap();
        let before = identity(folder.path());
        assert_eq!(before, identity(&inner.join("..")));
        let later = UNIX_EPOCH + Duration::from_secs(86_400);
        File::options().write(true).open(&config).unwrap().set_modified(later).unwrap();
        assert_ne!(before, identity(folder.path()));
    }
}
