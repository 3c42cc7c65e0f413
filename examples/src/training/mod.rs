//! What `train_rsft` and `train_hsdpo` share: flags, the file of options, and a run with its log,
//! its checkpoints, its pictures and its models.

mod config;
mod export;
mod refusal;
mod watch;

pub use config::{Encoding, RunConfig, Stage};

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use guard_infer::guard_core::{Llama, LoraOptions, Tokenizer};
use guard_infer::{DeviceName, GuardSettings};
use guard_train::{
    Best, CheckpointOptions, Encoder, EncodingReport, LlamaTrainer, MemoryEstimate, Objective,
    StepLog, TrainEnd, TrainError, Trainer, TrainingCurves, TrainingExample,
};

use crate::lines::{self, Outcome};
use crate::model;
use crate::model_name::ModelName;
use export::Export;
use watch::RunWatch;

/// The exit status of a run that a signal or the dashboard stopped: there is no model yet.
const STOPPED: u8 = 3;

/// What the trainers end with, for their help.
pub const EXIT_STATUS: &str = "Exit status: 0 when the model is written, 2 after an error, 3 when \
     the run was stopped after a step (--resume goes on), 130 when a second signal ended it at once.";

/// The flags of a trainer.
#[derive(Args, Debug)]
pub struct TrainArguments {
    /// The model to start from: a folder as the hub has it, a .gguf file, or `embedded`, the small guard.
    #[arg(long)]
    pub model: ModelName,
    /// Where it is trained: auto, cpu, cuda, vulkan, metal, rocm or wgpu.
    #[arg(long, default_value_t)]
    pub device: DeviceName,
    /// What it learns from.
    #[arg(long)]
    pub data: PathBuf,
    /// Other rows, on which the loss is measured every so many steps (`every` of the table
    /// `checkpoints`); the model where it was lowest is written to best/.
    #[arg(long)]
    pub validation: Option<PathBuf>,
    /// The folder of the run: checkpoints, steps.jsonl, training.svg and, at the end, the model.
    #[arg(long)]
    pub output: PathBuf,
    /// A TOML file with the tables `train`, `lora`, `encoding`, `checkpoints` and, for
    /// `train_hsdpo`, `hs_dpo`.
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Goes on from the last checkpoint in the folder of the run, if there is one.
    #[arg(long)]
    pub resume: bool,
    /// Goes on although data, model or options were changed since.
    #[arg(long, requires = "resume")]
    pub allow_changes: bool,
    /// Trains low-rank adapters of this rank instead of all weights. Alpha is twice the rank,
    /// unless the file gives it.
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
    /// The most rows of the data, not of the validation rows. Default all.
    #[arg(long)]
    pub limit: Option<usize>,
}

impl TrainArguments {
    /// The options of the run: the preset, changed by the file, changed by the flags. What would
    /// fail or do harm only later is refused here, before a model is loaded.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, has a key that is not known, an option is out of range, the
    /// folder of the run is not free, or the model lies where the run writes.
    pub fn begin(&self, stage: Stage) -> Outcome<RunConfig> {
        let mut config = RunConfig::read(self.config.as_deref(), stage, self.lora)?;
        let train = &mut config.train;
        train.max_steps = self.max_steps.or(train.max_steps);
        train.epochs = self.epochs.unwrap_or(train.epochs);
        train.examples_per_step = self.examples_per_step.unwrap_or(train.examples_per_step);
        train.learning_rate = self.learning_rate.unwrap_or(train.learning_rate);
        train.validate()?;
        config.lora.as_ref().map_or(Ok(()), LoraOptions::validate)?;
        self.refuse()?;
        Ok(config)
    }

    /// The model, with new adapters where some are to be trained, its tokenizer, and how it is asked.
    ///
    /// # Errors
    ///
    /// When there is no such device or model.
    pub fn open(&self, config: &RunConfig) -> Outcome<(Llama, Tokenizer, GuardSettings)> {
        let (model, tokenizer, settings) = model::load(&self.model, &self.device.open()?)?;
        let model = match &config.lora {
            Some(lora) => model.with_new_adapters(lora, config.train.seed)?,
            None => model,
        };
        Ok((model, tokenizer, settings))
    }

    fn log_path(&self) -> PathBuf {
        self.output.join("steps.jsonl")
    }

