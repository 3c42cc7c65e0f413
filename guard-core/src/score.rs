//! How probable texts are, and the probabilities of answers that follow from it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::completed::{Finish, Usage};
use crate::generate::OptionsError;
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
    /// What it cost: the tokens of the continuations are read, and none is written.
    pub usage: Usage,
}

impl Scored {
    /// The scores of continuations. Where one is no logarithm of a number, or none is the logarithm
    /// of a number above 0, nothing can be said: [`Finish::NonFinite`].
    #[must_use]
    pub fn new(log_probabilities: Vec<f64>, usage: Usage) -> Self {
        let numbers = log_probabilities.iter().all(|&value| value < f64::INFINITY);
        let possible = log_probabilities.iter().any(|value| value.is_finite());
        match numbers && possible {
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
    if !highest.is_finite() || says.iter().any(|(_, score)| score.is_nan()) {
        return None;
    }
    let sum = |positive: Option<bool>| -> f64 {
        let chosen = says.iter().filter(|(says, _)| positive.is_none_or(|wanted| wanted == *says));
        chosen.map(|(_, score)| (score - highest).exp()).sum()
    };
    Some(sum(Some(true)) / sum(None))
}

/// How the probability of one task's label is turned into one that can be believed: the logit plus
/// a bias, divided by a temperature (Guo et al. 2017, arXiv 1706.04599), both fitted on labelled texts
/// that the model was not trained on. The default changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Numbers")]
pub struct TaskCalibration {
    temperature: f64,
    bias: f64,
}

/// What a file says, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Numbers {
    temperature: f64,
    #[serde(default)]
    bias: f64,
}

impl TryFrom<Numbers> for TaskCalibration {
    type Error = OptionsError;

    fn try_from(Numbers { temperature, bias }: Numbers) -> Result<Self, OptionsError> {
        Self::new(temperature, bias)
    }
}

impl Default for TaskCalibration {
    fn default() -> Self {
        Self { temperature: 1.0, bias: 0.0 }
    }
}

impl TaskCalibration {
    /// A temperature, above 1 where a model is too sure, and what is added to the logit before it
    /// is divided, which moves the probability at which the label changes.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] when the temperature is not finite and above 0, or the bias not finite.
    pub fn new(temperature: f64, bias: f64) -> Result<Self, OptionsError> {
        if !(temperature.is_finite() && temperature > 0.0) {
            let (expected, found) = ("finite and above 0", temperature.to_string());
            return Err(OptionsError { option: "temperature", expected, found });
        }
        if !bias.is_finite() {
            return Err(OptionsError {
                option: "bias",
                expected: "finite",
                found: bias.to_string(),
            });
        }
        Ok(Self { temperature, bias })
    }

    /// What the logit is divided by.
    #[must_use]
    pub fn temperature(self) -> f64 {
        self.temperature
    }

    /// What is added to the logit.
    #[must_use]
    pub fn bias(self) -> f64 {
        self.bias
    }

    /// The calibrated probability.
    #[must_use]
    pub fn apply(self, probability: f64) -> f64 {
        let logit = logit(probability) + self.bias;
        1.0 / (1.0 + (-logit / self.temperature).exp())
    }
}

/// The logarithm of the odds. Probabilities nearer to 0 or 1 than 10^-12 are taken for that: a
/// certain one has no logit.
#[must_use]
pub fn logit(probability: f64) -> f64 {
    let p = probability.clamp(1e-12, 1.0 - 1e-12);
    (p / (1.0 - p)).ln()
}

/// The calibration of the three tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Calibration {
    /// Of the request.
    pub request: TaskCalibration,
    /// Of the completion.
    pub completion: TaskCalibration,
    /// Of the response.
    pub response: TaskCalibration,
}

