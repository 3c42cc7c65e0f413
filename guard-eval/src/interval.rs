//! Intervals of 95 percent.

use serde::Serialize;

use crate::confusion::Ratio;
use crate::quantile::quantile_of_sorted;

/// The interval that holds the true value in 95 of 100 samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// The normal quantile of 97.5 percent.
const Z: f64 = 1.959_963_984_540_054;

impl Interval {
    /// Wilson's score interval of a share. It holds for small counts and for shares of 0 and 1,
    /// where the normal approximation does not (Wilson 1927). `None` for a share of nothing.
    ///
    /// ```
    /// use guard_eval::{Interval, Ratio};
    ///
    /// let interval = Interval::wilson(Ratio::of(0, 20)).expect("20 rows");
    /// assert_eq!(interval.low, 0.0);
    /// assert!(interval.high > 0.16);
    /// ```
    #[must_use]
    pub fn wilson(share: Ratio) -> Option<Self> {
        if !share.is_defined() {
            return None;
        }
        let (rate, count) = (share.value(), share.denominator as f64);
        let scale = 1.0 + Z * Z / count;
        let middle = (rate + Z * Z / (2.0 * count)) / scale;
        let spread =
            Z * (rate * (1.0 - rate) / count + Z * Z / (4.0 * count * count)).sqrt() / scale;
        Some(Self { low: (middle - spread).max(0.0), high: (middle + spread).min(1.0) })
    }

    /// The middle 95 percent of draws (percentile bootstrap). `None` without draws.
    #[must_use]
    pub fn of_draws(draws: &[f64]) -> Option<Self> {
        let mut sorted = draws.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        Some(Self {
            low: quantile_of_sorted(&sorted, 0.025)?,
            high: quantile_of_sorted(&sorted, 0.975)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_stay_between_0_and_1() {
        for (part, whole) in [(0, 1), (1, 1), (5, 5), (0, 1_000_000)] {
            let interval = Interval::wilson(Ratio::of(part, whole)).unwrap();
            assert!(0.0 <= interval.low && interval.low < interval.high && interval.high <= 1.0);
        }
        assert_eq!(Interval::wilson(Ratio::of(0, 0)), None);
    }

    #[test]
    fn the_middle_of_draws() {
        let draws: Vec<f64> = (0..=1000).rev().map(f64::from).collect();
        assert_eq!(Interval::of_draws(&draws), Some(Interval { low: 25.0, high: 975.0 }));
        assert_eq!(Interval::of_draws(&[]), None);
    }
}
