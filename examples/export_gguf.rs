//! Packs a model and its tokenizer into one GGUF file.
//!
//! `cargo run --release --example export_gguf -- --model FOLDER --type q8_0 --output model.gguf`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use guard_examples::lines::{self, Outcome};
use guard_examples::model;
use guard_examples::model_name::ModelName;
use guard_infer::GuardSettings;
use guard_infer::guard_core::burn::tensor::Device;
use guard_infer::guard_core::{GgufOptions, GgufType};

/// Pack a model, its tokenizer and its guard.json into one GGUF file, which llama.cpp and its like
/// read, too.
#[derive(Parser)]
struct Arguments {
    /// The model: a folder as the hub has it, a .gguf file, or `embedded`.
    #[arg(long)]
    model: ModelName,
    /// The matrices of the blocks: f32, f16, bf16, q8_0, q4_1 or q4_0.
    #[arg(long, default_value_t = GgufType::Q8_0)]
    r#type: GgufType,
    /// The embedding matrix and the head. Default: as the others.
    #[arg(long)]
    embedding_type: Option<GgufType>,
    /// The file.
    #[arg(long)]
    output: PathBuf,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let (model, tokenizer, settings) = model::load(&arguments.model, &Device::default())?;
    let options = GgufOptions::new(arguments.r#type)
        .with_embedding(arguments.embedding_type.unwrap_or(arguments.r#type));
    let settings = serde_json::to_string(&settings)?;
    let options = options.with_note(GuardSettings::KEY, settings);
    model.save_gguf(&arguments.output, &tokenizer, &options)?;
    let bytes = std::fs::metadata(&arguments.output)?.len();
    let parameters = model.config().parameter_count();
    let bits = 8.0 * bytes as f64 / parameters as f64;
    lines::tell(&format!("{parameters} parameters in {bytes} bytes, {bits:.2} bits each"));
    Ok(())
}
