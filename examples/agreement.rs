//! How far two models, or two packings of one, are apart: texts, labels and perplexity.
//!
//! cargo run --release --example agreement -- --model MODEL --other-packed q8_0

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use guard_examples::lines::{self, Outcome};
use guard_examples::model::{DeviceArguments, JudgeArguments};
use guard_examples::model_name::ModelName;
use guard_examples::{progress, sources};
use guard_infer::{
    Exchange, GenerateOptions, Guard, GuardFormat, JudgeMode, JudgeOptions, LlamaGuard, PackedType,
    ReasoningMode, Task, TextGenerator,
};
use serde::Serialize;

/// Compare what two models say of the same exchanges.
///
/// Texts are greedy, behind the guard's prompts, and end where the models end them. Labels are those of
/// answers at once, from the probabilities, so that any model has them. Perplexity is that of the prompts.
#[derive(Parser)]
struct Arguments {
    /// A model: a folder, a .gguf file, or `embedded`.
    #[arg(long, default_value_t = ModelName::Embedded)]
    model: ModelName,
    #[command(flatten)]
    judge: JudgeArguments,
    #[command(flatten)]
    place: DeviceArguments,
    /// The other model. Default: the same one.
    #[arg(long)]
    other: Option<ModelName>,
    /// How the other model's floats are packed: float, bf16, q8_0 or q4_1.
    #[arg(long, default_value_t)]
    other_packed: PackedType,
    /// JSON lines of {"prompt": ..., "response": ...}. Default: some of a made-up bank.
    #[arg(long)]
    input: Option<PathBuf>,
    /// How many exchanges are compared.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    exchanges: usize,
    /// Of whole texts.
    equal_texts: usize,
    /// Tokens of the first model, and how many of them stand before the texts part.
    tokens: usize,
    tokens_before_they_part: usize,
    labels: usize,
    equal_labels: usize,
    perplexity: [f64; 2],
}

/// What one model says of an exchange.
struct Said {
    text: Vec<u32>,
    labels: Vec<Option<bool>>,
    log_probability: f64,
    tokens: usize,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let exchanges = sources::exchanges(arguments.input.as_deref(), arguments.requests as usize)?;
    let bar = progress::bar(0, 2 * exchanges.len());
    let said = |model: &ModelName, packed: PackedType| -> Outcome<Vec<Said>> {
        let place = DeviceArguments { packed, ..arguments.place };
        // Labels from probabilities, whatever the mode of the texts.
        let guard = arguments.judge.builder(model, &place).scores().build()?;
        let one = |exchange| {
            let said = ask(&guard, exchange, arguments.judge.max_tokens as usize);
            bar.inc(1);
            said
        };
        exchanges.iter().map(one).collect()
    };
    let first = said(&arguments.model, arguments.place.packed)?;
    let other = arguments.other.as_ref().unwrap_or(&arguments.model);
    let second = said(other, arguments.other_packed)?;
    bar.finish_and_clear();
    let report = compare(&first, &second);
    let text = match arguments.json {
        true => serde_json::to_string(&report)? + "\n",
        false => show(&report),
    };
    lines::print(&text)
}

fn ask(guard: &LlamaGuard, exchange: &Exchange, max_tokens: usize) -> Outcome<Said> {
    let mut calls = guard.format().plan(exchange, ReasoningMode::Full)?;
    let prompt = calls.swap_remove(0).prompt;
    let options = GenerateOptions::default().with_max_tokens(max_tokens);
    let mut texts = guard.generator().generate(std::slice::from_ref(&prompt), &options);
    let text = texts.remove(0)?.remove(0).text;
    let at_once = JudgeOptions::default().with_mode(JudgeMode::Verdict);
    let verdict = guard.judge(std::slice::from_ref(exchange), &at_once).remove(0)?;
    let (log_probability, tokens) = guard.generator().log_probability(&prompt.to_string())?;
    Ok(Said {
        text: guard.generator().tokenizer().encode(&guard_infer::Prompt::text(text))?,
        labels: Task::ALL.iter().map(|&task| verdict.score(task).map(|s| s >= 0.5)).collect(),
        log_probability,
        tokens,
    })
}

fn compare(first: &[Said], second: &[Said]) -> Report {
    let both = || first.iter().zip(second);
    let alike = |a: &Said, b: &Said| a.text.iter().zip(&b.text).take_while(|(a, b)| a == b).count();
    let labels =
        || both().flat_map(|(a, b)| a.labels.iter().zip(&b.labels)).filter(|l| l.0.is_some());
    let perplexity = |said: &[Said]| {
        let sum: f64 = said.iter().map(|said| said.log_probability).sum();
        (-sum / said.iter().map(|said| said.tokens).sum::<usize>().max(1) as f64).exp()
    };
    Report {
        exchanges: first.len(),
        equal_texts: both().filter(|(a, b)| a.text == b.text).count(),
        tokens: first.iter().map(|said| said.text.len()).sum(),
        tokens_before_they_part: both().map(|(a, b)| alike(a, b)).sum(),
        labels: labels().count(),
        equal_labels: labels().filter(|(a, b)| a == b).count(),
        perplexity: [perplexity(first), perplexity(second)],
    }
}

fn show(report: &Report) -> String {
    let share = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
    let line = |name: &str, part: usize, of: usize, what: &str| {
        format!("{name:<12} {part} of {of} {what} ({:.2} %)\n", share(part, of))
    };
    let [one, other] = report.perplexity;
    let change = 100.0 * (other / one - 1.0);
    line("texts", report.equal_texts, report.exchanges, "are equal")
        + &line("tokens", report.tokens_before_they_part, report.tokens, "stand before they part")
        + &line("labels", report.equal_labels, report.labels, "are equal")
        + &format!("{:<12} {one:.4} and {other:.4} ({change:+.3} %)\n", "perplexity")
}
