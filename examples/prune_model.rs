//! Makes a smaller model out of a larger one: some of its blocks, and a part of its vocabulary.
//!
//! `cargo run --release --example prune_model -- --model FOLDER --layers 0,1,2 --vocabulary 8192
//! --texts rows.jsonl --output small`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use guard_examples::lines::{self, Outcome};
use guard_examples::model;
use guard_examples::model_name::ModelName;
use guard_infer::guard_core::burn::tensor::Device;

/// Make a smaller model to be trained: some blocks of a larger one, and a part of its vocabulary.
#[derive(Parser)]
struct Arguments {
    /// The model: a folder as the hub has it, a .gguf file, or `embedded`.
    #[arg(long)]
    model: ModelName,
    /// The blocks that are left, counted from 0. Default: all.
    #[arg(long, value_delimiter = ',')]
    layers: Vec<usize>,
    /// The most tokens that are left. Default: all.
    #[arg(long, requires = "texts")]
    vocabulary: Option<usize>,
    /// JSON lines whose strings the vocabulary should suit.
    #[arg(long, requires = "vocabulary")]
    texts: Vec<PathBuf>,
    /// The blocks, as they are numbered afterwards, that begin by looking at all of the text alike.
    #[arg(long, value_delimiter = ',')]
    uniform_attention: Vec<usize>,
    /// The folder of the smaller model.
    #[arg(long)]
    output: PathBuf,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let (model, tokenizer, settings) = model::load(&arguments.model, &Device::default())?;
    let layers = match arguments.layers.as_slice() {
        [] => (0..model.config().layers).collect(),
        layers => layers.to_vec(),
    };
    let (tokenizer, kept) = match arguments.vocabulary {
        None => (tokenizer, (0..model.config().vocab_size as u32).collect()),
        Some(size) => {
            let mut texts = Vec::new();
            for path in &arguments.texts {
                texts.extend(lines::strings(path)?);
            }
            let trimmed = tokenizer.trimmed(size, texts)?;
            (trimmed.tokenizer, trimmed.kept)
        }
    };
    let mut small = model.pruned(&layers, &kept)?;
    for &layer in &arguments.uniform_attention {
        small = small.with_uniform_attention(layer)?;
    }
    model::save(&small, &tokenizer, settings, &arguments.output)?;
    let [before, after] = [&model, &small].map(|model| model.config().parameter_count());
    let (tokens, blocks) = (kept.len(), layers.len());
    lines::tell(&format!(
        "{before} parameters before, {after} now, in {blocks} blocks and {tokens} tokens"
    ));
    Ok(())
}