impl Calibration {
    /// The calibrations of these three tasks.
    #[must_use]
    pub fn new(
        request: TaskCalibration,
        completion: TaskCalibration,
        response: TaskCalibration,
    ) -> Self {
        Self { request, completion, response }
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

    /// The same with another calibration of one task.
    #[must_use]
    pub fn with_task(mut self, task: Task, calibration: TaskCalibration) -> Self {
        match task {
            Task::Request => self.request = calibration,
            Task::Completion => self.completion = calibration,
            Task::Response => self.response = calibration,
        }
        self
    }
}

/// How a guard's probabilities are calibrated: those of answers at once, and those behind reasoning,
/// which are surer. The default changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct Scores {
    /// Of answers at once.
    pub at_once: Calibration,
    /// Of answers behind reasoning.
    pub reasoned: Calibration,
}

impl Scores {
    /// Scores with these calibrations.
    #[must_use]
    pub fn new(at_once: Calibration, reasoned: Calibration) -> Self {
        Self { at_once, reasoned }
    }
}

impl<L: Label> Judged<L> {
    /// The likelier label with its probability: `probability` is that of the positive label, which
    /// is also the one among equals, and where it is no number.
    #[must_use]
    pub fn from_probability(probability: f64) -> Self {
        let label = if probability < 0.5 { L::NEGATIVE } else { L::POSITIVE };
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
        let twice = TaskCalibration::new(2.0, 0.0).unwrap();
        assert_eq!(twice.apply(0.5), 0.5);
        let expected = 1.0 / (1.0 + (-(9.0_f64).ln() / 2.0).exp());
        assert!((twice.apply(0.9) - expected).abs() < 1e-12);
        let moved = TaskCalibration::new(1.0, 3.0_f64.ln()).unwrap();
        assert!((moved.apply(0.25) - 0.5).abs() < 1e-12);
        for probability in [0.0, f64::MIN_POSITIVE, 1.0] {
            let apart = (TaskCalibration::default().apply(probability) - probability).abs();
            assert!(apart < 1e-11, "{probability}");
        }
    }

    #[test]
    fn a_calibration_that_is_none_is_refused_wherever_it_comes_from() {
        for (temperature, bias) in
            [(0.0, 0.0), (-1.0, 0.0), (f64::NAN, 0.0), (f64::INFINITY, 0.0), (1.0, f64::NAN)]
        {
            assert!(TaskCalibration::new(temperature, bias).is_err(), "{temperature} {bias}");
        }
        let read = |json: &str| serde_json::from_str::<Scores>(json);
        assert!(read(r#"{"at_once": {"request": {"temperature": 2, "bias": 1}}}"#).is_ok());
        for bad in ["-1", "0", "null", "1, \"bies\": 0"] {
            let json = format!(r#"{{"at_once": {{"request": {{"temperature": {bad}}}}}}}"#);
            assert!(read(&json).is_err(), "{bad}");
        }
    }

    #[test]
    fn equal_probabilities_are_the_positive_label() {
        assert_eq!(Judged::<Harm>::from_probability(0.5).answer, Answer::Given(Harm::Harmful));
        let judged = Judged::<Completion>::from_probability(0.25);
        assert_eq!(judged, Judged::new(Answer::Given(Completion::Compliance)).with_score(0.25));
        let broken = Judged::<Harm>::from_probability(f64::NAN);
        assert_eq!(broken.answer, Answer::Given(Harm::Harmful));
    }

    #[test]
    fn scores_that_are_no_numbers_are_none() {
        let none = Scored::cut_off(Finish::NonFinite, Usage::default());
        let never = f64::NEG_INFINITY;
        for bad in [vec![-1.0, f64::NAN], vec![never; 2], vec![f64::INFINITY, -1.0], vec![]] {
            assert_eq!(Scored::new(bad.clone(), Usage::default()), none, "{bad:?}");
        }
        let one = Scored::new(vec![never, -1.0], Usage::default());
        assert_eq!((one.finish, one.log_probabilities.len()), (Finish::Stopped, 2));
        let answers = [answer(Some(Harm::Harmful), None), answer(Some(Harm::Unharmful), None)];
        assert_eq!(positive_probability(Task::Request, &answers, &[f64::NAN, -1.0]), None);
    }
}
