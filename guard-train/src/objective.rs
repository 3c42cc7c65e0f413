//! The small seam of training: what a loss says about each token.

use std::sync::Arc;

/// A loss that pushes the log-probability of each target token up or down.
///
/// Supervised fine-tuning and preference tuning have one shape of gradient: that of a weighted
/// sum of token losses, `-(c_1 log p_1 + c_2 log p_2 + ...)`. An objective gives the coefficients
/// `c` from the log-probabilities; the model, its head and the optimiser are the trainer's. So a
/// new loss is arithmetic on numbers, and every loss shares one way back through the model.
///
/// An update can be summed from parts, because each part knows the whole [`Window`].
///
/// ```
/// use guard_train::{Contribution, Objective, ObjectiveError, TargetTokens, Window};
///
/// /// Every sample counts alike, however long it is.
/// #[derive(Debug)]
/// struct SampleMean;
///
/// impl Objective for SampleMean {
///     type Example = TargetTokens;
///
///     fn target_tokens(&self, example: &TargetTokens) -> usize {
///         example.count
///     }
///
///     fn contribute(
///         &self,
///         examples: &[TargetTokens],
///         log_probs: &[f32],
///         window: Window,
///     ) -> Result<Contribution, ObjectiveError> {
///         window.check(self, examples, log_probs)?;
///         let weight = |count| 1.0 / (count as f64 * window.examples as f64);
///         let weights = examples.iter().flat_map(|e| vec![weight(e.count); e.count]);
///         Ok(Contribution::weighted_nll(log_probs, weights))
///     }
/// }
///
/// let examples = [TargetTokens::new(1), TargetTokens::new(2)];
/// let window = Window::of(&SampleMean, &examples);
/// let part = SampleMean.contribute(&examples, &[-1.0, -2.0, -4.0], window)?;
/// assert_eq!(part.coefficients, [0.5, 0.25, 0.25]);
/// assert_eq!(part.loss, 2.0); // (1 + (2 + 4) / 2) / 2
/// # Ok::<(), ObjectiveError>(())
/// ```
///
/// [`LlamaTrainer`](crate::LlamaTrainer) asks for more: `Debug` and `Sync` of the objective, `Clone`,
/// `Debug` and `Sync` of its examples. The `Debug` form is what a checkpoint remembers: an objective
/// or an example that shows itself otherwise is another one, and going on with it is refused. So
/// derive it, and let it show every number that changes the loss.
///
/// An objective that is chosen at run time is a `Box` of a trait of your own that asks for all of
/// it, such as `trait Loss: Objective<Example = TargetTokens> + Debug + Sync {}`.
pub trait Objective {
    /// What the loss has to know about an example beside its log-probabilities.
    type Example;

    /// How many target tokens the example has, and so how many log-probabilities.
    fn target_tokens(&self, example: &Self::Example) -> usize;

    /// Checks what is known of an example before the model has read it. A trainer asks this of
    /// all examples before its first step, so that what is wrong does not show hours later. Does
    /// nothing unless it is overridden.
    ///
    /// # Errors
    ///
    /// What [`contribute`](Self::contribute) would refuse, the example being its first.
    fn check_example(&self, example: &Self::Example) -> Result<(), ObjectiveError> {
        let _ = example;
        Ok(())
    }

    /// What these examples add to the update of `window`, which they are all or a part of.
    ///
    /// `log_probs` has one natural logarithm for each target token, `[target tokens]`: those of
    /// the first example, then those of the second, and so on.
    ///
    /// # Errors
    ///
    /// [`ObjectiveError`] when the numbers do not fit each other or are not finite. No examples,
    /// or none with target tokens, are no error where the loss has a meaning for them.
    fn contribute(
        &self,
        examples: &[Self::Example],
        log_probs: &[f32],
        window: Window,
    ) -> Result<Contribution, ObjectiveError>;
}

/// Forwards every method of an objective that is behind a pointer.
macro_rules! behind_a_pointer {
    ($($pointer:ty),*) => {$(
        impl<O: Objective + ?Sized> Objective for $pointer {
            type Example = O::Example;

            fn target_tokens(&self, example: &O::Example) -> usize {
                (**self).target_tokens(example)
            }

            fn check_example(&self, example: &O::Example) -> Result<(), ObjectiveError> {
                (**self).check_example(example)
            }

            fn contribute(
                &self,
                examples: &[O::Example],
                log_probs: &[f32],
                window: Window,
            ) -> Result<Contribution, ObjectiveError> {
                (**self).contribute(examples, log_probs, window)
            }
        }
    )*};
}

behind_a_pointer!(&O, Box<O>, Arc<O>);

/// How much one update rests on: all examples between two steps of the optimiser.
///
/// Losses are means over a window. Dividing by what is in a part of it instead would make the
/// update depend on how the window was split to fit the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// The examples; a pair is one.
    pub examples: usize,
    /// The target tokens of all examples.
    pub target_tokens: usize,
}

