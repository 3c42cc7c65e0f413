//! How probable texts are, and the probabilities of answers that follow from it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::generate::{Finish, OptionsError, Usage};
use crate::label::{Label, Labels, Task};
use crate::prompt::Prompt;
use crate::redacted::Redacted;
use crate::verdict::{Answer, Judged};

/// A prompt and the texts that are compared as its continuations. `Debug` shows no moderated text.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScoreRequest {
    /// What the model reads first.
    pub prompt: Prompt,
    /// What it might write, at least one text. None is the beginning of another.
    pub continuations: Vec<String>,
}

impl ScoreRequest {
    /// Texts that may follow a prompt.
    pub fn new(prompt: Prompt, continuations: Vec<String>) -> Self {
        Self { prompt, continuations }
    }
}

impl fmt::Debug for ScoreRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.continuations.iter().map(|text| Redacted(text)).collect();
        f.debug_struct("ScoreRequest")
            .field("prompt", &self.prompt)
            .field("continuations", &texts)
            .finish()
    }
}

/// How probable the continuations of a prompt are.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Scored {
    /// The logarithm of each continuation's probability. Tokens with which all continuations begin
    /// are left out, so that the differences count and not the values. Empty when scoring did not
    /// come to its end.
    pub log_probabilities: Vec<f64>,
    /// [`Finish::Stopped`], or why there are no probabilities.
    pub finish: Finish,
    /// What it cost; the tokens of continuations count as written.
    pub usage: Usage,
}

impl Scored {
    /// The scores of continuations.
    #[must_use]
    pub fn new(log_probabilities: Vec<f64>, usage: Usage) -> Self {
        let finite = log_probabilities.iter().all(|value| !value.is_nan());
        match finite {
            true => Self { log_probabilities, finish: Finish::Stopped, usage },
            false => Self::cut_off(Finish::NonFinite, usage),
        }
    }

    /// No scores, for this reason.
    #[must_use]
    pub fn cut_off(finish: Finish, usage: Usage) -> Self {
        Self { log_probabilities: Vec::new(), finish, usage }
    }
}

/// A text by which a model can answer, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PossibleAnswer {
    /// The text.
    pub text: String,
    /// What it says about the tasks.
    pub labels: Labels,
}

impl PossibleAnswer {
    /// A text that says this.
    pub fn new(text: impl Into<String>, labels: Labels) -> Self {
        Self { text: text.into(), labels }
    }
}

/// The probability that a task's label is the positive one, from the probabilities of whole
/// answers: those that say so, as a share of all that say anything about the task. `None` when
/// none does, or nothing was scored.
///
/// # Panics
///
/// When there are more or fewer scores than answers.
#[must_use]
pub fn positive_probability(
    task: Task,
    answers: &[PossibleAnswer],
    log_probabilities: &[f64],
) -> Option<f64> {
    assert_eq!(answers.len(), log_probabilities.len(), "one score an answer");
    let says: Vec<(bool, f64)> = answers
        .iter()
        .zip(log_probabilities)
        .filter_map(|(answer, &score)| Some((answer.labels.positive(task)?, score)))
        .collect();
    let highest = says.iter().map(|(_, score)| *score).fold(f64::NEG_INFINITY, f64::max);
    if !highest.is_finite() {
        return None;
    }
    let sum = |positive: Option<bool>| -> f64 {
        let chosen = says.iter().filter(|(says, _)| positive.is_none_or(|wanted| wanted == *says));
        chosen.map(|(_, score)| (score - highest).exp()).sum()
    };
    Some(sum(Some(true)) / sum(None))
}

/// How a model's probabilities are turned into ones that can be believed: a temperature for each
/// task divides the logit (Guo et al. 2017, arXiv 1706.04599), fitted on labelled texts that the
/// model was not trained on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Calibration {
    /// For the request.
    pub request: TaskCalibration,
    /// For the completion.
    pub completion: TaskCalibration,
    /// For the response.
    pub response: TaskCalibration,
}

/// The calibration of one task.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskCalibration {
    /// Divides the logit of the probability; finite and above 0. Above 1 where a model is too sure.
    pub temperature: f64,
    /// Is added to the logit before that; finite. Moves the probability at which the label changes.
    #[serde(default)]
    pub bias: f64,
}

impl Default for TaskCalibration {
    fn default() -> Self {
        Self { temperature: 1.0, bias: 0.0 }
    }
}

impl TaskCalibration {
    /// The calibrated probability.
    #[must_use]
    pub fn apply(self, probability: f64) -> f64 {
        // Neither end has a finite logit.
        let least = f64::MIN_POSITIVE.sqrt();
        let p = probability.clamp(least, 1.0 - f64::EPSILON);
        let logit = (p / (1.0 - p)).ln() + self.bias;
        1.0 / (1.0 + (-logit / self.temperature).exp())
    }
}

impl Default for Calibration {
    fn default() -> Self {
        let none = TaskCalibration::default();
        Self { request: none, completion: none, response: none }
    }
}

