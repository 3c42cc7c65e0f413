//! The trainer of LLaMA models.

use std::fmt::Debug;
use std::time::Instant;

use guard_core::burn::tensor::Device;
use guard_core::{Gradients, Llama, ModelError, OptionsError, WeightsError};

use crate::checkpoint::{
    Best, CheckpointError, CheckpointFolder, CheckpointOptions, Hashes, Parts, Progress,
};
use crate::example::TrainingExample;
use crate::fingerprint::{self, Weights};
use crate::objective::{Objective, ObjectiveError, Window};
use crate::optimizer::AdamW;
use crate::options::TrainOptions;
use crate::order::Windows;
use crate::parallel::learn_on;
use crate::pass::{PassError, measure};
use crate::report::{Skipped, StepReport, TrainEvent, TrainObserver};
use crate::trainer::{Trained, Trainer};

/// Trains a LLaMA: in its adapters where it has some, in all its weights otherwise.
///
/// A window of examples makes one step of AdamW. It goes through the model in batches as small as
/// the memory asks for; how it is cut changes nothing but rounding. A window whose loss or
/// gradient is not finite is skipped and told, and too many of them in a row end the run.
#[derive(Debug)]
pub struct LlamaTrainer<O: Objective> {
    objective: O,
    options: TrainOptions,
    /// Away only while a step is made of it.
    model: Option<Llama>,
    optimizer: AdamW,
    progress: Progress,
    checkpoints: Option<CheckpointOptions>,
    validation: Option<Validation<O::Example>>,
    /// Devices beside the model's own that share the work of a window.
    others: Vec<Device>,
}

#[derive(Debug)]
struct Validation<E> {
    examples: Vec<TrainingExample<E>>,
    every: u64,
}

/// Why training failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// An example cannot go through the model: it is too long, or its tokens are another model's.
    #[error("an example of step {step} cannot be read by the model")]
    Model {
        /// The step.
        step: u64,
        /// What is wrong.
        source: ModelError,
    },
    /// The objective refuses an example.
    #[error("the objective refuses an example of step {step}")]
    Objective {
        /// The step.
        step: u64,
        /// What it refuses.
        source: ObjectiveError,
    },
    /// An example has other target tokens than its objective says.
    #[error("example {example} has {found} target tokens, and {expected} for the objective")]
    TargetTokens {
        /// The example, from 0.
        example: usize,
        /// What the objective counts.
        expected: usize,
        /// What its answers have.
        found: usize,
    },
    /// There is nothing to learn.
    #[error("there is no example with a target token among {examples}")]
    Nothing {
        /// The number of examples.
        examples: usize,
    },
    /// Too many windows in a row were not finite. The model is as it was before the first.
    #[error(
        "{skipped} windows in a row were not finite, the last at step {step} (examples {}); lower \
         the learning rate, or look at these examples",
        list(examples)
    )]
    Diverged {
        /// The step.
        step: u64,
        /// How many were skipped.
        skipped: u32,
        /// The examples of the last, from 0.
        examples: Vec<usize>,
    },
    /// A checkpoint could not be written or gone on from.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weights could not be read from their device.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A panic cut a step short and took the model with it: go on from a checkpoint.
    #[error("the model was lost in a step that did not end")]
    Lost,
}

