//! The learning rate of each step.

use crate::options::{Schedule, TrainOptions};

impl TrainOptions {
    /// The learning rate of step `step`, counted from 0, of `total` steps, as transformers
    /// computes it: it rises by equal parts over the warmup, so that step 0 of one has rate 0,
    /// and falls from there to 0 at `total`.
    ///
    /// ```
    /// use guard_train::TrainOptions;
    ///
    /// let options = TrainOptions::r_sft();
    /// assert_eq!(options.learning_rate_at(0, 996), 5e-5);
    /// assert_eq!(options.learning_rate_at(498, 996), 2.5e-5);
    /// ```
    #[must_use]
    pub fn learning_rate_at(&self, step: u64, total: u64) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * step as f64 / self.warmup_steps as f64;
        }
        let length = total.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = ((step - self.warmup_steps) as f64 / length).min(1.0);
        self.learning_rate
            * match self.schedule {
                Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
                Schedule::Linear => 1.0 - done,
                Schedule::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_falls_and_ends_at_nothing() {
        let options = |schedule| TrainOptions {
            learning_rate: 1.0,
            warmup_steps: 2,
            schedule,
            ..TrainOptions::default()
        };
        let rates = |schedule| {
            let options = options(schedule);
            (0..=6).map(|step| options.learning_rate_at(step, 6)).collect::<Vec<_>>()
        };
        // After two steps of warmup: cosines of 0, 45, 90 and 135 degrees.
        let half = 0.5 * std::f64::consts::FRAC_1_SQRT_2;
        let expected = [0.0, 0.5, 1.0, 0.5 + half, 0.5, 0.5 - half, 0.0];
        for (found, expected) in rates(Schedule::Cosine).into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        assert_eq!(rates(Schedule::Linear), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0]);
        assert_eq!(rates(Schedule::Constant), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0]);
    }

    #[test]
    fn more_warmup_than_steps_is_no_trouble() {
        let options = TrainOptions { warmup_steps: 10, ..TrainOptions::default() };
        assert!(options.learning_rate_at(3, 4) > 0.0);
        assert_eq!(options.learning_rate_at(0, 0), 0.0);
    }
}
