//! Hard-sample preference tuning (HS-DPO): a model learns from pairs of a right and a wrong text.
//!
//! `cargo run --release --example train_hsdpo -- --model run/model --data pairs.jsonl --output run2`

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use guard_data::{PreferencePair, read_pairs};
use guard_examples::lines::{self, Outcome};
use guard_examples::progress::Watch;
use guard_examples::training::{EXIT_STATUS, Rows, Stage, TrainArguments, encoder, run};
use guard_train::{HsDpo, with_reference};

/// Tune a model on weighted pairs, as `mine_hard_samples` writes them.
///
/// The model that training starts from is the reference: what it says of the pairs is computed
/// once and kept in the folder of the run.
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
    let config = arguments.begin(Stage::HsDpo)?;
    let objective = HsDpo::new(config.hs_dpo)?;
    let (model, tokenizer, settings) = arguments.open(&config)?;
    let encoder = encoder(&config.encoding, &tokenizer)?;
    let cache = arguments.output.join("reference");
    let rows = Rows::read(arguments, |path, most| {
        let (pairs, report) = encoder.pairs(&read(path, most)?, &mut Watch::new())?;
        let train = &config.train;
        Ok((with_reference(&model, pairs, train, Some(&cache), &mut Watch::new())?, report))
    })?;
    run(arguments, &config, (model, &tokenizer, settings), objective, rows)
}

fn read(path: &Path, most: usize) -> Outcome<Vec<PreferencePair>> {
    let mut pairs = read_pairs(path)?;
    pairs.truncate(most);
    Ok(pairs)
}
