//! What `train_rsft` and `train_hsdpo` share: flags, the file of options, and a run with its log,
//! its checkpoints, its pictures and its model.

mod config;
mod watch;

pub use config::{Encoding, RunConfig};

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use clap::Args;
use guard_infer::DeviceName;
use guard_infer::guard_core::{
    Llama, LoadOptions, LoraOptions, ModelFiles, SaveOptions, Tokenizer, WeightsError,
};
use guard_train::{
    CheckpointOptions, Encoder, EncodingReport, LlamaTrainer, MemoryEstimate, Objective, StepLog,
    TrainEnd, TrainOptions, Trainer, TrainingCurves, TrainingExample,
};

use crate::lines::{self, Outcome};
use watch::RunWatch;

/// The flags of a trainer.
#[derive(Args, Debug)]
pub struct TrainArguments {
    /// The model to start from: a folder as the hub has it, or a .gguf file.
    #[arg(long)]
    pub model: PathBuf,
    /// Where it is trained: auto, cpu, cuda, vulkan, metal, rocm or wgpu.
    #[arg(long, default_value_t)]
    pub device: DeviceName,
    /// What it learns from.
    #[arg(long)]
    pub data: PathBuf,
    /// Other rows, on which the loss is measured at each checkpoint; the best one is kept.
    #[arg(long)]
    pub validation: Option<PathBuf>,
    /// The folder of the run: checkpoints, steps.jsonl, training.svg and, at the end, the model.
    #[arg(long)]
    pub output: PathBuf,
    /// A TOML file with the tables `train`, `lora`, `encoding`, `checkpoints` and `hs_dpo`.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Goes on from the last checkpoint in the folder of the run, if there is one.
    #[arg(long)]
    pub resume: bool,
    /// Goes on although data, model or options were changed since.
    #[arg(long, requires = "resume")]
    pub allow_changes: bool,
    /// Trains low-rank adapters of this rank instead of all weights.
    #[arg(long)]
    pub lora: Option<usize>,
    /// The last step. Default: when the epochs are over.
    #[arg(long)]
    pub max_steps: Option<u64>,
    /// How often each row is seen. Default: that of the paper.
    #[arg(long)]
    pub epochs: Option<u32>,
    /// Rows between two steps. Default: that of the paper.
    #[arg(long)]
    pub examples_per_step: Option<usize>,
    /// The highest learning rate. Default: that of the paper.
    #[arg(long)]
    pub learning_rate: Option<f64>,
    /// Shows the run in burn-train's dashboard. Needs the feature `dashboard`.
    #[arg(long)]
    pub dashboard: bool,
    /// The most rows of the data. Default all.
    #[arg(long)]
    pub limit: Option<usize>,
}

impl TrainArguments {
    /// The options of the run: the preset, changed by the file, changed by the flags.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, has a key that is not known, or an option is out of range.
    pub fn config(&self, preset: TrainOptions) -> Outcome<RunConfig> {
        let mut config = RunConfig::read(self.config.as_deref(), preset)?;
        let train = &mut config.train;
        train.max_steps = self.max_steps.or(train.max_steps);
        train.epochs = self.epochs.unwrap_or(train.epochs);
        train.examples_per_step = self.examples_per_step.unwrap_or(train.examples_per_step);
        train.learning_rate = self.learning_rate.unwrap_or(train.learning_rate);
        if let Some(rank) = self.lora {
            let lora = config.lora.take().unwrap_or_default();
            config.lora = Some(lora.with_rank(rank).with_alpha(2.0 * rank as f64));
        }
        train.validate()?;
        config.lora.as_ref().map_or(Ok(()), LoraOptions::validate)?;
        Ok(config)
    }

    /// The model, with new adapters where some are to be trained, and its tokenizer.
    ///
    /// # Errors
    ///
    /// When there is no such device or model.
    pub fn open(&self, config: &RunConfig) -> Outcome<(Llama, Tokenizer)> {
        let files = ModelFiles::open(&self.model)?;
        let options = LoadOptions::default().with_finite_check();
        let (model, _) = files.load(options, &self.device.open()?)?;
        let model = match &config.lora {
            Some(lora) => model.with_new_adapters(lora, config.train.seed)?,
            None => model,
        };
        Ok((model, files.tokenizer()?))
    }
}

/// Rows for training, and for validation where some were given.
#[derive(Debug)]
pub struct Rows<E> {
    /// What is learnt from.
    pub data: Vec<TrainingExample<E>>,
    /// What the loss is measured on.
    pub validation: Vec<TrainingExample<E>>,
}

