//! The flags of every example that runs a model.

use std::io::{self, Write};
use std::path::Path;

use clap::Args;
use guard_infer::guard_core::burn::tensor::Device;
use guard_infer::{
    BuildError, DeviceName, GuardBuilder, GuardSettings, JudgeMode, JudgeOptions, Llama,
    LlamaGenerator, LlamaGuard, LoadOptions, PackedType, PromptStyle, SaveOptions, Tokenizer,
    read_settings,
};
use tempfile::NamedTempFile;

use crate::lines::Outcome;
use crate::model_name::ModelName;

/// A model, and where it runs.
#[derive(Args, Debug)]
pub struct ModelArguments {
    /// A model: a folder as the hub has it, a .gguf file, or `embedded`, the small guard.
    #[arg(long, default_value_t = ModelName::Embedded)]
    pub model: ModelName,
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
        let files = self.model.files()?;
        let options = LoadOptions::default().with_packed(self.place.packed);
        let generator = LlamaGenerator::from_files(&files, options, &device)?;
        Ok(generator.with_max_rows(self.place.rows()))
    }

    /// A name for what the model writes: that of its weights, and how they are packed.
    ///
    /// # Errors
    ///
    /// As [`ModelName::identity`].
    pub fn identity(&self) -> Outcome<String> {
        Ok(format!("{} packed {}", self.model.identity()?, self.place.packed))
    }
}

/// A model that another is to be made of, its tokenizer, and how it is asked. A weight that is no
/// finite number is an error.
///
/// # Errors
///
/// When there is no such model, or its guard.json cannot be read.
pub fn load(model: &ModelName, device: &Device) -> Outcome<(Llama, Tokenizer, GuardSettings)> {
    let files = model.files()?;
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
    pub fn guard(
        &self,
        model: &ModelName,
        place: &DeviceArguments,
    ) -> Result<LlamaGuard, BuildError> {
        let builder = self.builder(model, place);
        if self.mode == JudgeMode::Reason { builder.build() } else { builder.scores().build() }
    }

    /// The same before it is built.
    pub fn builder(&self, model: &ModelName, place: &DeviceArguments) -> GuardBuilder {
        let builder =
            model.builder().device(place.device).packed(place.packed).max_rows(place.rows());
        match self.style {
            Some(style) => builder.prompt_style(style),
            None => builder,
        }
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
    /// How matrices of floats are packed on the CPU: float, bf16, q8_0 or q4_1, which takes a while
    /// (`export_gguf` does it once). Integers of a file stay what they are.
    #[arg(long, default_value_t)]
    pub packed: PackedType,
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
    use std::fs::read_to_string;

    use super::*;

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
