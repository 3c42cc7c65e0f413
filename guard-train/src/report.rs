//! What a trainer tells about itself while it runs, and to whom.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::checkpoint::CheckpointFault;
use crate::llama_trainer::TrainError;
use crate::objective::{Contribution, Number, Window, add_numbers};

/// Someone who watches a training run and may end it: a log, a progress bar, early stopping.
///
/// Any function of a report is an observer.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use guard_train::{StepReport, TrainObserver, Window};
///
/// let mut losses = Vec::new();
/// let mut observer = |report: &StepReport| {
///     losses.push(report.loss);
///     if report.step < 100 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
/// };
/// assert!(observer.on_step(&StepReport::new(1, Window::default())).is_continue());
/// assert!(observer.on_step(&StepReport::new(100, Window::default())).is_break());
/// assert_eq!(losses, [0.0, 0.0]);
/// ```
pub trait TrainObserver {
    /// Called after each step of the optimiser. [`ControlFlow::Break`] asks the trainer to end
    /// in good order: it makes no further step, and what it has learnt is kept.
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()>;

    /// Called when something else worth knowing happens. Does nothing unless it is overridden.
    fn on_event(&mut self, event: &TrainEvent<'_>) {
        let _ = event;
    }
}

/// What happens beside the steps of a run.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum TrainEvent<'a> {
    /// The run goes on from a checkpoint.
    Resumed {
        /// The checkpoint.
        path: &'a Path,
        /// The steps that were made before.
        step: u64,
    },
    /// A checkpoint was passed over, because it is not whole.
    CheckpointRejected {
        /// The checkpoint.
        path: &'a Path,
        /// What is wrong with it.
        fault: &'a CheckpointFault,
    },
    /// A checkpoint was written.
    CheckpointSaved {
        /// The checkpoint.
        path: &'a Path,
    },
    /// A step failed, and so did the checkpoint of what was learnt before it. The run ends with
    /// the error of the step.
    CheckpointFailed {
        /// Why there is none.
        error: &'a TrainError,
    },
}

/// Shows what happened in one line.
impl fmt::Display for TrainEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resumed { path, step } => {
                write!(f, "going on from {}, after step {step}", path.display())
            }
            Self::CheckpointRejected { path, fault } => {
                write!(f, "passed over {}: {fault}", path.display())
            }
            Self::CheckpointSaved { path } => write!(f, "wrote {}", path.display()),
            Self::CheckpointFailed { error } => {
                write!(f, "could not keep what was learnt before the step that failed: {error}")
            }
        }
    }
}

/// Why a window made no step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "reason")]
#[non_exhaustive]
pub enum Skipped {
    /// The loss or the gradients were not finite. The model is as it was.
    NotFinite {
        /// The examples of the window, from 0: the rows of their source where these are known,
        /// else their places in the data.
        examples: Vec<usize>,
    },
    /// No example of the window has a target token.
    NothingToLearn,
}

impl<F: FnMut(&StepReport) -> ControlFlow<()>> TrainObserver for F {
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()> {
        self(report)
    }
}

/// What one step of the optimiser did.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct StepReport {
    /// The number of the step, from 1; a resumed run counts on.
    pub step: u64,
    /// The last step of the run, if it is known.
    pub total_steps: Option<u64>,
    /// What the step rests on.
    pub window: Window,
    /// The loss of the window before the step.
    pub loss: f64,
    /// The objective's numbers, as means over the window, in the order in which they came.
    pub numbers: Vec<Number>,
    /// All tokens that the model read, prompts included; 0 until it is set.
    pub tokens: usize,
    /// Why no step was made, if none was.
    pub skipped: Option<Skipped>,
    /// The loss on other examples after the step, if it was measured.
    pub validation_loss: Option<f64>,
    /// The learning rate of the step, if there is one.
    pub learning_rate: Option<f64>,
    /// The norm of the gradients of all weights before clipping, if it was measured.
    pub gradient_norm: Option<f64>,
    /// Wall time of the step, loading its data included and validation not; zero until it is set.
    pub elapsed: Duration,
    /// Wall time of the validation after the step, if there was one.
    pub validation_elapsed: Option<Duration>,
}

impl StepReport {
    /// The report of a step on this window, to which no part of it was added yet.
    #[must_use]
    pub fn new(step: u64, window: Window) -> Self {
        Self {
            step,
            total_steps: None,
            window,
            loss: 0.0,
            numbers: Vec::new(),
            tokens: 0,
            skipped: None,
            validation_loss: None,
            learning_rate: None,
            gradient_norm: None,
            elapsed: Duration::ZERO,
            validation_elapsed: None,
        }
    }

    /// Adds a part of the window. Once all parts are in, loss and numbers are those of the
    /// whole.
    pub fn add(&mut self, part: &Contribution) {
        self.loss += part.loss;
        add_numbers(&mut self.numbers, &part.numbers);
    }

    /// The number of this name, if the objective gave one.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<f64> {
        self.numbers.iter().find(|number| number.name == name).map(|number| number.value)
    }

    /// Target tokens learnt from in a second; `None` before [`StepReport::elapsed`] is set.
    #[must_use]
    pub fn target_tokens_per_second(&self) -> Option<f64> {
        let seconds = self.elapsed.as_secs_f64();
        (seconds > 0.0).then(|| self.window.target_tokens as f64 / seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AnswerTokens, HsDpo, Objective, PreferencePair};

    #[test]
    fn parts_add_up_to_the_window() {
        let pair = |reference| {
            PreferencePair::new(AnswerTokens::new(1, reference), AnswerTokens::new(1, -2.0))
        };
        let (pairs, log_probs) = ([pair(-1.0), pair(-3.0)], [-2.0, -1.0, -0.5, -4.0]);
        let objective = HsDpo::default();
        let window = Window::of(&objective, &pairs);
        let mut report = StepReport::new(1, window);
        for (pair, log_probs) in pairs.chunks(1).zip(log_probs.chunks(2)) {
            report.add(&objective.contribute(pair, log_probs, window).unwrap());
        }
        let whole = objective.contribute(&pairs, &log_probs, window).unwrap();
        assert!((report.loss - whole.loss).abs() < 1e-12);
        assert_eq!(report.numbers, whole.numbers);
        // Margins: 0.01 x ((-2 + 1) - (-1 + 2)) < 0 and 0.01 x ((-0.5 + 3) - (-4 + 2)) > 0.
        assert_eq!(report.number("rewards/accuracies"), Some(0.5));
        assert_eq!(report.number("perplexity"), None);
    }

    #[test]
    fn speed_is_known_once_the_time_is() {
        let window = Window { examples: 1, target_tokens: 30 };
        let mut report = StepReport::new(1, window);
        assert_eq!(report.target_tokens_per_second(), None);
        report.elapsed = Duration::from_secs(2);
        assert_eq!(report.target_tokens_per_second(), Some(15.0));
    }
}
