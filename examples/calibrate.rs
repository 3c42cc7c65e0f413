//! Fits the probabilities of a guard to labelled samples, and keeps what was found beside the model.
//!
//! `cargo run --release --example calibrate -- --model FOLDER --data samples.jsonl`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use guard_eval::{
    Bins, Dataset, brier_score, expected_calibration_error, fit_calibration, reliability,
};
use guard_examples::lines::{self, Outcome};
use guard_examples::model::{DeviceArguments, write_settings};
use guard_examples::progress;
use guard_examples::sources::open_benchmark;
use guard_infer::{
    Guard, GuardBuilder, GuardSettings, JudgeMode, JudgeOptions, ModelFiles, PromptStyle, Scores,
    Task, TaskCalibration, read_settings,
};

/// Fit a guard's probabilities to labelled samples, and write its guard.json.
///
/// Samples that the model was trained on teach nothing here, and those that a result is reported for
/// must not be used: keep some rows apart for this.
#[derive(Parser)]
struct Arguments {
    /// The folder of the model.
    #[arg(long)]
    model: PathBuf,
    /// Labelled samples: JSON lines, or NAME=FILE for a published benchmark.
    #[arg(long)]
    data: String,
    /// How the model is asked: benchmark, deploy, chat or compact. Default: what its guard.json says.
    #[arg(long)]
    style: Option<PromptStyle>,
    /// The model was trained with the instructions of the modes.
    #[arg(long)]
    knows_modes: bool,
    /// Also moves the probability at which a label changes.
    #[arg(long)]
    bias: bool,
    /// Which probabilities: those of answers at once (verdict), or those behind reasoning (reason).
    #[arg(long, default_value_t = JudgeMode::Verdict)]
    mode: JudgeMode,
    /// The most tokens of reasoning and answers.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    #[command(flatten)]
    place: DeviceArguments,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let dataset = open_benchmark(&arguments.data)?;
    let folder = &arguments.model;
    if !folder.is_dir() {
        return Err(format!("{} is no folder, and guard.json lies in one", folder.display()).into());
    }
    let mut settings = read_settings(&ModelFiles::open(folder)?)?;
    settings.style = arguments.style.unwrap_or(settings.style);
    settings.knows_modes |= arguments.knows_modes;
    let mut scores = settings.scores.unwrap_or_default();
    let calibration = match arguments.mode {
        JudgeMode::Verdict => &mut scores.at_once,
        JudgeMode::Reason => &mut scores.reasoned,
        _ => {
            return Err("adaptive has no probabilities of its own: calibrate the two others".into());
        }
    };
    let guard = GuardBuilder::new(folder)
        .device(arguments.place.device)
        .settings(settings)
        .max_rows(arguments.place.rows())
        .calibrated(Scores::default())
        .build()?;
    let options = JudgeOptions::default()
        .with_mode(arguments.mode)
        .with_max_tokens(arguments.max_tokens as usize);
    let judged = judge(&guard, &dataset, &options, arguments.place.rows());
    for (task, rows) in Task::ALL.into_iter().zip(&judged) {
        match fit_calibration(rows, arguments.bias)? {
            Some(fitted) => {
                lines::tell(&format!("{task}: {}", told(rows, fitted)?));
                *calibration = calibration.with_task(task, fitted);
            }
            None => lines::tell(&format!(
                "{task}: {} rows do not tell, its calibration is left as it is",
                rows.len()
            )),
        }
    }
    write_settings(settings.with_scores(scores), folder)?;
    lines::tell(&format!("wrote {}", folder.join(GuardSettings::FILE).display()));
    Ok(())
}

/// What was fitted, and how good the probabilities are before and after.
fn told(rows: &[(f64, bool)], fitted: TaskCalibration) -> Outcome<String> {
    let after: Vec<_> = rows.iter().map(|&(score, label)| (fitted.apply(score), label)).collect();
    Ok(format!(
        "{} rows, temperature {:.3}, bias {:.3}; {} before, {} after",
        rows.len(),
        fitted.temperature(),
        fitted.bias(),
        quality(rows)?,
        quality(&after)?
    ))
}

/// The score and the label of each row, for each task. A row that could not be judged has none.
fn judge(
    guard: &dyn Guard,
    dataset: &Dataset,
    options: &JudgeOptions,
    batch: usize,
) -> [Vec<(f64, bool)>; 3] {
    let mut failed = 0;
    let mut scores = [Vec::new(), Vec::new(), Vec::new()];
    let bar = progress::bar(0, dataset.rows().len());
    for rows in dataset.rows().chunks(batch) {
        let exchanges: Vec<_> = rows.iter().map(|row| row.sample.exchange()).collect();
        for (row, verdict) in rows.iter().zip(guard.judge(&exchanges, options)) {
            bar.inc(1);
            let Ok(verdict) = verdict else {
                failed += 1;
                continue;
            };
            for task in Task::ALL {
                let label = row.sample.labels.positive(task);
                scores[task as usize].extend(verdict.score(task).zip(label));
            }
        }
    }
    bar.finish();
    if failed > 0 {
        lines::tell(&format!("{failed} rows could not be judged and were left out"));
    }
    scores
}

fn quality(rows: &[(f64, bool)]) -> Outcome<String> {
    let error = expected_calibration_error(&reliability(rows, Bins::EqualWidth(15))?);
    let (error, brier) = (error.unwrap_or(0.0), brier_score(rows).unwrap_or(0.0));
    Ok(format!("ECE {error:.3} and Brier score {brier:.3}"))
}
