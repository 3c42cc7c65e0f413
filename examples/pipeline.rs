//! The whole life of a guard in miniature, in minutes and without a network: a made-up bank teaches a
//! small model what is harmful to a bank.
//!
//! `cargo run --release --example pipeline -- --output pipeline`
//!
//! A teacher writes reasoning behind the bank's labels, the model is fine-tuned on it (R-SFT), the
//! exchanges that it judges right in some attempts only are mined, and it is tuned on pairs of a right
//! and a wrong attempt (HS-DPO). What each stage brought is measured on exchanges that none has seen.

use std::fmt::Debug;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use guard_data::{
    ExportPaths, GenerationFiles, Journal, JsonLinesSource, Mining, PreferencePair, ReasonedFile,
    ReasonedSample, ReasoningMode, RuleTeacher, SynthesisOptions, SynthesisProgress, Synthesizer,
    Unparsed, read_pairs, write_pairs,
};
use guard_eval::{
    Bootstrap, Dataset, Evaluation, Report, RunOptions, RunProgress, ScoringPolicy, evaluate,
};
use guard_examples::lines::{self, Outcome};
use guard_examples::model;
use guard_examples::model_name::ModelName;
use guard_examples::progress::{Pace, Watch};
use guard_examples::sources::open_benchmark;
use guard_infer::{
    DeviceName, GenerateOptions, GuardBuilder, GuardReasonerFormat, GuardSettings, JudgeOptions,
    Llama, LlamaGenerator, LlamaGuard, LoadOptions, PromptStyle, Sampling, Tokenizer,
};
use guard_train::{
    ChatTemplate, Cut, EncodeError, Encoder, HsDpo, HsDpoOptions, LlamaTrainer, Objective, Rsft,
    StepLog, StepReport, TrainError, TrainObserver, TrainOptions, Trainer, TrainingCurves,
    TrainingExample, with_reference,
};

const TRAIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/bank_train.jsonl");
const TEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/bank_test.jsonl");

/// The most tokens of a row in training, and of an answer.
const LONGEST: usize = 512;
const LONGEST_ANSWER: usize = 256;

/// Take a small model through synthesis, R-SFT, mining and HS-DPO on the exchanges of a made-up bank.
#[derive(Parser)]
struct Arguments {
    /// The model to start from, with the tokens of ChatML: a folder as the hub has it, a .gguf file, or
    /// `embedded`, the small guard.
    #[arg(long, default_value_t = ModelName::Embedded)]
    model: ModelName,
    /// The folder of all that is made: traces, pairs, models, curves and the report. It has to be new
    /// or empty: nothing of an earlier run is taken for this one's.
    #[arg(long)]
    output: PathBuf,
    /// Where all of it runs: auto, cpu, cuda, vulkan, metal, rocm or wgpu.
    #[arg(long, default_value_t)]
    device: DeviceName,
    /// Labelled exchanges to learn from, instead of the bank's: JSON lines of samples.
    #[arg(long, requires = "test")]
    train: Option<PathBuf>,
    /// Labelled exchanges to measure on, with `--train`.
    #[arg(long, requires = "train")]
    test: Option<PathBuf>,
    /// How often R-SFT goes through the traces.
    #[arg(long, default_value_t = 20)]
    epochs: u32,
    /// Attempts at each exchange when hard ones are mined.
    #[arg(long, default_value_t = 4)]
    samples: usize,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let test = arguments.test.as_deref().unwrap_or(Path::new(TEST));
    let dataset = open_benchmark(&test.to_string_lossy())?;
    begin(&arguments.output)?;
    encoder(&arguments.model.files()?.tokenizer()?)?;

    lines::tell("1. The model as it is");
    let base = arguments.model.builder().device(arguments.device).settings(settings()).build()?;
    let mut evaluations = vec![judge(&base, &dataset)?];

    lines::tell("2. A teacher that follows rules writes reasoning behind the labels");
    let traces = synthesise(arguments)?;

