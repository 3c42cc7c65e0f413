//! The trainer of LLaMA models.

mod batches;
mod check;
mod checkpoints;
mod error;

pub use error::TrainError;

pub(crate) use batches::{batches, batches_by};

use std::fmt::Debug;
use std::time::Instant;

use guard_core::burn::tensor::{DType, Device};
use guard_core::{Gradients, Llama, OptionsError};

use crate::checkpoint::{Best, CheckpointOptions, Progress};
use crate::example::{ExampleSet, TrainingExample};
use crate::objective::{Objective, Window};
use crate::optimizer::AdamW;
use crate::options::TrainOptions;
use crate::order::Windows;
use crate::parallel::learn_on;
use crate::pass::{PassError, measure};
use crate::report::{Skipped, StepReport, TrainObserver};
use crate::trainer::{Trained, Trainer};
use batches::window_of;
use checkpoints::Subject;
use error::is_not_finite;

/// Trains a LLaMA: in its adapters where it has some, in all its weights otherwise, and in no
/// block that is frozen.
///
/// A window of examples makes one step of AdamW. It goes through the model in batches as small as
/// the memory asks for; how it is cut changes nothing but rounding. A window whose loss or
/// gradient is not finite is skipped and told, and too many of them in a row end the run. What
/// would fail at some step in any case (tokens of another model, rows beyond its context, examples
/// that the objective refuses) is refused before the first.
///
/// A second call of [`train`](Trainer::train) with the same data goes on where the first one ended,
/// which may be at the end of the run; other data are another run of the model as it is then, from
/// the first step, with new moments. With checkpoints their folder decides, as for a new trainer:
/// unless resuming is allowed, a trainer that meets its own checkpoints is refused like any other.
///
/// When a step fails, what was learnt before it is kept in a checkpoint, if there are any and the
/// weights are finite.
#[derive(Debug)]
pub struct LlamaTrainer<O: Objective> {
    objective: O,
    options: TrainOptions,
    /// Away only while a step is made of it.
    model: Option<Llama>,
    optimizer: AdamW,
    /// The memory of the last window's gradients.
    cleared: Gradients,
    progress: Progress,
    checkpoints: Option<CheckpointOptions>,
    validation: Option<Validation<O::Example>>,
    /// What the progress is about; nothing before training began.
    subject: Option<Subject>,
    /// Devices beside the model's own that share the work of a window.
    others: Vec<Device>,
}

/// An example and its place in the data.
type Placed<'a, E> = (usize, &'a TrainingExample<E>);

#[derive(Debug)]
struct Validation<E> {
    examples: Vec<TrainingExample<E>>,
    every: u64,
}