    fn checkpoint_folder(&self) -> PathBuf {
        self.output.join("checkpoints")
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
    /// The rows of the files that the flags name, each turned into examples by `read`, which gets
    /// a file and the most rows of it, and also tells what became of them.
    ///
    /// # Errors
    ///
    /// What `read` fails with.
    pub fn read(
        arguments: &TrainArguments,
        read: impl Fn(&Path, usize) -> Outcome<(Vec<TrainingExample<E>>, EncodingReport)>,
    ) -> Outcome<Self> {
        let examples = |path: &Path, most: usize| {
            let (examples, report) = read(path, most)?;
            lines::tell(&format!("{}: {report}", path.display()));
            Ok::<_, Box<dyn std::error::Error>>(examples)
        };
        let data = examples(&arguments.data, arguments.limit.unwrap_or(usize::MAX))?;
        let validation = arguments.validation.as_deref();
        let validation = validation.map(|path| examples(path, usize::MAX)).transpose()?;
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

/// Trains, leaves everything in the folder of the run, and gives the exit status.
///
/// # Errors
///
/// When training fails, or a file cannot be written.
pub fn run<O>(
    arguments: &TrainArguments,
    config: &RunConfig,
    (model, tokenizer, settings): (Llama, &Tokenizer, GuardSettings),
    objective: O,
    rows: Rows<O::Example>,
) -> Outcome<ExitCode>
where
    O: Objective + Debug + Sync,
    O::Example: Clone + Debug + Sync,
{
    std::fs::create_dir_all(&arguments.output)?;
    let export = Export::new(arguments, config, tokenizer, settings)?;
    let largest = rows.data.iter().map(TrainingExample::tokens).max().unwrap_or(1);
    let lora = config.lora.as_ref();
    let needed = MemoryEstimate::new(model.config(), lora, &config.train, largest);
    lines::tell(&format!("memory on paper: {needed}"));
    let mut trainer = LlamaTrainer::new(model, objective, config.train.clone())?
        .with_checkpoints(checkpoints(arguments, config));
    let validated = !rows.validation.is_empty();
    if validated {
        trainer = trainer.with_validation(rows.validation, config.checkpoints.every);
    }
    let log = match arguments.resume {
        true => StepLog::resume(arguments.log_path())?,
        false => StepLog::begin(arguments.log_path())?,
    };
    let mut watch = RunWatch::new(log, arguments.dashboard)?;
    let trained = trainer.train(&rows.data, &mut watch);
    watch.finish()?;
    let trained = trained?;
    let progress = trainer.progress();
    if trained.end == TrainEnd::Stopped {
        draw(arguments);
        let step = progress.windows;
        lines::print(&format!("stopped after step {step}; --resume goes on from there\n"))?;
        return Ok(ExitCode::from(STOPPED));
    }
    let model = trainer.into_model().ok_or(TrainError::Lost)?;
    let written = export.last(&model)?;
    let steps = trained.steps;
    lines::print(&format!("trained {steps} steps; the model is in {}\n", written.display()))?;
    draw(arguments);
    match progress.best {
        Some(best) if validated => {
            let written = export.best(model, best)?.display().to_string();
            let Best { windows, loss, .. } = best;
            lines::print(&format!(
                "the best one, of step {windows} with validation loss {loss:.4}, is in {written}\n"
            ))?;
        }
        None if validated => {
            lines::tell("no validation loss was a finite number: there is no best/")
        }
        _ => (),
    }
    Ok(ExitCode::SUCCESS)
}

/// Draws the curves. A run is not lost because its picture is.
fn draw(arguments: &TrainArguments) {
    let picture = arguments.output.join("training.svg");
    let draw = || {
        std::fs::write(&picture, TrainingCurves::read(arguments.log_path())?.to_svg()?)
            .map_err(|error| format!("cannot write {}: {error}", picture.display()))?;
        lines::print(&format!("its curves are in {}\n", picture.display()))
    };
    if let Err(error) = draw() {
        lines::warn(error.as_ref());
    }
}

fn checkpoints(arguments: &TrainArguments, config: &RunConfig) -> CheckpointOptions {
    let options = CheckpointOptions::new(arguments.checkpoint_folder())
        .with_every(config.checkpoints.every)
        .with_keep_last(config.checkpoints.keep_last);
    match (arguments.resume, arguments.allow_changes) {
        (false, _) => options,
        (true, false) => options.with_resume(),
        (true, true) => options.with_resume().with_changes_allowed(),
    }
}
