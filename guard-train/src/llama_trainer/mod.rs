//! The trainer of LLaMA models.

mod batches;
mod checkpoints;
mod error;

pub use error::TrainError;

pub(crate) use batches::batches;

use std::fmt::Debug;
use std::time::Instant;

use guard_core::burn::tensor::Device;
use guard_core::{Gradients, Llama, OptionsError};

use crate::checkpoint::{Best, CheckpointOptions, Progress};
use crate::example::TrainingExample;
use crate::objective::{Objective, Window};
use crate::optimizer::AdamW;
use crate::options::TrainOptions;
use crate::order::Windows;
use crate::parallel::learn_on;
use crate::pass::{PassError, measure};
use crate::report::{Skipped, StepReport, TrainObserver};
use crate::trainer::{Trained, Trainer};
use batches::window_of;
use error::{failed, is_not_finite};

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
}
