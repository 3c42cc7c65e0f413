//! The flags of every example that runs a model.

use std::path::PathBuf;

use clap::Args;
use guard_infer::{DeviceName, LlamaGenerator, LoadOptions};

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
        let generator = LlamaGenerator::open(&self.model, LoadOptions::default(), &device)?;
        Ok(generator.with_max_rows(self.place.rows()))
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
