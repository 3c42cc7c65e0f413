//! What an objective of your own should be tested with.
//!
//! ```
//! use guard_train::testing::largest_derivative_error;
//! use guard_train::{Rsft, TargetTokens, Window};
//!
//! let examples = [TargetTokens::new(2)];
//! let window = Window::of(&Rsft::new(), &examples);
//! let error = largest_derivative_error(&Rsft::new(), &examples, &[-1.0, -0.3], window)?;
//! assert!(error < 1e-7);
//! # Ok::<(), guard_train::ObjectiveError>(())
//! ```

use crate::objective::{Objective, ObjectiveError, Window};

/// How far a log-probability is moved, in nats: far enough for its f32 to tell the two apart.
const STEP: f32 = 1.0 / 1024.0;

/// The largest difference between a coefficient and the slope of the loss, which is measured by
/// moving one log-probability at a time. A right objective is off by about 1e-7 times the size
/// of its coefficients; the loss must be smooth where it is measured.
///
/// # Errors
///
/// [`ObjectiveError`] when the objective refuses the numbers, or its results are not finite or
/// not as many as the target tokens.
pub fn largest_derivative_error<O: Objective + ?Sized>(
    objective: &O,
    examples: &[O::Example],
    log_probs: &[f32],
    window: Window,
) -> Result<f64, ObjectiveError> {
    let part = objective.contribute(examples, log_probs, window)?;
    part.check(log_probs.len())?;
    let mut largest = 0.0_f64;
    for (token, &coefficient) in part.coefficients.iter().enumerate() {
        let moved = |step| loss_after_move(objective, examples, log_probs, window, (token, step));
        let (high, low) = (moved(STEP)?, moved(-STEP)?);
        // The step as it came out in f32, not as it was asked for.
        let slope = (high.loss - low.loss) / (high.log_prob - low.log_prob);
        largest = largest.max((slope + f64::from(coefficient)).abs());
    }
    Ok(largest)
}

struct Measured {
    log_prob: f64,
    loss: f64,
}

fn loss_after_move<O: Objective + ?Sized>(
    objective: &O,
    examples: &[O::Example],
    log_probs: &[f32],
    window: Window,
    (token, step): (usize, f32),
) -> Result<Measured, ObjectiveError> {
    let mut moved = log_probs.to_vec();
    moved[token] += step;
    let part = objective.contribute(examples, &moved, window)?;
    part.check(moved.len())?;
    Ok(Measured { log_prob: f64::from(moved[token]), loss: part.loss })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Contribution, TargetTokens};

    /// A loss whose coefficients are off by a factor, or too few.
    struct Wrong {
        factor: f64,
        missing: usize,
    }

    impl Objective for Wrong {
        type Example = TargetTokens;

        fn target_tokens(&self, example: &TargetTokens) -> usize {
            example.count
        }

        fn contribute(
            &self,
            _: &[TargetTokens],
            log_probs: &[f32],
            _: Window,
        ) -> Result<Contribution, ObjectiveError> {
            let mut part = Contribution::weighted_nll(log_probs, std::iter::repeat(1.0));
            part.coefficients.iter_mut().for_each(|c| *c *= self.factor as f32);
            part.coefficients.truncate(log_probs.len() - self.missing);
            Ok(part)
        }
    }

    fn error_of(wrong: &Wrong) -> Result<f64, ObjectiveError> {
        let examples = [TargetTokens::new(2)];
        largest_derivative_error(wrong, &examples, &[-1.0, -0.3], Window::of(wrong, &examples))
    }

    #[test]
    fn wrong_coefficients_are_found() {
        let error = error_of(&Wrong { factor: 1.1, missing: 0 }).unwrap();
        assert!((error - 0.1).abs() < 1e-6, "{error}");
        assert!(error_of(&Wrong { factor: 1.0, missing: 0 }).unwrap() < 1e-6);
        for missing in [1, 2] {
            let short = ObjectiveError::CoefficientCount { expected: 2, found: 2 - missing };
            assert_eq!(error_of(&Wrong { factor: 1.0, missing }), Err(short));
        }
        assert!(error_of(&Wrong { factor: f64::NAN, missing: 0 }).is_err());
    }
}
