//! Continues the prompts of a file as they are, k samples each; a run that was stopped goes on.
//!
//! cargo run --release --example generate -- --model FOLDER --prompt "Once upon a time" --max-tokens 64

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use guard_examples::lines::{self, Outcome};
use guard_examples::model::ModelArguments;
use guard_examples::progress;
use guard_infer::guard_core::visible;
use guard_infer::{
    Completed, Finish, GenerateError, GenerateOptions, LlamaGenerator, Prompt, Sampling,
    TextGenerator,
};
use serde::{Deserialize, Serialize};

/// Continue prompts with a model.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// A prompt to continue.
    #[arg(long, required_unless_present = "input")]
    prompt: Option<String>,
    /// JSON lines of {"prompt": ..., "label": ...} to continue, `-` for standard input.
    #[arg(long, conflicts_with = "prompt")]
    input: Option<PathBuf>,
    /// Where JSON lines of {"prompt", "label", "predict", ...} go. Default: standard output.
    #[arg(long, requires = "input")]
    output: Option<PathBuf>,
    /// The most tokens of a completion.
    #[arg(long, default_value_t = 2048)]
    max_tokens: usize,
    /// Completions a prompt.
    #[arg(long, default_value_t = 1)]
    samples: usize,
    /// Divides the logits; 0 takes the most probable token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// The probability mass that is sampled from.
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// The seed of all draws.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The most prompts of the file. Default: all.
    #[arg(long)]
    limit: Option<usize>,
}

#[derive(Clone, Deserialize)]
struct Item {
    prompt: String,
    #[serde(default)]
    label: String,
}

/// A line of output, as the reference's generated_predictions.jsonl and a little more.
#[derive(Serialize)]
struct Prediction<'a> {
    prompt: &'a str,
    label: &'a str,
    predict: &'a str,
    sample: usize,
    finish: Option<Finish>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let options = options(arguments)?;
    let generator = arguments.model.open()?;
    match (&arguments.input, &arguments.prompt) {
        (Some(input), _) => {
            let items = lines::read::<Item>(input)?.into_iter().map(|line| line.record);
            let items = items.collect::<Result<Vec<_>, _>>()?;
            continue_file(&generator, &options, arguments, input, &items)
        }
        (None, Some(prompt)) => continue_one(&generator, &options, prompt),
        (None, None) => Ok(()),
    }
}

fn options(arguments: &Arguments) -> Outcome<GenerateOptions> {
    let mut options = GenerateOptions::default()
        .with_max_tokens(arguments.max_tokens)
        .with_samples(arguments.samples)
        .with_seed(arguments.seed);
    if arguments.temperature != 0.0 {
        let (temperature, top_p) = (arguments.temperature, arguments.top_p);
        options.sampling = Sampling::TopP { temperature, top_p };
    }
    options.validate()?;
    Ok(options)
}

fn continue_one(
    generator: &LlamaGenerator,
    options: &GenerateOptions,
    prompt: &str,
) -> Outcome<()> {
    for result in generator.generate(&[Prompt::text(prompt)], options) {
        for completed in result? {
            let text = visible(&completed.text);
            lines::print(&format!("{}{text}\n[{}]\n", visible(prompt), completed.finish))?;
        }
    }
    Ok(())
}

fn continue_file(
    generator: &LlamaGenerator,
    options: &GenerateOptions,
    arguments: &Arguments,
    input: &Path,
    items: &[Item],
) -> Outcome<()> {
    let items = &items[..items.len().min(arguments.limit.unwrap_or(usize::MAX))];
    let (mut out, written) = lines::resume(arguments.output.as_deref(), input, "predict")?;
    let done = written / options.samples;
    // A prompt whose samples were torn apart is written again from its first missing sample.
    let mut skip = written % options.samples;
    let bar = progress::bar(done, items.len());
    for batch in items.get(done..).unwrap_or_default().chunks(arguments.model.place.rows()) {
        let prompts: Vec<Prompt> = batch.iter().map(|item| Prompt::text(&item.prompt)).collect();
        for (item, result) in batch.iter().zip(generator.generate(&prompts, options)) {
            for prediction in predictions(item, &result, options.samples).skip(skip) {
                out.write(&prediction)?;
            }
            skip = 0;
            bar.inc(1);
        }
    }
    bar.finish();
    Ok(())
}

/// One line a sample, also for a prompt that failed: lines stay in step with prompts.
fn predictions<'a>(
    item: &'a Item,
    result: &'a Result<Vec<Completed>, GenerateError>,
    samples: usize,
) -> impl Iterator<Item = Prediction<'a>> {
    let completed = |sample: usize| result.as_ref().ok().and_then(|all| all.get(sample));
    (0..samples).map(move |sample| Prediction {
        prompt: &item.prompt,
        label: &item.label,
        predict: completed(sample).map_or("", |completed| &completed.text),
        sample,
        finish: completed(sample).map(|completed| completed.finish),
        error: result.as_ref().err().map(|error| lines::chain(error)),
    })
}
