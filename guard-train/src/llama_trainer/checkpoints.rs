//! The checkpoints of a run: going on from one, and writing them.

use std::collections::BTreeMap;
use std::fmt::Debug;

use guard_core::WeightsError;

use super::LlamaTrainer;
use super::error::TrainError;
use crate::checkpoint::{CheckpointError, CheckpointFolder, Found, Hashes, Parts};
use crate::example::TrainingExample;
use crate::fingerprint::{self, Weights};
use crate::objective::Objective;
use crate::optimizer::AdamW;
use crate::report::{TrainEvent, TrainObserver};

/// What a run holds beside the trainer.
pub(super) struct Run {
    folder: Option<CheckpointFolder>,
    hashes: Hashes,
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
            self.restore(&found)?;
            let step = found.progress.windows;
            observer.on_event(&TrainEvent::Resumed { path: &found.path, step });
        }
        Ok(Run { folder: Some(folder), hashes })
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

    pub(super) fn save(
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
