//! Looks through a training set: labels, duplicates, contradictions, benchmark texts, bad traces.
//!
//! cargo run --release --example check_data -- --input AegisTrain-R.json

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use guard_data::{Check, CheckReport, PhraseOptions, ReasonedFile};
use guard_examples::lines::{self, Outcome, Output};
use guard_examples::{progress, sources};

/// Look through a training set before it is trained on.
#[derive(Parser)]
struct Arguments {
    /// A set to check: traces (`instruction`, `input`, `output`) or, with --source, samples.
    /// May be given several times.
    #[arg(long, required = true)]
    input: Vec<PathBuf>,
    /// What the files hold: traces, samples, or the original file of WildGuardTrain, AegisTrain,
    /// BeaverTailsTrain or ToxicChatTrain.
    #[arg(long, default_value = "traces")]
    source: String,
    /// A benchmark whose texts must not be in the set, in either of the forms that `evaluate`
    /// reads: NAME=FILE. May be given several times.
    #[arg(long)]
    benchmark: Vec<String>,
    /// The most phrases to show that nearly tell the label; 0 does not look for any.
    #[arg(long, default_value_t = 20)]
    phrases: usize,
    /// Write the report as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let phrases = PhraseOptions::default().with_shown(arguments.phrases);
    let mut check = Check::new().with_phrases(phrases);
    for argument in &arguments.benchmark {
        check = check.with_benchmark(&sources::benchmark_samples(argument)?)?;
    }
    for path in &arguments.input {
        let report = check_file(&check, &arguments.source, path)?;
        match arguments.json {
            true => Output::Terminal.write(&report)?,
            false => lines::print(&format!("{report}\n"))?,
        }
    }
    Ok(())
}

fn check_file(check: &Check, source: &str, path: &Path) -> Outcome<CheckReport> {
    let mut bar = progress::Watch::new();
    Ok(match source {
        "traces" => check.traces(&ReasonedFile::open(path)?, &mut bar)?,
        source => check.samples(sources::open(source, path)?.as_ref(), &mut bar)?,
    })
}