impl Window {
    /// The window of these examples.
    #[must_use]
    pub fn of<O: Objective + ?Sized>(objective: &O, examples: &[O::Example]) -> Self {
        let count = |example| objective.target_tokens(example);
        Self { examples: examples.len(), target_tokens: examples.iter().map(count).sum() }
    }

    /// Checks what every objective takes for granted: one finite log-probability for each
    /// target token, and no more examples or tokens than the window has.
    ///
    /// # Errors
    ///
    /// [`ObjectiveError`] names the first thing that is not so.
    pub fn check<O: Objective + ?Sized>(
        self,
        objective: &O,
        examples: &[O::Example],
        log_probs: &[f32],
    ) -> Result<(), ObjectiveError> {
        let part = Self::of(objective, examples);
        if part.target_tokens != log_probs.len() {
            let (expected, found) = (part.target_tokens, log_probs.len());
            return Err(ObjectiveError::LogProbCount { expected, found });
        }
        if part.examples > self.examples || part.target_tokens > self.target_tokens {
            return Err(ObjectiveError::BeyondWindow { window: self, part });
        }
        match log_probs.iter().position(|log_prob| !log_prob.is_finite()) {
            Some(token) => Err(ObjectiveError::NotFinite { token, found: log_probs[token] }),
            None => Ok(()),
        }
    }
}

/// What a part of a window adds to its update. Parts are added up: see
/// [`StepReport::add`](crate::StepReport::add).
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Contribution {
    /// The derivative of the loss by each negated log-probability, in their order,
    /// `[target tokens]`. A step of the optimiser makes tokens with a positive coefficient more
    /// probable.
    pub coefficients: Vec<f32>,
    /// This part's share of the loss of the window.
    pub loss: f64,
    /// This part's shares of the numbers worth logging.
    pub numbers: Vec<Number>,
}

impl Contribution {
    /// Coefficients, the loss that they belong to, and nothing to log.
    #[must_use]
    pub fn new(coefficients: Vec<f32>, loss: f64) -> Self {
        Self { coefficients, loss, numbers: Vec::new() }
    }

    /// The contribution of a loss that is itself a weighted sum of token losses: the weights do
    /// not depend on the log-probabilities. There is one weight for each log-probability.
    #[must_use]
    pub fn weighted_nll(log_probs: &[f32], weights: impl IntoIterator<Item = f64>) -> Self {
        let mut part = Self::default();
        for (&log_prob, weight) in log_probs.iter().zip(weights) {
            part.coefficients.push(weight as f32);
            part.loss -= weight * f64::from(log_prob);
        }
        part
    }

    /// Checks what a step of the optimiser takes for granted: a finite loss, and one finite
    /// coefficient for each of `target_tokens` log-probabilities. A trainer calls this before it
    /// touches a weight, whatever the objective promises.
    ///
    /// # Errors
    ///
    /// [`ObjectiveError`] names the first thing that is not so.
    pub fn check(&self, target_tokens: usize) -> Result<(), ObjectiveError> {
        if self.coefficients.len() != target_tokens {
            let found = self.coefficients.len();
            return Err(ObjectiveError::CoefficientCount { expected: target_tokens, found });
        }
        if !self.loss.is_finite() {
            return Err(ObjectiveError::Overflow { what: "loss", found: self.loss });
        }
        match self.coefficients.iter().find(|coefficient| !coefficient.is_finite()) {
            Some(&bad) => {
                Err(ObjectiveError::Overflow { what: "coefficient", found: f64::from(bad) })
            }
            None => Ok(()),
        }
    }

    /// The same contribution with these numbers to log.
    #[must_use]
    pub fn with_numbers(mut self, numbers: Vec<Number>) -> Self {
        self.numbers = numbers;
        self
    }
}

/// A number worth logging, as a share of its mean over the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number {
    /// Its name in logs.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
}

/// Adds shares to what is there, by name.
pub(crate) fn add_numbers(totals: &mut Vec<Number>, shares: &[Number]) {
    for share in shares {
        match totals.iter_mut().find(|total| total.name == share.name) {
            Some(total) => total.value += share.value,
            None => totals.push(*share),
        }
    }
}

/// Numbers that an objective cannot work with, or that no step can be made of.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectiveError {
    /// There is not one log-probability for each target token.
    #[error("the examples have {expected} target tokens, found {found} log-probabilities")]
    LogProbCount {
        /// The target tokens of the examples.
        expected: usize,
        /// The log-probabilities that were given.
        found: usize,
    },
    /// The examples are no part of the window: they are more than all of it.
    #[error(
        "{} examples with {} target tokens are no part of a window of {} with {}",
        part.examples, part.target_tokens, window.examples, window.target_tokens
    )]
    BeyondWindow {
        /// The window that was given.
        window: Window,
        /// What the examples amount to.
        part: Window,
    },
    /// A log-probability is NaN or infinite: the model diverged, or a weight is broken.
    #[error("the log-probability of target token {token} is {found}, expected a finite number")]
    NotFinite {
        /// The target token, from 0.
        token: usize,
        /// Its log-probability.
        found: f32,
    },
    /// A field of an example is out of range.
    #[error("`{field}` of example {example} must be {expected}, found {found}")]
    Example {
        /// The example, from 0: its place in what the objective was given, and in the error of a
        /// trainer its place in the data.
        example: usize,
        /// The name of the field.
        field: &'static str,
        /// What is accepted.
        expected: &'static str,
        /// What was given.
        found: f64,
    },
    /// There is not one coefficient for each target token.
    #[error("expected {expected} coefficients, found {found}")]
    CoefficientCount {
        /// The target tokens.
        expected: usize,
        /// The coefficients that came out.
        found: usize,
    },
    /// A result is NaN or infinite.
    #[error("the {what} is {found}, expected a finite number")]
    Overflow {
        /// What it is: `loss` or `coefficient`.
        what: &'static str,
        /// Its value.
        found: f64,
    },
}