    lines::tell("3. R-SFT: the model learns to reason as the teacher does");
    let r_sft = arguments.output.join("r_sft");
    fine_tune(arguments, &traces, &r_sft)?;
    evaluations.push(judge(&builder(arguments, &r_sft).build()?, &dataset)?);

    lines::tell("4. Mining: what it gets right in some attempts only");
    let pairs = mine(arguments, &traces, &r_sft)?;

    lines::tell("5. HS-DPO: it learns to prefer its right attempts");
    let last = match read_pairs(&pairs)?.as_slice() {
        [] => {
            lines::tell("there is no pair to prefer one of: it ends with R-SFT");
            r_sft
        }
        pairs => {
            let hs_dpo = arguments.output.join("hs_dpo");
            prefer(arguments, pairs, &r_sft, &hs_dpo)?;
            evaluations.push(judge(&builder(arguments, &hs_dpo).build()?, &dataset)?);
            hs_dpo
        }
    };

    let report = Report::new(&evaluations, ScoringPolicy::Strict, Bootstrap::default())?;
    let page = arguments.output.join("report.html");
    fs::write(&page, report.to_html())?;
    lines::print(&report.to_text())?;
    lines::tell(&format!("the report is in {}; judge with the guard by", page.display()));
    lines::tell(&format!("moderate --model {} --prompt TEXT", last.display()));
    Ok(())
}

/// A folder that has nothing of an earlier run.
fn begin(output: &Path) -> Outcome<()> {
    fs::create_dir_all(output)?;
    match fs::read_dir(output)?.next() {
        None => Ok(()),
        Some(_) => Err(format!("{} is not empty: name a new folder", output.display()).into()),
    }
}

fn builder(arguments: &Arguments, model: &Path) -> GuardBuilder {
    GuardBuilder::new(model).device(arguments.device)
}

fn encoder(tokenizer: &Tokenizer) -> Result<Encoder<'_>, EncodeError> {
    Encoder::new(tokenizer, ChatTemplate::chat_ml(), LONGEST, Cut::KeepVerdict)
}

/// How all of them are asked.
fn settings() -> GuardSettings {
    GuardSettings::new(PromptStyle::Compact).with_modes()
}

fn judge(guard: &LlamaGuard, dataset: &Dataset) -> Outcome<Evaluation> {
    let judging = JudgeOptions::default().with_max_tokens(LONGEST_ANSWER);
    let options = RunOptions::default().with_judge(judging);
    let mut quiet = |_: &RunProgress| ControlFlow::Continue(());
    Ok(evaluate(guard, dataset, &options, &mut quiet)?)
}

/// Traces of the exchanges with all reasoning, and with none: the guard learns both at once.
fn synthesise(arguments: &Arguments) -> Outcome<PathBuf> {
    let train = arguments.train.as_deref().unwrap_or(Path::new(TRAIN));
    let source = JsonLinesSource::new(train);
    let journal = Journal::open(arguments.output.join("traces.journal"), None)?;
    let synthesizer = Synthesizer::new(RuleTeacher, SynthesisOptions::new("rules"));
    let mut quiet = |_: &SynthesisProgress| ControlFlow::Continue(());
    synthesizer.run(&source, &journal, &mut quiet)?;
    let traces = arguments.output.join("traces.jsonl");
    let paths = ExportPaths::new(&traces, arguments.output.join("traces.quarantine"))
        .with_style(PromptStyle::Compact);
    let modes = [ReasoningMode::Full, ReasoningMode::LabelOnly];
    let exported = synthesizer.export(&source, &journal, &paths, &modes)?;
    lines::print(&format!("{}\n", exported.statistics))?;
    Ok(traces)
}

fn fine_tune(arguments: &Arguments, traces: &Path, output: &Path) -> Outcome<()> {
    let (model, tokenizer, _) = model::load(&arguments.model, &arguments.device.open()?)?;
    let (examples, _) = encoder(&tokenizer)?.samples(&read_traces(traces)?, &mut Watch::new())?;
    let mut options = TrainOptions::r_sft();
    options.epochs = arguments.epochs;
    (options.examples_per_step, options.learning_rate) = (16, 3e-4);
    train((model, &tokenizer), (Rsft::new(), options), &examples, output)
}

