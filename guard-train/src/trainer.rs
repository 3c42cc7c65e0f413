//! The large seam of training: a whole loop.

use std::ops::ControlFlow;

use crate::report::{StepReport, TrainObserver};

/// A loop that learns from examples: ours, or a team's own with its own model and optimiser.
///
/// The trainer owns what it trains. It is object-safe for given types of example and error.
pub trait Trainer {
    /// What it learns from.
    type Example;
    /// Why it can fail.
    type Error;

    /// Trains on the examples until it is done or the observer breaks off, and shows each step
    /// to the observer.
    ///
    /// A second call takes the model as the first one left it. Whether it is the same run, or
    /// another one from its first step, is for each trainer to say.
    ///
    /// # Errors
    ///
    /// When a step could not be made. Steps before it were made.
    fn train(
        &mut self,
        data: &[Self::Example],
        observer: &mut dyn TrainObserver,
    ) -> Result<Trained, Self::Error>;
}

/// What a run of training came to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Trained {
    /// The steps of the optimiser that this run made; those before a resume are not in it, nor
    /// are windows that were skipped.
    pub steps: u64,
    /// The examples that it learnt from, each as often as it was seen.
    pub examples: u64,
    /// Their target tokens.
    pub target_tokens: u64,
    /// The loss of the last window that a step was made of, before the step; `None` when there was
    /// no step.
    pub last_loss: Option<f64>,
    /// Why it ended.
    pub end: TrainEnd,
}

/// Why a run of training ended without an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrainEnd {
    /// All steps were made.
    #[default]
    Completed,
    /// The observer broke off.
    Stopped,
}

impl Trained {
    /// A run that has made no step yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a step that was made, shows the report to the observer and remembers what the
    /// observer said. On [`ControlFlow::Break`] the trainer makes no further step.
    pub fn record(
        &mut self,
        report: &StepReport,
        observer: &mut dyn TrainObserver,
    ) -> ControlFlow<()> {
        if report.skipped.is_none() {
            self.steps += 1;
            self.examples += report.window.examples as u64;
            self.target_tokens += report.window.target_tokens as u64;
            self.last_loss = Some(report.loss);
        }
        let answer = observer.on_step(report);
        if answer.is_break() {
            self.end = TrainEnd::Stopped;
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Objective, ObjectiveError, Rsft, Skipped, TargetTokens, Window};

    /// The smallest model that there is: one logit for each of three tokens, whatever came
    /// before. It is trained in windows of four examples by plain gradient descent.
    #[derive(Default)]
    struct Unigram {
        logits: [f64; 3],
        epochs: usize,
    }

    impl Unigram {
        fn probabilities(&self) -> [f64; 3] {
            let powers = self.logits.map(f64::exp);
            powers.map(|power| power / powers.iter().sum::<f64>())
        }

        fn step(
            &mut self,
            answers: &[Vec<usize>],
            step: u64,
        ) -> Result<StepReport, ObjectiveError> {
            let examples: Vec<_> = answers.iter().map(|a| TargetTokens::new(a.len())).collect();
            let tokens = answers.concat();
            let probabilities = self.probabilities();
            let log_probs: Vec<_> = tokens.iter().map(|&t| probabilities[t].ln() as f32).collect();
            let window = Window::of(&Rsft::new(), &examples);
            let part = Rsft::new().contribute(&examples, &log_probs, window)?;
            part.check(tokens.len())?;
            // d(-log p_target) / d(logit) = p - 1 for the target, p for the others.
            for (&target, &coefficient) in tokens.iter().zip(&part.coefficients) {
                for (token, logit) in self.logits.iter_mut().enumerate() {
                    let slope = probabilities[token] - if token == target { 1.0 } else { 0.0 };
                    *logit -= f64::from(coefficient) * slope;
                }
            }
            let mut report = StepReport::new(step, window);
            report.add(&part);
            Ok(report)
        }
    }

    impl Trainer for Unigram {
        type Example = Vec<usize>;
        type Error = ObjectiveError;

        fn train(
            &mut self,
            data: &[Vec<usize>],
            observer: &mut dyn TrainObserver,
        ) -> Result<Trained, ObjectiveError> {
            let mut trained = Trained::new();
            for window in (0..self.epochs).flat_map(|_| data.chunks(4)) {
                let report = self.step(window, trained.steps + 1)?;
                if trained.record(&report, observer).is_break() {
                    break;
                }
            }
            Ok(trained)
        }
    }

    /// Token 0 four times, tokens 1 and 2 twice each.
    fn answers() -> Vec<Vec<usize>> {
        vec![vec![0, 1, 0], vec![2], vec![], vec![0, 2, 1, 0]]
    }

    /// Compiles only while both traits are object-safe.
    fn run(
        trainer: &mut dyn Trainer<Example = Vec<usize>, Error = ObjectiveError>,
        observer: &mut dyn TrainObserver,
    ) -> Trained {
        trainer.train(&answers(), observer).unwrap()
    }

    #[test]
    fn the_coefficients_lead_downhill_to_the_best_model() {
        let mut unigram = Unigram { epochs: 200, ..Unigram::default() };
        let mut losses = Vec::new();
        let trained = run(&mut unigram, &mut |report: &StepReport| {
            losses.push(report.loss);
            ControlFlow::Continue(())
        });
        // Uniform at first; at best the entropy of 1/2, 1/4, 1/4.
        assert!((losses[0] - 3f64.ln()).abs() < 1e-6);
        assert!(losses.is_sorted_by(|before, after| before >= &(after - 1e-6)));
        assert!((trained.last_loss.unwrap() - 1.5 * 2f64.ln()).abs() < 1e-6);
        for (found, expected) in unigram.probabilities().into_iter().zip([0.5, 0.25, 0.25]) {
            assert!((found - expected).abs() < 1e-4, "{found} is not {expected}");
        }
        assert_eq!((trained.steps, trained.end), (200, TrainEnd::Completed));
        assert_eq!((trained.examples, trained.target_tokens), (800, 1600));
    }

    #[test]
    fn an_observer_can_end_the_run() {
        let mut unigram = Unigram { epochs: 200, ..Unigram::default() };
        let mut seen = Vec::new();
        let trained = run(&mut unigram, &mut |report: &StepReport| {
            seen.push(report.step);
            if report.step == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(seen, [1, 2, 3]);
        assert_eq!((trained.steps, trained.end), (3, TrainEnd::Stopped));
    }

    #[test]
    fn skipped_windows_teach_nothing() {
        let mut trained = Trained::new();
        let mut report = StepReport::new(1, Window { examples: 2, target_tokens: 5 });
        report.loss = 1.5;
        let mut watch = |_: &StepReport| ControlFlow::Continue(());
        assert!(trained.record(&report, &mut watch).is_continue());
        (report.loss, report.skipped) = (f64::NAN, Some(Skipped::NothingToLearn));
        let mut seen = 0;
        let answer = trained.record(&report, &mut |_: &StepReport| {
            seen += 1;
            ControlFlow::Break(())
        });
        assert_eq!((answer, seen, trained.end), (ControlFlow::Break(()), 1, TrainEnd::Stopped));
        assert_eq!((trained.steps, trained.examples, trained.target_tokens), (1, 2, 5));
        assert_eq!(trained.last_loss, Some(1.5));
    }

    #[test]
    fn no_steps_are_no_loss() {
        let trained = run(&mut Unigram::default(), &mut |_: &StepReport| ControlFlow::Break(()));
        assert_eq!(trained, Trained::new());
        assert_eq!(trained.last_loss, None);
    }
}
