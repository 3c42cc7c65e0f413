//! Reasoning supervised fine-tuning, the first stage of the paper.

use crate::objective::{Contribution, Objective, ObjectiveError, Window};

/// The mean loss of all target tokens of a window.
///
/// ```text
/// loss = -(log p_1 + ... + log p_N) / N        c_t = 1 / N
/// ```
///
/// `N` counts the target tokens of the whole window, so long answers weigh more than short
/// ones, and the way the window is split changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rsft;

impl Rsft {
    /// The objective. It has no options.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

/// An example of which the loss knows only how long its answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TargetTokens {
    /// The tokens of the answer, its end token included. An example that was cut down to no
    /// answer has 0, and adds nothing.
    pub count: usize,
}

impl TargetTokens {
    /// An example whose answer has this many tokens.
    #[must_use]
    pub fn new(count: usize) -> Self {
        Self { count }
    }
}

impl Objective for Rsft {
    type Example = TargetTokens;

    fn target_tokens(&self, example: &TargetTokens) -> usize {
        example.count
    }

    fn contribute(
        &self,
        examples: &[TargetTokens],
        log_probs: &[f32],
        window: Window,
    ) -> Result<Contribution, ObjectiveError> {
        window.check(self, examples, log_probs)?;
        // A window without target tokens has no log-probability either: the weight is not used.
        let weight = 1.0 / window.target_tokens as f64;
        Ok(Contribution::weighted_nll(log_probs, std::iter::repeat(weight)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::largest_derivative_error;

    const LOG_PROBS: [f32; 4] = [-0.5, -1.5, -2.0, -4.0];

    fn examples() -> [TargetTokens; 3] {
        [TargetTokens::new(3), TargetTokens::new(0), TargetTokens::new(1)]
    }

    #[test]
    fn each_target_token_of_the_window_weighs_the_same() {
        let window = Window::of(&Rsft, &examples());
        let part = Rsft.contribute(&examples(), &LOG_PROBS, window).unwrap();
        assert_eq!(part.coefficients, [0.25; 4]);
        assert_eq!(part.loss, 2.0); // (0.5 + 1.5 + 2 + 4) / 4
    }

    #[test]
    fn coefficients_are_the_derivatives_of_the_loss() {
        let window = Window { examples: 5, target_tokens: 9 };
        let error = largest_derivative_error(&Rsft, &examples(), &LOG_PROBS, window).unwrap();
        assert!(error < 1e-7, "off by {error}");
    }

    #[test]
    fn splitting_a_window_changes_nothing() {
        let window = Window::of(&Rsft, &examples());
        let whole = Rsft.contribute(&examples(), &LOG_PROBS, window).unwrap();
        let first = Rsft.contribute(&examples()[..2], &LOG_PROBS[..3], window).unwrap();
        let second = Rsft.contribute(&examples()[2..], &LOG_PROBS[3..], window).unwrap();
        assert_eq!([first.coefficients, second.coefficients].concat(), whole.coefficients);
        assert!((first.loss + second.loss - whole.loss).abs() < 1e-12);
    }

    #[test]
    fn no_target_tokens_are_no_update_and_no_nan() {
        for examples in [vec![], vec![TargetTokens::new(0)]] {
            let window = Window::of(&Rsft, &examples);
            let part = Rsft.contribute(&examples, &[], window).unwrap();
            assert_eq!(part, Contribution::new(Vec::new(), 0.0));
        }
    }
}