fn read_traces(path: &Path) -> Outcome<Vec<ReasonedSample>> {
    let file = ReasonedFile::open(path)?;
    let rows = file.rows()?.map(|(_, row)| row);
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Pairs of a right and a wrong attempt. Those with reasoning count: answers alone leave nothing to
/// prefer.
fn mine(arguments: &Arguments, traces: &Path, model: &Path) -> Outcome<PathBuf> {
    let mut rows = read_traces(traces)?;
    let asks = PromptStyle::Compact.instruction(ReasoningMode::Full);
    rows.retain(|row| row.instruction == asks);
    let mut options = GenerateOptions::default()
        .with_max_tokens(LONGEST_ANSWER)
        .with_samples(arguments.samples)
        .with_sampling(Sampling::TopP { temperature: 1.0, top_p: 0.95 });
    options.stop = Some(GuardReasonerFormat::whole_output());
    let generator = LlamaGenerator::open(model, LoadOptions::default(), &arguments.device.open()?)?;
    let folder = arguments.output.join("generations");
    let mut files = GenerationFiles::open(folder, "bank", "r_sft", &options)?;
    files.generate(&rows, &generator, 8, &mut Watch::new())?;
    let generations = files.read(rows)?.collect::<Result<Vec<_>, _>>()?;
    let mined = Mining::paper(0).with_unparsed(Unparsed::Wrong).mine(generations);
    lines::print(&format!("{}\n", mined.report))?;
    let pairs = arguments.output.join("pairs.jsonl");
    write_pairs(&pairs, &mined.pairs)?;
    Ok(pairs)
}

fn prefer(
    arguments: &Arguments,
    pairs: &[PreferencePair],
    model: &Path,
    output: &Path,
) -> Outcome<()> {
    let (model, tokenizer, _) = model::load(&model.into(), &arguments.device.open()?)?;
    let (examples, _) = encoder(&tokenizer)?.pairs(pairs, &mut Watch::new())?;
    let mut options = TrainOptions::hs_dpo();
    (options.examples_per_step, options.learning_rate) = (8, 2e-5);
    let examples = with_reference(&model, examples, &options, None, &mut Watch::new())?;
    let objective = HsDpo::new(HsDpoOptions::default())?;
    train((model, &tokenizer), (objective, options), &examples, output)
}

/// Trains a model, and leaves the guard and the curves in a folder.
fn train<O>(
    (model, tokenizer): (Llama, &Tokenizer),
    (objective, options): (O, TrainOptions),
    examples: &[TrainingExample<O::Example>],
    output: &Path,
) -> Outcome<()>
where
    O: Objective + Debug + Sync,
    O::Example: Clone + Debug + Sync,
{
    fs::create_dir_all(output)?;
    let mut trainer = LlamaTrainer::new(model, objective, options)?;
    let log = output.join("steps.jsonl");
    let mut watch = Steps { log: StepLog::begin(&log)?, pace: Pace::default() };
    trainer.train(examples, &mut watch)?;
    watch.log.finish()?;
    let model = trainer.into_model().ok_or(TrainError::Lost)?;
    model::save(&model, tokenizer, settings(), output)?;
    fs::write(output.join("training.svg"), TrainingCurves::read(&log)?.to_svg()?)?;
    lines::tell(&format!("guard and curves are in {}", output.display()));
    Ok(())
}

/// Writes the log of a run, and a line now and then.
struct Steps {
    log: StepLog,
    pace: Pace,
}

impl TrainObserver for Steps {
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()> {
        if self.pace.is_due() {
            let total = report.total_steps.unwrap_or(report.step);
            lines::tell(&format!("step {}/{total}: loss {:.4}", report.step, report.loss));
        }
        self.log.on_step(report)
    }
}
