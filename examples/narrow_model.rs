//! Makes a narrow model with the vocabulary of a wider one.
//!
//! `cargo run --release --example narrow_model -- --model FOLDER --hidden-size 192 --layers 6 --output
//! narrow`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use guard_examples::lines::{self, Outcome};
use guard_examples::model;
use guard_examples::model_name::ModelName;
use guard_infer::guard_core::RandomInit;
use guard_infer::guard_core::burn::tensor::Device;

/// Make a narrow model to be trained: random blocks, and an embedding with the principal components of
/// a wider model's.
#[derive(Parser)]
struct Arguments {
    /// The wider model: a folder as the hub has it, a .gguf file, or `embedded`.
    #[arg(long)]
    model: ModelName,
    /// The size of hidden states.
    #[arg(long)]
    hidden_size: usize,
    /// The inner size of feed-forward layers. Default: eight thirds of the hidden size.
    #[arg(long)]
    intermediate_size: Option<usize>,
    /// The number of blocks.
    #[arg(long)]
    layers: usize,
    /// The heads of queries. Their size is the wider model's.
    #[arg(long, default_value_t = 4)]
    heads: usize,
    /// The heads of keys and values.
    #[arg(long, default_value_t = 2)]
    kv_heads: usize,
    /// The seed of the blocks.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The folder of the narrow model.
    #[arg(long)]
    output: PathBuf,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let (model, tokenizer, settings) = model::load(&arguments.model, &Device::default())?;
    let mut config = model.config().clone();
    config.hidden_size = arguments.hidden_size;
    config.intermediate_size = arguments.intermediate_size.unwrap_or(config.hidden_size * 8 / 3);
    (config.layers, config.heads) = (arguments.layers, arguments.heads);
    config.kv_heads = arguments.kv_heads;
    let init = RandomInit { seed: arguments.seed, ..RandomInit::default() };
    let narrow = model.narrowed(&config, init)?;
    model::save(&narrow, &tokenizer, settings, &arguments.output)?;
    let [before, after] = [&model, &narrow].map(|model| model.config().parameter_count());
    lines::tell(&format!("{before} parameters before, {after} now"));
    Ok(())
}
