//! Reasoning fine-tuning (R-SFT): a model learns to reason and to answer from traces.
//!
//! `cargo run --release --example train_rsft -- --model FOLDER --data traces.json --output run`

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use guard_data::{ReasonedFile, ReasonedSample};
use guard_examples::lines::{self, Outcome};
use guard_examples::progress::Watch;
use guard_examples::training::{EXIT_STATUS, Rows, Stage, TrainArguments, encoder, run};
use guard_train::Rsft;

/// Fine-tune a model on reasoning traces.
///
/// Traces are a JSON array, JSON lines or Parquet with `instruction`, `input` and `output`.
#[derive(Parser)]
#[command(after_help = EXIT_STATUS)]
struct Arguments {
    #[command(flatten)]
    train: TrainArguments,
}

fn main() -> ExitCode {
    match start(&Arguments::parse().train) {
        Ok(status) => status,
        Err(error) => lines::fail(error.as_ref()),
    }
}

fn start(arguments: &TrainArguments) -> Outcome<ExitCode> {
    let config = arguments.begin(Stage::RSft)?;
    let (model, tokenizer, settings) = arguments.open(&config)?;
    let encoder = encoder(&config.encoding, &tokenizer)?;
    let rows = Rows::read(arguments, |path, most| {
        Ok(encoder.samples(&read(path, most)?, &mut Watch::new())?)
    })?;
    run(arguments, &config, (model, &tokenizer, settings), Rsft::new(), rows)
}

fn read(path: &Path, most: usize) -> Outcome<Vec<ReasonedSample>> {
    let file = ReasonedFile::open(path)?;
    let rows = file.rows()?.take(most);
    Ok(rows.map(|(_, row)| row).collect::<Result<_, _>>()?)
}