impl Calibration {
    /// A calibration of these three tasks.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] when a temperature is not finite and above 0, or a bias not finite.
    pub fn new(
        request: TaskCalibration,
        completion: TaskCalibration,
        response: TaskCalibration,
    ) -> Result<Self, OptionsError> {
        let calibration = Self { request, completion, response };
        calibration.validate()?;
        Ok(calibration)
    }

    /// Checks the ranges, as of a calibration from a file.
    ///
    /// # Errors
    ///
    /// As for [`Calibration::new`].
    pub fn validate(&self) -> Result<(), OptionsError> {
        for task in Task::ALL {
            let TaskCalibration { temperature, bias } = self.task(task);
            if !(temperature.is_finite() && temperature > 0.0) {
                let found = temperature.to_string();
                let expected = "finite and above 0";
                return Err(OptionsError { option: "calibration.temperature", expected, found });
            }
            if !bias.is_finite() {
                let found = bias.to_string();
                return Err(OptionsError { option: "calibration.bias", expected: "finite", found });
            }
        }
        Ok(())
    }

    /// The calibration of one task.
    #[must_use]
    pub fn task(&self, task: Task) -> TaskCalibration {
        match task {
            Task::Request => self.request,
            Task::Completion => self.completion,
            Task::Response => self.response,
        }
    }
}

impl<L: Label> Judged<L> {
    /// The likelier label with its probability: `probability` is that of the positive label, which
    /// is also the one among equals.
    #[must_use]
    pub fn from_probability(probability: f64) -> Self {
        let label = if probability >= 0.5 { L::POSITIVE } else { L::NEGATIVE };
        Self::new(Answer::Given(label)).with_score(probability)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::label::{Completion, Harm};

    fn answer(request: Option<Harm>, completion: Option<Completion>) -> PossibleAnswer {
        PossibleAnswer::new("", Labels { request, completion, response: None })
    }

    #[test]
    fn a_label_has_the_share_of_the_answers_that_say_it() {
        let [harmful, unharmful] = [Harm::Harmful, Harm::Unharmful].map(Some);
        let [refusal, compliance] = [Completion::Refusal, Completion::Compliance].map(Some);
        let answers = [
            answer(harmful, refusal),
            answer(harmful, compliance),
            answer(unharmful, refusal),
            answer(unharmful, compliance),
        ];
        let scores = [0.1_f64, 0.2, 0.3, 0.2].map(|p| p.ln() - 700.0);
        let probability = |task| positive_probability(task, &answers, &scores);
        assert!((probability(Task::Request).unwrap() - 0.3 / 0.8).abs() < 1e-12);
        assert!((probability(Task::Completion).unwrap() - 0.4 / 0.8).abs() < 1e-12);
        assert_eq!(probability(Task::Response), None);
        let never = [f64::NEG_INFINITY; 4];
        assert_eq!(positive_probability(Task::Request, &answers, &never), None);
        assert_eq!(positive_probability(Task::Request, &[], &[]), None);
    }

    #[test]
    fn calibration_divides_the_logit_and_keeps_to_probabilities() {
        let twice = TaskCalibration { temperature: 2.0, bias: 0.0 };
        assert_eq!(twice.apply(0.5), 0.5);
        let expected = 1.0 / (1.0 + (-(9.0_f64).ln() / 2.0).exp());
        assert!((twice.apply(0.9) - expected).abs() < 1e-12);
        let moved = TaskCalibration { temperature: 1.0, bias: 3.0_f64.ln() };
        assert!((moved.apply(0.25) - 0.5).abs() < 1e-12);
        for probability in [0.0, f64::MIN_POSITIVE, 1.0] {
            let apart = (TaskCalibration::default().apply(probability) - probability).abs();
            assert!(apart < 1e-12, "{probability}");
        }
    }

    #[test]
    fn a_calibration_that_is_none_is_refused() {
        for (temperature, bias) in
            [(0.0, 0.0), (-1.0, 0.0), (f64::NAN, 0.0), (f64::INFINITY, 0.0), (1.0, f64::NAN)]
        {
            let bad = TaskCalibration { temperature, bias };
            let good = TaskCalibration::default();
            assert!(Calibration::new(good, good, bad).is_err(), "{temperature} {bias}");
        }
        assert!(serde_json::from_str::<Calibration>("{\"temperature\": 1}").is_err());
    }

    #[test]
    fn equal_probabilities_are_the_positive_label() {
        assert_eq!(Judged::<Harm>::from_probability(0.5).answer, Answer::Given(Harm::Harmful));
        let judged = Judged::<Completion>::from_probability(0.25);
        assert_eq!(judged, Judged::new(Answer::Given(Completion::Compliance)).with_score(0.25));
    }

    #[test]
    fn scores_that_are_no_numbers_are_none() {
        let scored = Scored::new(vec![-1.0, f64::NAN], Usage::default());
        assert_eq!(scored, Scored::cut_off(Finish::NonFinite, Usage::default()));
    }
}
