//! The flags of every example that runs a model.

use clap::Args;
use guard_infer::DeviceName;

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
