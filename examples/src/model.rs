//! The flags of every example that runs a model.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use guard_infer::guard_core::burn::tensor::Device;
use guard_infer::{
    BuildError, DeviceName, GuardBuilder, GuardSettings, JudgeMode, JudgeOptions, Llama,
    LlamaGenerator, LlamaGuard, LoadOptions, ModelFiles, PromptStyle, SaveOptions, Tokenizer,
    read_settings,
};
use tempfile::NamedTempFile;

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

/// A model that another is to be made of, its tokenizer, and how it is asked. A weight that is no
/// finite number is an error.
///
/// # Errors
///
/// When there is no such model, or its guard.json cannot be read.
pub fn load(path: &Path, device: &Device) -> Outcome<(Llama, Tokenizer, GuardSettings)> {
    let files = ModelFiles::open(path)?;
    let settings = read_settings(&files)?;
    let (model, _) = files.load(LoadOptions::default().with_finite_check(), device)?;
    Ok((model, files.tokenizer()?, settings))
}

/// Writes the folder of a model that was made of one with these settings: it is asked as that one is,
/// and not calibrated.
///
/// # Errors
///
/// When it cannot be written.
pub fn save(
    model: &Llama,
    tokenizer: &Tokenizer,
    settings: GuardSettings,
    folder: &Path,
) -> Outcome<()> {
    model.save_folder(folder, Some(tokenizer), SaveOptions::default())?;
    write_settings(settings.without_scores(), folder)
}

/// Writes the guard.json of a model's folder, whole or not at all. The defaults need none, unless there
/// is one that says something else.
///
/// # Errors
///
/// When it cannot be written.
pub fn write_settings(settings: GuardSettings, folder: &Path) -> Outcome<()> {
    let path = folder.join(GuardSettings::FILE);
    if settings == GuardSettings::default() && !path.exists() {
        return Ok(());
    }
    let text = serde_json::to_string_pretty(&settings)? + "\n";
    let write = || -> io::Result<()> {
        let mut file = NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(&path)?;
        Ok(())
    };
    write().map_err(|error| format!("cannot write {}: {error}", path.display()).into())
}

/// A name of a model that stays the same wherever it is called from, and is another one once its
/// weights were written anew: what the old ones said is not taken for what these say.
#[must_use]
pub fn identity(model: &Path) -> String {
    let path = model.canonicalize().unwrap_or_else(|_| model.to_owned());
    let since = written(&path).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("{} of {}", path.display(), since.map_or(0, |since| since.as_millis()))
}

/// When the newest of a model's weights were written.
fn written(model: &Path) -> Option<SystemTime> {
    let modified = |path: &Path| path.metadata().and_then(|file| file.modified()).ok();
    let Ok(files) = model.read_dir() else { return modified(model) };
    let paths = files.filter_map(|file| Some(file.ok()?.path()));
    let weights = paths.filter(|path| {
        path.extension().is_some_and(|ending| ending == "safetensors" || ending == "gguf")
    });
    weights.filter_map(|path| modified(&path)).max()
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
    use std::fs::{File, create_dir, read_to_string, write};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_model_that_was_written_anew_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        create_dir(folder.join("inner")).unwrap();
        let [file, weights] = ["a.gguf", "model.safetensors"].map(|name| folder.join(name));
        for model in [&file, &weights] {
            write(model, "").unwrap();
        }
        for (model, weights) in [(folder, &weights), (&file, &file)] {
            let before = identity(model);
            assert_eq!(before, identity(&folder.join("inner/..").join(model)));
            write(folder.join("guard.json"), "{}").unwrap();
            assert_eq!(before, identity(model));
            let later = SystemTime::now() + Duration::from_secs(86_400);
            File::options().write(true).open(weights).unwrap().set_modified(later).unwrap();
            assert_ne!(before, identity(model));
        }
    }

    #[test]
    fn settings_that_say_nothing_are_written_only_over_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(GuardSettings::FILE);
        write_settings(GuardSettings::default(), folder.path()).unwrap();
        assert!(!path.exists());
        for settings in [GuardSettings::new(PromptStyle::Compact), GuardSettings::default()] {
            write_settings(settings, folder.path()).unwrap();
            let text = read_to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<GuardSettings>(&text).unwrap(), settings);
        }
    }
}