impl<E> Rows<E> {
    /// The rows of the files that the flags name, each turned into examples by `read`, which also
    /// tells what became of them.
    ///
    /// # Errors
    ///
    /// What `read` fails with.
    pub fn read(
        arguments: &TrainArguments,
        read: impl Fn(&Path) -> Outcome<(Vec<TrainingExample<E>>, EncodingReport)>,
    ) -> Outcome<Self> {
        let examples = |path: &Path| {
            let (examples, report) = read(path)?;
            lines::tell(&format!("{}: {report}", path.display()));
            Ok::<_, Box<dyn std::error::Error>>(examples)
        };
        let data = examples(&arguments.data)?;
        let validation = arguments.validation.as_deref().map(examples).transpose()?;
        Ok(Self { data, validation: validation.unwrap_or_default() })
    }
}

/// An encoder for the template and the cut that the options name.
///
/// # Errors
///
/// When the tokenizer has no token of the template.
pub fn encoder<'a>(encoding: &Encoding, tokenizer: &'a Tokenizer) -> Outcome<Encoder<'a>> {
    Ok(Encoder::new(tokenizer, encoding.template(tokenizer)?, encoding.cutoff, encoding.cut)?)
}

/// Trains, and leaves everything in the folder of the run.
///
/// # Errors
///
/// When training fails, or a file cannot be written.
pub fn run<O>(
    arguments: &TrainArguments,
    config: &RunConfig,
    (model, tokenizer): (Llama, &Tokenizer),
    objective: O,
    rows: Rows<O::Example>,
) -> Outcome<()>
where
    O: Objective + Debug + Sync,
    O::Example: Clone + Debug + Sync,
{
    let folder = &arguments.output;
    std::fs::create_dir_all(folder)?;
    let log_path = folder.join("steps.jsonl");
    let mut trainer = LlamaTrainer::new(model, objective, config.train.clone())?
        .with_checkpoints(checkpoints(arguments, config));
    if !rows.validation.is_empty() {
        trainer = trainer.with_validation(rows.validation, config.checkpoints.every);
    }
    let log = match arguments.resume {
        true => StepLog::resume(&log_path)?,
        false => StepLog::begin(&log_path)?,
    };
    let longest = rows.data.iter().flat_map(|example| &example.answers);
    let longest = longest.map(|answer| answer.tokens.len()).max().unwrap_or(1);
    if let Some(model) = trainer.model() {
        let needed =
            MemoryEstimate::new(model.config(), config.lora.as_ref(), &config.train, longest);
        lines::tell(&format!("memory on paper: {needed}"));
    }
    let mut watch = RunWatch::new(log, arguments.dashboard)?;
    let trained = trainer.train(&rows.data, &mut watch);
    watch.finish()?;
    let trained = trained?;
    let picture = folder.join("training.svg");
    std::fs::write(&picture, TrainingCurves::read(&log_path)?.to_svg()?)?;
    if trained.end == TrainEnd::Stopped {
        let step = trainer.progress().windows;
        return lines::print(&format!("stopped after step {step}; --resume goes on from there\n"));
    }
    let Some(model) = trainer.into_model() else { return Ok(()) };
    write_model(&model, arguments, config, tokenizer)?;
    lines::print(&format!(
        "trained {} steps; the model is in {}, its curves are {}\n",
        trained.steps,
        folder.join("model").display(),
        picture.display()
    ))
}

fn checkpoints(arguments: &TrainArguments, config: &RunConfig) -> CheckpointOptions {
    let options = CheckpointOptions::new(arguments.output.join("checkpoints"))
        .with_every(config.checkpoints.every)
        .with_keep_last(config.checkpoints.keep_last);
    match (arguments.resume, arguments.allow_changes) {
        (false, _) => options,
        (true, false) => options.with_resume(),
        (true, true) => options.with_resume().with_changes_allowed(),
    }
}

/// The model as transformers and vLLM load it, and the adapters as PEFT does.
fn write_model(
    model: &Llama,
    arguments: &TrainArguments,
    config: &RunConfig,
    tokenizer: &Tokenizer,
) -> Result<(), WeightsError> {
    let folder = &arguments.output;
    if let Some(lora) = &config.lora {
        let base = arguments.model.file_name().and_then(|name| name.to_str());
        model.save_adapters(folder.join("adapter"), lora, base)?;
    }
    model.save_folder(folder.join("model"), Some(tokenizer), SaveOptions::default())?;
    copy_beside(&arguments.model, &folder.join("model"));
    Ok(())
}

/// Files that other programs want beside the weights and that training does not change. They may
/// be missing.
fn copy_beside(from: &Path, to: &Path) {
    for name in ["tokenizer_config.json", "special_tokens_map.json", "generation_config.json"] {
        let source = from.join(name);
        if source.is_file()
            && let Err(error) = std::fs::copy(&source, to.join(name))
        {
            lines::warn(&error);
        }
    }
}