impl ObjectiveError {
    /// The same error, of the example at this place.
    pub(crate) fn of_example(mut self, place: usize) -> Self {
        if let Self::Example { example, .. } = &mut self {
            *example = place;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AnswerTokens, HsDpo, PreferencePair, Rsft, TargetTokens};

    /// Compiles only while the trait is object-safe.
    fn boxed(objective: Rsft) -> Box<dyn Objective<Example = TargetTokens>> {
        Box::new(objective)
    }

    #[test]
    fn an_objective_can_be_chosen_at_run_time() {
        let examples = [TargetTokens::new(2)];
        let objective = boxed(Rsft::new());
        let window = Window::of(objective.as_ref(), &examples);
        assert_eq!(objective.contribute(&examples, &[-1.0, -3.0], window).unwrap().loss, 2.0);
        let _: &dyn Objective<Example = PreferencePair> = &HsDpo::default();
    }

    #[test]
    fn an_objective_behind_a_pointer_is_one() {
        fn loss(objective: impl Objective<Example = PreferencePair>) -> f64 {
            let answers = [AnswerTokens::new(1, -1.0), AnswerTokens::new(1, -2.0)];
            let pair = PreferencePair::new(answers[0], answers[1]);
            assert_eq!(objective.target_tokens(&pair), 2);
            assert!(objective.check_example(&pair.with_weight(-1.0)).is_err());
            let window = Window { examples: 1, target_tokens: 2 };
            objective.contribute(&[pair], &[-1.0, -2.0], window).unwrap().loss
        }
        let plain = loss(HsDpo::default());
        let boxed: Box<dyn Objective<Example = PreferencePair>> = Box::new(HsDpo::default());
        let behind: &dyn Objective<Example = PreferencePair> = &HsDpo::default();
        assert_eq!(loss(behind), plain);
        assert_eq!(loss(&boxed), plain);
        assert_eq!(loss(boxed), plain);
        assert_eq!(loss(Arc::new(HsDpo::default())), plain);
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let examples = [TargetTokens::new(1), TargetTokens::new(2)];
        let window = Window { examples: 2, target_tokens: 3 };
        assert_eq!(Window::of(&Rsft::new(), &examples), window);
        let check =
            |window: Window, log_probs: &[f32]| window.check(&Rsft::new(), &examples, log_probs);
        assert_eq!(check(window, &[-1.0; 3]), Ok(()));
        assert_eq!(
            check(window, &[-1.0; 2]),
            Err(ObjectiveError::LogProbCount { expected: 3, found: 2 })
        );
        for small in [Window { examples: 1, ..window }, Window { target_tokens: 2, ..window }] {
            let error = ObjectiveError::BeyondWindow { window: small, part: window };
            assert_eq!(check(small, &[-1.0; 3]), Err(error));
        }
        for bad in [f32::NAN, f32::NEG_INFINITY, f32::INFINITY] {
            let error = check(window, &[-1.0, bad, -1.0]).unwrap_err();
            assert!(matches!(error, ObjectiveError::NotFinite { token: 1, .. }), "{error}");
        }
    }

    #[test]
    fn results_that_would_spoil_the_weights_are_caught() {
        let check =
            |coefficients: &[f32], loss| Contribution::new(coefficients.to_vec(), loss).check(2);
        assert_eq!(check(&[0.5, 0.0], 1.0), Ok(()));
        let short = ObjectiveError::CoefficientCount { expected: 2, found: 1 };
        assert_eq!(check(&[0.5], 1.0), Err(short));
        for (coefficient, loss, what) in [
            (f32::NAN, 1.0, "coefficient"),
            (f32::INFINITY, 1.0, "coefficient"),
            (0.5, f64::NAN, "loss"),
        ] {
            let error = check(&[0.5, coefficient], loss).unwrap_err();
            assert!(error.to_string().starts_with(&format!("the {what} is ")), "{error}");
        }
    }

    #[test]
    fn numbers_add_up_by_name() {
        let number = |name, value| Number { name, value };
        let mut totals = vec![number("a", 1.0)];
        add_numbers(&mut totals, &[number("b", 2.0), number("a", 3.0)]);
        assert_eq!(totals, [number("a", 4.0), number("b", 2.0)]);
    }
}
