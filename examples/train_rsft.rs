//! Reasoning fine-tuning (R-SFT): a model learns to reason and to answer from traces.
//!
//! `cargo run --release --example train_rsft -- --model FOLDER --data traces.json --output run`

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use guard_data::{ReasonedFile, ReasonedSample};
use guard_examples::lines::{self, Outcome};
use guard_examples::progress::Watch;
use guard_examples::training::{Rows, TrainArguments, encoder, run};
use guard_train::{Rsft, TrainOptions};

/// Fine-tune a model on reasoning traces.
///
/// Traces are a JSON array, JSON lines or Parquet with `instruction`, `input` and `output`.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    train: TrainArguments,
}

fn main() -> ExitCode {
    match start(&Arguments::parse().train) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => lines::fail(error.as_ref()),
    }
}

fn start(arguments: &TrainArguments) -> Outcome<()> {
    let config = arguments.config(TrainOptions::r_sft())?;
    let (model, tokenizer) = arguments.open(&config)?;
    let encoder = encoder(&config.encoding, &tokenizer)?;
    let rows = Rows::read(arguments, |path| {
        Ok(encoder.samples(&read(path, arguments.limit)?, &mut Watch::new())?)
    })?;
    run(arguments, &config, (model, &tokenizer), Rsft::new(), rows)
}

fn read(path: &Path, limit: Option<usize>) -> Outcome<Vec<ReasonedSample>> {
    let file = ReasonedFile::open(path)?;
    let rows = file.rows()?.take(limit.unwrap_or(usize::MAX));
    Ok(rows.map(|(_, row)| row).collect::<Result<_, _>>()?)
}
