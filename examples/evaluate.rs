//! Scores stored predictions, or runs a guard over benchmarks, and reports.
//!
//! cargo run --release --example evaluate -- --predictions FOLDER --report report.html

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use guard_eval::{
    Bootstrap, Dataset, Evaluation, PredictionFile, Report, RunOptions, RunProgress, ScoringPolicy,
    evaluate, find_predictions, read_predictions,
};
use guard_examples::lines::{self, Outcome, Output};
use guard_examples::model::{DeviceArguments, JudgeArguments};
use guard_examples::model_name::ModelName;
use guard_examples::progress;
use guard_examples::sources::open_benchmark;
use guard_infer::Guard;

/// Score predictions, or run a guard over benchmarks.
#[derive(Parser)]
struct Arguments {
    /// Predictions to score: a file, or folders as SYSTEM/BENCHMARK/generated_predictions.jsonl.
    #[arg(long, required_unless_present = "model")]
    predictions: Vec<PathBuf>,
    /// A dataset: NAME=FILE, a published benchmark in its original or the reference's form, or
    /// FILE.jsonl, samples of your own. The model is run over it, and predictions are scored by it.
    #[arg(long)]
    benchmark: Vec<String>,
    /// A model to run: a folder as the hub has it, a .gguf file, or `embedded`, the small guard.
    #[arg(long, requires = "benchmark")]
    model: Option<ModelName>,
    #[command(flatten)]
    place: DeviceArguments,
    /// Where predictions of a run go; a run that was stopped goes on.
    #[arg(long, default_value = "predictions")]
    output: PathBuf,
    #[command(flatten)]
    judge: JudgeArguments,
    /// How undetermined rows count in the leading table: strict, reference or blocked.
    #[arg(long, default_value_t = ScoringPolicy::Strict)]
    policy: ScoringPolicy,
    /// Write a report to a file ending in .html, .md, .csv, .json or .txt.
    #[arg(long)]
    report: Vec<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
    /// How many resamples the intervals rest on.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    draws: u32,
    /// The seed of the resamples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    arguments.report.iter().try_for_each(|path| check_ending(path))?;
    let mut datasets: Vec<Dataset> = Vec::new();
    for argument in &arguments.benchmark {
        let dataset = open_benchmark(argument)?;
        if datasets.iter().any(|other| other.name() == dataset.name()) {
            return Err(format!("two datasets are called `{}`", dataset.name()).into());
        }
        datasets.push(dataset);
    }
    let mut evaluations = Vec::new();
    for path in &arguments.predictions {
        for file in find_predictions(path)? {
            let name = file.path.display().to_string();
            let evaluation = score(file, &datasets).map_err(|error| format!("{name}: {error}"))?;
            evaluations.push(evaluation);
        }
    }
    if let Some(model) = &arguments.model {
        let guard = arguments.judge.guard(model, &arguments.place)?;
        for dataset in &datasets {
            evaluations.push(judge(&guard, dataset, arguments)?);
        }
    }
    let bootstrap = Bootstrap { draws: arguments.draws as usize, seed: arguments.seed };
    let report = Report::new(&evaluations, arguments.policy, bootstrap)?;
    for path in &arguments.report {
        write(&report, path)?;
    }
    match arguments.json {
        true => Output::Terminal.write(&report),
        false => lines::print(&report.to_text()),
    }
}

/// Stored predictions of a published benchmark, or of a dataset that `--benchmark` names.
fn score(file: PredictionFile, datasets: &[Dataset]) -> Outcome<Evaluation> {
    let predictions = read_predictions(&file.path)?;
    let dataset = datasets.iter().find(|dataset| dataset.name() == file.dataset);
    Ok(match (dataset, file.benchmark) {
        (Some(dataset), _) => Evaluation::of_dataset(file.system, dataset, &predictions)?,
        (None, Some(benchmark)) => {
            Evaluation::of_predictions(file.system, benchmark, &predictions)?
        }
        (None, None) => {
            let name = file.dataset;
            return Err(format!(
                "`{name}` is no published benchmark: name its file with --benchmark"
            )
            .into());
        }
    })
}

fn judge(guard: &dyn Guard, dataset: &Dataset, arguments: &Arguments) -> Outcome<Evaluation> {
    let name = dataset.name();
    if matches!(name, "" | "." | "..") || name.contains(['/', '\\']) {
        return Err(format!("`{name}` cannot name a folder of predictions").into());
    }
    let folder = arguments.output.join(&guard.info().id).join(name);
    std::fs::create_dir_all(&folder)?;
    let model = arguments.model.as_ref().map_or(Ok(String::new()), ModelName::identity)?;
    let options = RunOptions::default()
        .with_identity(model)
        .with_batch(arguments.place.rows())
        .with_judge(arguments.judge.options())
        .with_output(folder.join(guard_eval::PREDICTIONS_FILE));
    let bar = progress::bar(0, dataset.rows().len());
    let mut observer = |progress: &RunProgress| {
        bar.set_position(progress.done as u64);
        let rate = progress.completion_tokens as f64 / progress.seconds.max(1e-3);
        bar.set_message(format!(
            "{}: {rate:.0} tokens/s, {} failed",
            dataset.name(),
            progress.failed
        ));
        ControlFlow::Continue(())
    };
    let evaluation = evaluate(guard, dataset, &options, &mut observer)?;
    bar.finish();
    Ok(evaluation)
}

fn check_ending(path: &Path) -> Outcome<()> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("html" | "md" | "csv" | "txt" | "json") => Ok(()),
        _ => Err(format!("{}: expected .html, .md, .csv, .json or .txt", path.display()).into()),
    }
}

fn write(report: &Report, path: &Path) -> Outcome<()> {
    let text = match path.extension().and_then(|ending| ending.to_str()) {
        Some("html") => report.to_html(),
        Some("md") => report.to_markdown(),
        Some("csv") => report.to_csv(),
        Some("json") => serde_json::to_string_pretty(report)?,
        _ => report.to_text(),
    };
    std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()).into())
}
