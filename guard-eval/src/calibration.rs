//! Whether a guard's probabilities mean what they say.

use serde::Serialize;

use crate::curve::NotANumber;
use crate::quantile::quantile_of_sorted;

/// How scores are put into bins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bins {
    /// So many bins of the same width, from 0 to 1.
    EqualWidth(usize),
    /// So many bins between quantiles of the scores; equal scores stay together.
    EqualMass(usize),
}

/// The scores that fell into one bin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Bin {
    /// How many rows.
    pub count: u64,
    /// The mean score: what the guard says.
    pub mean_score: f64,
    /// The share of positive rows: what is so.
    pub positive_rate: f64,
}

/// The mean squared distance between score and label (Brier score); 0 is best. `None` without
/// rows.
#[must_use]
pub fn brier_score(rows: &[(f64, bool)]) -> Option<f64> {
    let squares = rows.iter().map(|&(score, positive)| (score - f64::from(positive)).powi(2));
    (!rows.is_empty()).then(|| squares.sum::<f64>() / rows.len() as f64)
}

/// The bins that hold rows, lowest first: the points of a reliability diagram. Scores on a border
/// belong to the lower bin, as in scikit-learn's `calibration_curve`.
///
/// # Errors
///
/// [`NotANumber`] for a score that is NaN.
pub fn reliability(rows: &[(f64, bool)], bins: Bins) -> Result<Vec<Bin>, NotANumber> {
    if let Some(row) = rows.iter().position(|(score, _)| score.is_nan()) {
        return Err(NotANumber { row });
    }
    let borders = borders(rows, bins);
    let mut sums = vec![(0_u64, 0.0, 0_u64); borders.len() + 1];
    for &(score, positive) in rows {
        let bin = borders.partition_point(|border| *border < score);
        let (count, scores, positives) = &mut sums[bin];
        *count += 1;
        *scores += score;
        *positives += u64::from(positive);
    }
    let filled = sums.into_iter().filter(|(count, _, _)| *count > 0);
    let bin = |(count, scores, positives): (u64, f64, u64)| Bin {
        count,
        mean_score: scores / count as f64,
        positive_rate: positives as f64 / count as f64,
    };
    Ok(filled.map(bin).collect())
}

/// The borders between the bins, without the outer ones.
fn borders(rows: &[(f64, bool)], bins: Bins) -> Vec<f64> {
    let inner = |count: usize| (1..count).map(move |index| index as f64 * (1.0 / count as f64));
    match bins {
        Bins::EqualWidth(count) => inner(count).collect(),
        Bins::EqualMass(count) => {
            let mut scores: Vec<f64> = rows.iter().map(|(score, _)| *score).collect();
            scores.sort_unstable_by(f64::total_cmp);
            // By way of percent, so that the last bits are those of the reference.
            let share = |at: f64| at * 100.0 / 100.0;
            inner(count).filter_map(|at| quantile_of_sorted(&scores, share(at))).collect()
        }
    }
}

/// The expected calibration error: the mean distance between what the guard says and what is so,
/// weighted by the rows of each bin. `None` without rows.
#[must_use]
pub fn expected_calibration_error(bins: &[Bin]) -> Option<f64> {
    let total: u64 = bins.iter().map(|bin| bin.count).sum();
    let gap = |bin: &Bin| bin.count as f64 * (bin.mean_score - bin.positive_rate).abs();
    (total > 0).then(|| bins.iter().map(gap).sum::<f64>() / total as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_worked_bins() {
        let rows = [(0.2, false), (0.5, true), (0.6, true), (1.0, false)];
        let bins = reliability(&rows, Bins::EqualWidth(2)).unwrap();
        // 0.2 and 0.5 in the lower bin, since 0.5 is its upper border.
        assert_eq!((bins[0].count, bins[0].mean_score, bins[0].positive_rate), (2, 0.35, 0.5));
        let ece = expected_calibration_error(&bins).unwrap();
        assert!((ece - (2.0 * 0.15 + 2.0 * 0.3) / 4.0).abs() < 1e-15);
        assert!((brier_score(&rows).unwrap() - (0.04 + 0.25 + 0.16 + 1.0) / 4.0).abs() < 1e-15);
    }

    #[test]
    fn nothing_has_no_error_and_a_nan_is_named() {
        assert_eq!(reliability(&[], Bins::EqualMass(15)).unwrap(), []);
        assert_eq!((expected_calibration_error(&[]), brier_score(&[])), (None, None));
        let error = reliability(&[(f64::NAN, true)], Bins::EqualWidth(15)).unwrap_err();
        assert_eq!(error, NotANumber { row: 0 });
    }
}