impl<O: Objective> LlamaTrainer<O> {
    /// A trainer of this model, whose weights must be 32-bit floats: steps are too small for
    /// shorter ones.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] names the first option that is out of range, or a weight of another type.
    pub fn new(model: Llama, objective: O, options: TrainOptions) -> Result<Self, OptionsError> {
        let model = prepared(model, &options)?;
        Ok(Self {
            objective,
            options,
            model: Some(model),
            optimizer: AdamW::default(),
            cleared: Gradients::new(),
            progress: Progress::default(),
            checkpoints: None,
            validation: None,
            subject: None,
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
    /// the end; 0 counts as 1. The checkpoint with the lowest loss is kept. Losses on another set
    /// do not compare, so a run that goes on with one forgets the best before.
    ///
    /// Training refuses a set without a target token.
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
        let mut run = self.begin(data, observer)?;
        let mut windows = Windows::new(data.len(), &self.options);
        let mut trained = Trained::new();
        while self.progress.windows < windows.total() {
            let total = windows.total();
            let chosen = windows.get(self.progress.windows);
            let step = self.step(data, chosen, total);
            let report = step.inspect_err(|_| self.rescue(&mut run, observer))?;
            let answer = trained.record(&report, observer);
            let last = answer.is_break() || self.progress.windows == total;
            self.save(&mut run, last, observer)?;
            if answer.is_break() {
                break;
            }
        }
        Ok(trained)
    }
}

impl<O> LlamaTrainer<O>
where
    O: Objective + Debug + Sync,
    O::Example: Clone + Debug + Sync,
{
    /// One window, and the step of the optimiser that it makes.
    fn step(
        &mut self,
        data: &[TrainingExample<O::Example>],
        chosen: &[usize],
        total: u64,
    ) -> Result<StepReport, TrainError> {
        let began = Instant::now();
        let at = self.progress.windows;
        let chosen: Vec<_> =
            chosen.iter().filter_map(|&place| Some((place, data.get(place)?))).collect();
        let examples: Vec<_> = chosen.iter().map(|(_, example)| *example).collect();
        let window = window_of(&self.objective, &examples);
        let rate = self.options.learning_rate_at(at, total);
        let mut report = StepReport::new(at + 1, window);
        report.total_steps = Some(total);
        report.learning_rate = Some(rate);
        report.tokens = examples.iter().map(|example| example.tokens()).sum();
        match self.gradients(&chosen, window, &mut report)? {
            Some((mut gradients, norm)) if report.loss.is_finite() && norm.is_finite() => {
                report.gradient_norm = Some(norm);
                let scale = self.options.clipping(norm);
                let model = self.model.take().ok_or(TrainError::Lost)?;
                let stepped = self.optimizer.step(model, &gradients, (rate, scale), &self.options);
                self.model = Some(stepped);
                gradients.clear();
                self.cleared = gradients;
                self.progress.skipped_in_a_row = 0;
            }
            Some((_, norm)) => self.skip(&mut report, &chosen, norm)?,
            None if window.target_tokens == 0 => report.skipped = Some(Skipped::NothingToLearn),
            None => self.skip(&mut report, &chosen, f64::NAN)?,
        }
        self.progress.windows = at + 1;
        self.progress.steps = self.optimizer.steps();
        self.progress.examples += window.examples as u64;
        self.progress.target_tokens += window.target_tokens as u64;
        report.elapsed = began.elapsed();
        self.validate(&mut report, total)?;
        Ok(report)
    }

    /// The gradients of a window and their norm; `None` where there are none, or where a
    /// log-probability was not finite.
    fn gradients(
        &mut self,
        chosen: &[Placed<'_, O::Example>],
        window: Window,
        report: &mut StepReport,
    ) -> Result<Option<(Gradients, f64)>, TrainError> {
        let cleared = std::mem::take(&mut self.cleared);
        let model = self.model.as_ref().ok_or(TrainError::Lost)?;
        let examples: Vec<_> = chosen.iter().map(|(_, example)| *example).collect();
        let batches = batches(&examples, &self.options);
        let (others, options) = (&self.others, &self.options);
        let learnt = learn_on(model, others, &self.objective, &batches, window, options, cleared);
        let gradients = match learnt {
            Ok((gradients, parts)) => {
                parts.iter().for_each(|part| report.add(part));
                gradients
            }
            Err(error) if is_not_finite(&error) => {
                report.loss = f64::NAN;
                return Ok(None);
            }
            Err(error) => {
                let chosen = chosen.iter().copied();
                return Err(self.failure(report.step, error, ExampleSet::Data, chosen, window));
            }
        };
        let norm = gradients.norm();
        Ok((!gradients.is_empty()).then_some((gradients, norm)))
    }

    fn skip(
        &mut self,
        report: &mut StepReport,
        chosen: &[Placed<'_, O::Example>],
        norm: f64,
    ) -> Result<(), TrainError> {
        let examples = chosen.iter().map(|(place, example)| example.row_or(*place)).collect();
        let skipped = self.progress.skipped_in_a_row + 1;
        if skipped > self.options.max_skipped {
            // The window was not gone through: whoever goes on meets it again.
            return Err(TrainError::Diverged { step: report.step, skipped, examples });
        }
        self.progress.skipped_in_a_row = skipped;
        report.gradient_norm = Some(norm);
        report.skipped = Some(Skipped::NotFinite { examples });
        Ok(())
    }

    fn validate(&mut self, report: &mut StepReport, total: u64) -> Result<(), TrainError> {
        let Some(validation) = &self.validation else { return Ok(()) };
        if !report.step.is_multiple_of(validation.every) && report.step != total {
            return Ok(());
        }
        let began = Instant::now();
        let examples: Vec<_> = validation.examples.iter().collect();
        let loss = self.loss(&examples).map_err(|error| {
            let (set, window) = (ExampleSet::Validation, window_of(&self.objective, &examples));
            self.failure(report.step, error, set, examples.iter().copied().enumerate(), window)
        })?;
        report.validation_loss = Some(loss);
        report.validation_elapsed = Some(began.elapsed());
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
}

/// A model that steps can be made of, with the blocks frozen that the options name.
pub(crate) fn prepared(model: Llama, options: &TrainOptions) -> Result<Llama, OptionsError> {
    options.validate()?;
    check_weights(&model)?;
    freeze(model, options.frozen_blocks)
}

fn freeze(model: Llama, blocks: usize) -> Result<Llama, OptionsError> {
    model.with_frozen_blocks(blocks).map_err(|error| OptionsError {
        option: "frozen_blocks",
        expected: "at most as many as the model has",
        found: format!("{blocks} ({error})"),
    })
}

fn check_weights(model: &Llama) -> Result<(), OptionsError> {
    let mut other = None;
    model.visit_parameters(&mut |parameter, values| {
        if values.dtype() != DType::F32 && other.is_none() {
            other = Some(format!("{:?} in {}", values.dtype(), parameter.name));
        }
    });
    match other {
        None => Ok(()),
        Some(found) => Err(OptionsError { option: "weights", expected: "32-bit floats", found }),
    }
}
