//! The checkpoints of a run: going on from one, and writing them.

use std::collections::BTreeMap;
use std::fmt::Debug;

use guard_core::{NamedTensor, WeightsError};

use super::LlamaTrainer;
use super::error::TrainError;
use crate::checkpoint::{
    CheckpointError, CheckpointFolder, CheckpointOptions, Found, MadeWith, Parts, Progress,
};
use crate::example::TrainingExample;
use crate::fingerprint::{self, Weights};
use crate::objective::Objective;
use crate::optimizer::AdamW;
use crate::report::{TrainEvent, TrainObserver};

/// What a run holds beside the trainer.
#[derive(Default)]
pub(super) struct Run {
    folder: Option<CheckpointFolder>,
    made_with: MadeWith,
    /// The windows that the newest checkpoint of the run came after.
    kept: Option<u64>,
}

/// What the progress of a trainer is about, by hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subject {
    data: String,
    /// The set that the best loss was measured on.
    validation: Option<String>,
}

impl<O> LlamaTrainer<O>
where
    O: Objective + Debug,
    O::Example: Debug,
{
    pub(super) fn begin(
        &mut self,
        data: &[TrainingExample<O::Example>],
        observer: &mut dyn TrainObserver,
    ) -> Result<Run, TrainError> {
        let validation = self.validation.as_ref();
        let now = Subject {
            data: fingerprint::of_examples(data),
            validation: validation.map(|set| fingerprint::of_examples(&set.examples)),
        };
        let mut run = match self.checkpoints.clone() {
            Some(options) => self.open(options, &now, observer)?,
            None => Run::default(),
        };
        run.made_with.validation = self.take_up(now).validation.clone();
        Ok(run)
    }

    /// Opens the folder of checkpoints, and goes on from the newest where that is asked for.
    fn open(
        &mut self,
        options: CheckpointOptions,
        now: &Subject,
        observer: &mut dyn TrainObserver,
    ) -> Result<Run, TrainError> {
        let mut folder = CheckpointFolder::open(options)?;
        let made_with = self.made_with(now)?;
        let (found, rejected) = folder.latest(&made_with)?;
        for rejected in &rejected {
            let (path, fault) = (&rejected.path, &rejected.fault);
            observer.on_event(&TrainEvent::CheckpointRejected { path, fault });
        }
        let mut run = Run { folder: Some(folder), made_with, kept: None };
        if let Some(found) = found {
            self.restore(&found)?;
            let step = found.progress.windows;
            run.kept = Some(step);
            observer.on_event(&TrainEvent::Resumed { path: &found.path, step });
            // Where the data changed, that was allowed.
            self.subject = Some(Subject { data: now.data.clone(), validation: found.validation });
        }
        Ok(run)
    }

    fn made_with(&self, now: &Subject) -> Result<MadeWith, TrainError> {
        let model = self.model.as_ref().ok_or(TrainError::Lost)?;
        Ok(MadeWith {
            data: now.data.clone(),
            validation: now.validation.clone(),
            model: fingerprint::of_model(model, Weights::Frozen)?,
            objective: fingerprint::of_debug(&self.objective),
            options: self.options.fields(),
        })
    }

    /// Goes on with the same data, and begins anew with other data. Another validation set has
    /// another best loss.
    fn take_up(&mut self, mut now: Subject) -> &Subject {
        match self.subject.take() {
            Some(before) if before.data == now.data => {
                match &now.validation {
                    Some(_) if now.validation != before.validation => self.progress.best = None,
                    Some(_) => {}
                    // The best of that set stays the best until there is another set.
                    None => now.validation = before.validation,
                }
            }
            _ => {
                self.progress = Progress::default();
                self.optimizer = AdamW::default();
            }
        }
        self.subject.insert(now)
    }

    fn restore(&mut self, found: &Found) -> Result<(), TrainError> {
        let model = self.model.as_ref().ok_or(TrainError::Lost)?;
        let device = model.device();
        let trained = model.parameters().into_iter().filter(|parameter| parameter.trained);
        // Everything is read before anything is changed.
        let values = trained.map(|parameter| {
            let values = found.weights.read(&parameter.name, &parameter.shape, &device)?;
            Ok((parameter.name, values))
        });
        let mut values: BTreeMap<_, _> =
            values.collect::<Result<_, WeightsError>>().map_err(CheckpointError::from)?;
        self.optimizer = AdamW::read(&found.optimizer, found.progress.steps, model)
            .map_err(CheckpointError::from)?;
        self.progress = found.progress;
        self.model = self.model.take().map(|model| {
            model
                .map_parameters(&mut |parameter, old| values.remove(&parameter.name).unwrap_or(old))
        });
        Ok(())
    }

    /// Writes a checkpoint where one is due.
    pub(super) fn save(
        &self,
        run: &mut Run,
        last: bool,
        observer: &mut dyn TrainObserver,
    ) -> Result<(), TrainError> {
        let windows = self.progress.windows;
        let best = self.progress.best.is_some_and(|best| best.windows == windows);
        match &run.folder {
            Some(folder) if last || best || folder.is_due(windows) => self.keep(run, observer),
            _ => Ok(()),
        }
    }

    /// Keeps what was learnt before a step failed. That failure is what the run ends with, so
    /// another one on top of it is only told.
    pub(super) fn rescue(&self, run: &mut Run, observer: &mut dyn TrainObserver) {
        let windows = self.progress.windows;
        if windows == 0 || run.kept == Some(windows) {
            return;
        }
        if let Err(error) = self.keep(run, observer) {
            observer.on_event(&TrainEvent::CheckpointFailed { error: &error });
        }
    }

    fn keep(&self, run: &mut Run, observer: &mut dyn TrainObserver) -> Result<(), TrainError> {
        let Some(folder) = &mut run.folder else { return Ok(()) };
        let model = self.model.as_ref().ok_or(TrainError::Lost)?;
        let parts = Parts { weights: model.trained_tensors(), optimizer: self.optimizer.tensors() };
        if let Some(tensor) = parts.weights.iter().find(|tensor| !is_finite(tensor)) {
            let (step, tensor) = (self.progress.windows, tensor.name.clone());
            return Err(TrainError::NotFinite { step, tensor });
        }
        let path = folder.save(self.progress, &run.made_with, &parts)?;
        run.kept = Some(self.progress.windows);
        observer.on_event(&TrainEvent::CheckpointSaved { path: &path });
        Ok(())
    }
}

/// Whether all values are finite. Where the device cannot say, writing the tensor will.
fn is_finite(tensor: &NamedTensor) -> bool {
    let finite = tensor.values.clone().is_finite().all();
    finite.try_into_scalar::<bool>().unwrap_or(true)
}
