//! Whether two guards differ by more than chance.

use serde::Serialize;

use crate::bootstrap::Bootstrap;
use crate::confusion::Confusion;
use crate::interval::Interval;

/// Two guards on the same rows of one benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Comparison {
    /// Rows that only the first guard answered right.
    pub only_first_right: u64,
    /// Rows that only the second guard answered right.
    pub only_second_right: u64,
    /// The exact p-value of McNemar's test: how often chance alone splits the rows on which they
    /// differ as unevenly as this. Rows of one cluster are taken as independent.
    pub p_value: f64,
    /// F1 of the first guard less F1 of the second.
    pub f1_difference: f64,
    /// The interval of that difference, by resampling clusters of rows.
    pub f1_interval: Option<Interval>,
}

/// Compares two guards. Each row is the number of its cluster and what it counts as for either
/// guard: one row each.
#[must_use]
pub fn compare(rows: &[(u32, [Confusion; 2])], bootstrap: &Bootstrap) -> Comparison {
    let right = |count: &Confusion| count.true_positives + count.true_negatives > 0;
    let only = |one: usize, other: usize| {
        rows.iter().filter(|(_, pair)| right(&pair[one]) && !right(&pair[other])).count() as u64
    };
    let total = rows.iter().fold([Confusion::default(); 2], |sum, (_, pair)| {
        [sum[0].merged(pair[0]), sum[1].merged(pair[1])]
    });
    let difference = |[first, second]: [Confusion; 2]| first.f1().value() - second.f1().value();
    let draws: Vec<f64> = bootstrap.pairs(rows).into_iter().map(difference).collect();
    let (only_first_right, only_second_right) = (only(0, 1), only(1, 0));
    Comparison {
        only_first_right,
        only_second_right,
        p_value: mcnemar_exact(only_first_right, only_second_right),
        f1_difference: difference(total),
        f1_interval: if rows.is_empty() { None } else { Interval::of_draws(&draws) },
    }
}

/// The two-sided exact p-value of McNemar's test, from the rows that only one or only the other
/// answered right (McNemar 1947).
///
/// ```
/// assert_eq!(guard_eval::mcnemar_exact(1, 2), 1.0);
/// assert_eq!(guard_eval::mcnemar_exact(0, 5), 2.0 / 32.0);
/// ```
#[must_use]
pub fn mcnemar_exact(only_first: u64, only_second: u64) -> f64 {
    let trials = only_first + only_second;
    let least = only_first.min(only_second);
    // The largest term, C(trials, least) / 2^trials, with each factor kept near 1 by its halves.
    let mut halves = trials;
    let mut term = 1.0_f64;
    for index in 1..=least {
        term *= (trials - least + index) as f64 / index as f64;
        while term > 1.0 && halves > 0 {
            term *= 0.5;
            halves -= 1;
        }
    }
    let mut term = term * 0.5_f64.powi(i32::try_from(halves).unwrap_or(i32::MAX));
    let mut sum = 0.0;
    for index in (0..=least).rev() {
        sum += term;
        term *= index as f64 / (trials - index + 1) as f64;
    }
    (2.0 * sum).min(1.0)
}

/// P-values of several tests, adjusted so that the chance of any false finding among them stays
/// below the level (Holm 1979). In the order that they came in.
#[must_use]
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest = 0.0_f64;
    for (rank, index) in order.into_iter().enumerate() {
        largest = largest.max(p_values[index] * (p_values.len() - rank) as f64);
        adjusted[index] = largest.min(1.0);
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIT: Confusion =
        Confusion { true_positives: 1, false_positives: 0, true_negatives: 0, false_negatives: 0 };
    const MISS: Confusion =
        Confusion { true_positives: 0, false_positives: 0, true_negatives: 0, false_negatives: 1 };

    #[test]
    fn equal_guards_do_not_differ() {
        let rows: Vec<_> = (0..50).map(|i| (i, [if i % 3 == 0 { MISS } else { HIT }; 2])).collect();
        let same = compare(&rows, &Bootstrap { draws: 200, seed: 0 });
        assert_eq!((same.p_value, same.f1_difference), (1.0, 0.0));
        assert_eq!(same.f1_interval, Some(Interval { low: 0.0, high: 0.0 }));
    }

    #[test]
    fn the_sign_tells_which_is_better() {
        let rows: Vec<_> = (0..50).map(|i| (i, [HIT, if i < 20 { MISS } else { HIT }])).collect();
        let found = compare(&rows, &Bootstrap { draws: 200, seed: 0 });
        assert_eq!((found.only_first_right, found.only_second_right), (20, 0));
        assert_eq!(found.f1_difference, 1.0 - 60.0 / 80.0);
        assert!(found.p_value < 1e-5 && found.f1_interval.unwrap().low > 0.0);
    }

    #[test]
    fn hand_worked_holm() {
        assert_eq!(holm(&[0.01, 0.04, 0.03]), [0.03, 0.06, 0.06]);
        assert_eq!(holm(&[]), [] as [f64; 0]);
    }

    #[test]
    fn many_rows_neither_overflow_nor_vanish() {
        assert!(mcnemar_exact(5000, 5000) == 1.0);
        let p = mcnemar_exact(4800, 5200);
        assert!(p > 5e-5 && p < 8e-5, "{p}");
        assert_eq!(mcnemar_exact(0, 3000), 0.0);
    }
}
