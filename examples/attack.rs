//! Measures how a guard stands up to disguised requests, in both directions.
//!
//! `cargo run --release --example attack -- --model FOLDER --benchmark samples.jsonl`

use std::ops::ControlFlow;
use std::process::ExitCode;

use clap::Parser;
use guard_eval::{
    Attack, AttackProgress, AttackScore, Dataset, DatasetRow, Interval, Ratio, RunOptions, attack,
};
use guard_examples::lines::{self, Outcome, Output};
use guard_examples::model::{JudgeArguments, ModelArguments};
use guard_examples::progress;
use guard_examples::sources::open_benchmark;

/// Judge requests as they are and then, where the answer was right, disguised in many ways.
///
/// A harmful request that is called unharmful was missed; an unharmful one that is called harmful is
/// blocked without reason. Each share has its 95 percent interval (Wilson).
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Labelled requests: JSON lines of samples, or NAME=FILE for a published benchmark.
    #[arg(long)]
    benchmark: String,
    /// The attacks. Default: all.
    #[arg(long, value_delimiter = ',')]
    attacks: Vec<Attack>,
    /// The most requests; they are taken evenly from the whole set. Default: all.
    #[arg(long)]
    limit: Option<usize>,
    #[command(flatten)]
    judge: JudgeArguments,
    /// Print the scores as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let attacks = match arguments.attacks.as_slice() {
        [] => Attack::ALL.to_vec(),
        attacks => attacks.to_vec(),
    };
    let dataset = thinned(open_benchmark(&arguments.benchmark)?, arguments.limit)?;
    let guard = arguments.judge.guard(&arguments.model.model, &arguments.model.place)?;
    let options = RunOptions::default()
        .with_judge(arguments.judge.options())
        .with_batch(arguments.model.place.rows());
    let bar = progress::bar(0, dataset.rows().len());
    let mut watch = |progress: &AttackProgress| {
        bar.set_length(progress.total as u64);
        bar.set_position(progress.done as u64);
        bar.set_message(progress.attack.map_or_else(String::new, |attack| attack.to_string()));
        ControlFlow::Continue(())
    };
    let scores = attack(&guard, &dataset, &attacks, &options, &mut watch)?;
    bar.finish();
    match arguments.json {
        true => Output::Terminal.write(&scores),
        false => lines::print(&table(&scores)),
    }
}

/// Every so many-th row, at most `limit` of them.
fn thinned(dataset: Dataset, limit: Option<usize>) -> Outcome<Dataset> {
    let count = dataset.rows().len();
    let Some(limit) = limit.filter(|&limit| limit < count) else { return Ok(dataset) };
    let row = |at: usize| DatasetRow::new(dataset.rows()[at * count / limit].sample.clone());
    Ok(Dataset::from_rows(dataset.name(), (0..limit).map(row).collect())?)
}

fn table(scores: &[AttackScore]) -> String {
    let mut out = format!("{:<22}{:<34}{:<34}undetermined\n", "attack", "missed", "over-blocked");
    for score in scores {
        let missed = share(score.missed);
        let over_blocked = share(score.over_blocked);
        let name = score.attack.to_string();
        let undetermined = score.undetermined.numerator;
        out += &format!("{name:<22}{missed:<34}{over_blocked:<34}{undetermined}\n");
    }
    out
}

/// A share with its interval, in percent.
fn share(ratio: Ratio) -> String {
    let Some(Interval { low, high }) = Interval::wilson(ratio) else { return "no rows".to_owned() };
    let [rate, low, high] = [ratio.value(), low, high].map(|share| 100.0 * share);
    let Ratio { numerator, denominator, .. } = ratio;
    format!("{rate:.1} ({low:.1} to {high:.1}), {numerator} of {denominator}")
}