/// The first few numbers.
fn list(examples: &[usize]) -> String {
    let shown: Vec<String> = examples.iter().take(8).map(usize::to_string).collect();
    let more = if examples.len() > shown.len() { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

impl<O: Objective> LlamaTrainer<O> {
    /// A trainer of this model, whose weights should be 32-bit floats.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] names the first option that is out of range.
    pub fn new(model: Llama, objective: O, options: TrainOptions) -> Result<Self, OptionsError> {
        options.validate()?;
        Ok(Self {
            objective,
            options,
            model: Some(model),
            optimizer: AdamW::default(),
            progress: Progress::default(),
            checkpoints: None,
            validation: None,
            others: Vec::new(),
        })
    }

    /// The same trainer with checkpoints. Going on from one happens when training begins.
    #[must_use]
    pub fn with_checkpoints(mut self, options: CheckpointOptions) -> Self {
        self.checkpoints = Some(options);
        self
    }

    /// The same trainer, measuring its loss on other examples after every so many steps and at
    /// the end. The checkpoint with the lowest loss is kept; 0 counts as 1.
    #[must_use]
    pub fn with_validation(
        mut self,
        examples: Vec<TrainingExample<O::Example>>,
        every: u64,
    ) -> Self {
        self.validation = Some(Validation { examples, every: every.max(1) });
        self
    }

    /// The same trainer, sharing the batches of each window with other devices (data parallel).
    ///
    /// Each device has a copy of the model for the time of a window, and its gradients are added
    /// up on the model's own, which alone makes the step and holds the optimiser's state. The
    /// result is that of one device but for rounding.
    #[must_use]
    pub fn with_devices(mut self, others: Vec<Device>) -> Self {
        self.others = others;
        self
    }

    /// The model as it is now; `None` after a panic in a step.
    #[must_use]
    pub fn model(&self) -> Option<&Llama> {
        self.model.as_ref()
    }

    /// The model as it is now; `None` after a panic in a step.
    #[must_use]
    pub fn into_model(self) -> Option<Llama> {
        self.model
    }

    /// How far training has come, runs before a resume included.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }
}

impl<O> Trainer for LlamaTrainer<O>
where
    O: Objective + Debug + Sync,
    O::Example: Clone + Debug + Sync,
{
    type Example = TrainingExample<O::Example>;
    type Error = TrainError;

    fn train(
        &mut self,
        data: &[Self::Example],
        observer: &mut dyn TrainObserver,
    ) -> Result<Trained, TrainError> {
        self.check(data)?;
        let run = self.begin(data, observer)?;
        let mut windows = Windows::new(data.len(), &self.options);
        let mut trained = Trained::new();
        while self.progress.windows < windows.total() {
            let total = windows.total();
            let chosen = windows.get(self.progress.windows);
            let report = self.step(data, chosen, total)?;
            let answer = trained.record(&report, observer);
            let last = answer.is_break() || self.progress.windows == total;
            self.save(&run, last, observer)?;
            if answer.is_break() {
                break;
            }
        }
        Ok(trained)
    }
}

/// What a run holds beside the trainer.
struct Run {
    folder: Option<CheckpointFolder>,
    hashes: Hashes,
}

impl<O> LlamaTrainer<O>
where
    O: Objective + Debug + Sync,
    O::Example: Clone + Debug + Sync,
{
    fn check(&self, data: &[TrainingExample<O::Example>]) -> Result<(), TrainError> {
        let validation = self.validation.iter().flat_map(|validation| &validation.examples);
        for (number, example) in data.iter().chain(validation).enumerate() {
            let expected = self.objective.target_tokens(&example.example);
            let found = example.target_tokens();
            if expected != found {
                return Err(TrainError::TargetTokens { example: number, expected, found });
            }
        }
        match data.iter().any(|example| example.target_tokens() > 0) {
            true => Ok(()),
            false => Err(TrainError::Nothing { examples: data.len() }),
        }
    }

    fn begin(
        &mut self,
        data: &[TrainingExample<O::Example>],
        observer: &mut dyn TrainObserver,
    ) -> Result<Run, TrainError> {
        let Some(options) = self.checkpoints.clone() else {
            return Ok(Run { folder: None, hashes: Hashes::default() });
        };
        let folder = CheckpointFolder::open(options)?;
        let model = self.model.as_ref().ok_or(TrainError::Lost)?;
        let hashes = Hashes {
            data: fingerprint::of_examples(data),
            model: fingerprint::of_model(model, Weights::Frozen)?,
            objective: fingerprint::of_debug(&self.objective),
            options: fingerprint::of_debug(&self.options),
        };
        let (found, rejected) = folder.latest(&hashes)?;
        for rejected in &rejected {
            let (path, fault) = (&rejected.path, &rejected.fault);
            observer.on_event(&TrainEvent::CheckpointRejected { path, fault });
        }
        if let Some(found) = found {
            self.restore(&found.weights, &found.optimizer, found.progress)?;
            let step = found.progress.windows;
            observer.on_event(&TrainEvent::Resumed { path: &found.path, step });
        }
        Ok(Run { folder: Some(folder), hashes })
    }

    fn restore(
        &mut self,
        weights: &guard_core::TensorFile,
        optimizer: &guard_core::TensorFile,
        progress: Progress,
    ) -> Result<(), TrainError> {
        let model = self.model.take().ok_or(TrainError::Lost)?;
        let device = model.device();
        let mut failure = None;
        // Everything is read before anything is changed.
        let mut values = std::collections::BTreeMap::new();
        for parameter in model.parameters().into_iter().filter(|parameter| parameter.trained) {
            match weights.read(&parameter.name, &parameter.shape, &device) {
                Ok(read) => drop(values.insert(parameter.name, read)),
                Err(error) => failure = Some(error),
            }
        }
        let state = AdamW::read(optimizer, progress.steps, &model);
        let (state, failure) = match (state, failure) {
            (Ok(state), None) => (state, None),
            (Ok(_), Some(error)) | (Err(error), _) => (AdamW::default(), Some(error)),
        };
        if let Some(error) = failure {
            self.model = Some(model);
            return Err(CheckpointError::from(error).into());
        }
        self.model =
            Some(model.map_parameters(&mut |parameter, old| {
                values.remove(&parameter.name).unwrap_or(old)
            }));
        (self.optimizer, self.progress) = (state, progress);
        Ok(())
    }

    /// One window, and the step of the optimiser that it makes.
    fn step(
        &mut self,
        data: &[TrainingExample<O::Example>],
        chosen: &[usize],
        total: u64,
    ) -> Result<StepReport, TrainError> {
        let began = Instant::now();
        let at = self.progress.windows;
        let examples: Vec<_> = chosen.iter().filter_map(|&example| data.get(example)).collect();
        let window = window_of(&self.objective, &examples);
        let rate = self.options.learning_rate_at(at, total);
        let mut report = StepReport::new(at + 1, window);
        report.total_steps = Some(total);
        report.learning_rate = Some(rate);
        report.tokens = examples.iter().map(|example| example.tokens()).sum();
        match self.gradients(&examples, window, &mut report)? {
            Some((gradients, norm)) if report.loss.is_finite() && norm.is_finite() => {
                report.gradient_norm = Some(norm);
                let most = self.options.max_gradient_norm.unwrap_or(f64::INFINITY);
                let scale = (most / (norm + 1e-6)).min(1.0);
                let model = self.model.take().ok_or(TrainError::Lost)?;
                let stepped = self.optimizer.step(model, gradients, (rate, scale), &self.options);
                self.model = Some(stepped);
                self.progress.skipped_in_a_row = 0;
            }
            Some((_, norm)) => self.skip(&mut report, chosen, norm)?,
            None if window.target_tokens == 0 => report.skipped = Some(Skipped::NothingToLearn),
            None => self.skip(&mut report, chosen, f64::NAN)?,
        }
        self.progress.windows = at + 1;
        self.progress.steps = self.optimizer.steps();
        self.progress.examples += window.examples as u64;
        self.progress.target_tokens += window.target_tokens as u64;
        self.validate(&mut report, total)?;
        report.elapsed = began.elapsed();
        Ok(report)
    }

    /// The gradients of a window and their norm; `None` where there are none, or where a
    /// log-probability was not finite.
    fn gradients(
        &self,
        examples: &[&TrainingExample<O::Example>],
        window: Window,
        report: &mut StepReport,
    ) -> Result<Option<(Gradients, f64)>, TrainError> {
        let model = self.model.as_ref().ok_or(TrainError::Lost)?;
        let batches = batches(examples, &self.options);
        let learnt =
            learn_on(model, &self.others, &self.objective, &batches, window, &self.options);
        let gradients = match learnt {
            Ok((gradients, parts)) => {
                parts.iter().for_each(|part| report.add(part));
                gradients
            }
            Err(error) if is_not_finite(&error) => {
                report.loss = f64::NAN;
                return Ok(None);
            }
            Err(error) => return Err(failed(report.step, error)),
        };
        let norm = gradients.norm();
        Ok((!gradients.is_empty()).then_some((gradients, norm)))
    }

    fn skip(
        &mut self,
        report: &mut StepReport,
        chosen: &[usize],
        norm: f64,
    ) -> Result<(), TrainError> {
        self.progress.skipped_in_a_row += 1;
        let skipped = self.progress.skipped_in_a_row;
        if skipped > self.options.max_skipped {
            let (step, examples) = (report.step, chosen.to_vec());
            return Err(TrainError::Diverged { step, skipped, examples });
        }
        report.gradient_norm = Some(norm);
        report.skipped = Some(Skipped::NotFinite { examples: chosen.to_vec() });
        Ok(())
    }

    fn validate(&mut self, report: &mut StepReport, total: u64) -> Result<(), TrainError> {
        let Some(validation) = &self.validation else { return Ok(()) };
        if !report.step.is_multiple_of(validation.every) && report.step != total {
            return Ok(());
        }
        let examples: Vec<_> = validation.examples.iter().collect();
        let loss = self.loss(&examples).map_err(|error| failed(report.step, error))?;
        report.validation_loss = Some(loss);
        if loss.is_finite() && self.progress.best.is_none_or(|best| loss < best.loss) {
            self.progress.best = Some(Best::new(self.progress.windows, loss));
        }
        Ok(())
    }

    fn loss(&self, examples: &[&TrainingExample<O::Example>]) -> Result<f64, PassError> {
        let Some(model) = &self.model else { return Ok(f64::NAN) };
        let window = window_of(&self.objective, examples);
        let mut loss = 0.0;
        for batch in batches(examples, &self.options) {
            match measure(model, &self.objective, &batch, window, &self.options) {
                Ok(part) => loss += part.loss,
                Err(error) if is_not_finite(&error) => return Ok(f64::NAN),
                Err(error) => return Err(error),
            }
        }
        Ok(loss)
    }

    fn save(
        &self,
        run: &Run,
        last: bool,
        observer: &mut dyn TrainObserver,
    ) -> Result<(), TrainError> {
        let Some(folder) = &run.folder else { return Ok(()) };
        let best = self.progress.best.is_some_and(|best| best.windows == self.progress.windows);
        if !last && !best && !folder.is_due(self.progress.windows) {
            return Ok(());
        }
        let model = self.model.as_ref().ok_or(TrainError::Lost)?;
        let parts = Parts { weights: model.trained_tensors(), optimizer: self.optimizer.tensors() };
        let path = folder.save(self.progress, &run.hashes, &parts)?;
        observer.on_event(&TrainEvent::CheckpointSaved { path: &path });
        Ok(())
    }
}

fn window_of<O: Objective>(objective: &O, examples: &[&TrainingExample<O::Example>]) -> Window {
    let count = |example: &&TrainingExample<O::Example>| objective.target_tokens(&example.example);
    Window { examples: examples.len(), target_tokens: examples.iter().map(count).sum() }
}

/// A window in parts that fit the memory, of examples of like length: longest first, so that a
/// lack of memory shows at once.
pub(crate) fn batches<'a, E>(
    examples: &[&'a TrainingExample<E>],
    options: &TrainOptions,
) -> Vec<Vec<&'a TrainingExample<E>>> {
    let mut sorted = examples.to_vec();
    sorted.sort_by_key(|example| std::cmp::Reverse(example.tokens()));
    let most = options.examples_per_batch.unwrap_or(usize::MAX);
    let mut batches: Vec<Vec<&TrainingExample<E>>> = Vec::new();
    let mut tokens = 0;
    for example in sorted {
        let size = example.tokens();
        match batches.last_mut() {
            Some(batch) if batch.len() < most && tokens + size <= options.tokens_per_batch => {
                batch.push(example);
                tokens += size;
            }
            _ => {
                batches.push(vec![example]);
                tokens = size;
            }
        }
    }
    batches
}

fn is_not_finite(error: &PassError) -> bool {
    let PassError::Objective(error) = error else { return false };
    matches!(error, ObjectiveError::NotFinite { .. } | ObjectiveError::Overflow { .. })
}

fn failed(step: u64, error: PassError) -> TrainError {
    match error {
        PassError::Model(source) => TrainError::Model { step, source },
        PassError::Objective(source) => TrainError::Objective { step, source },
    }
}
