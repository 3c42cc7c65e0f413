//! What is refused before the first step, and who is to blame for a step that failed.

use std::fmt::Debug;

use super::LlamaTrainer;
use super::error::{TrainError, failed};
use crate::example::{ExamplePlace, ExampleSet, TrainingExample};
use crate::objective::{Objective, ObjectiveError, Window};
use crate::pass::{PassError, measure};

impl<O> LlamaTrainer<O>
where
    O: Objective + Debug + Sync,
    O::Example: Clone + Debug + Sync,
{
    /// Refuses what would end the run at whatever step meets it.
    pub(super) fn check(&self, data: &[TrainingExample<O::Example>]) -> Result<(), TrainError> {
        self.check_set(ExampleSet::Data, data)?;
        match &self.validation {
            Some(validation) => self.check_set(ExampleSet::Validation, &validation.examples),
            None => Ok(()),
        }
    }

    fn check_set(
        &self,
        set: ExampleSet,
        examples: &[TrainingExample<O::Example>],
    ) -> Result<(), TrainError> {
        let config = self.model.as_ref().ok_or(TrainError::Lost)?.config();
        for (index, example) in examples.iter().enumerate() {
            let place = ExamplePlace::new(set, index, example);
            let expected = self.objective.target_tokens(&example.example);
            let found = example.target_tokens();
            if expected != found {
                return Err(TrainError::TargetTokens { example: place, expected, found });
            }
            let checked = example.check(config);
            checked.map_err(|source| TrainError::Example { example: place, source })?;
            let checked = self.objective.check_example(&example.example);
            checked.map_err(|source| refused(place, source))?;
        }
        match examples.iter().any(|example| example.target_tokens() > 0) {
            true => Ok(()),
            false => Err(TrainError::Nothing { set, examples: examples.len() }),
        }
    }

    /// The error of a step. Where the objective refused an example it is named by its place: the
    /// objective itself knows only the batch that it was given.
    pub(super) fn failure<'a>(
        &self,
        step: u64,
        error: PassError,
        set: ExampleSet,
        examples: impl Iterator<Item = (usize, &'a TrainingExample<O::Example>)>,
        window: Window,
    ) -> TrainError
    where
        O::Example: 'a,
    {
        if matches!(error, PassError::Objective(ObjectiveError::Example { .. })) {
            for (index, example) in examples {
                if let Some(source) = self.refusal(example, window) {
                    return refused(ExamplePlace::new(set, index, example), source);
                }
            }
        }
        failed(step, error)
    }

    /// What the objective says against an example that it is given alone.
    fn refusal(
        &self,
        example: &TrainingExample<O::Example>,
        window: Window,
    ) -> Option<ObjectiveError> {
        let model = self.model.as_ref()?;
        match measure(model, &self.objective, &[example], window, &self.options) {
            Err(PassError::Objective(error @ ObjectiveError::Example { .. })) => Some(error),
            _ => None,
        }
    }
}

fn refused(example: ExamplePlace, source: ObjectiveError) -> TrainError {
    TrainError::Refused { example, source: source.of_example(example.index) }
}
