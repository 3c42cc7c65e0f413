//! Whether a guard's probabilities mean what they say.

use guard_core::{TaskCalibration, logit};
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

/// The temperature, and with `bias` what is added to the logit before it, under which the labels
/// are most probable (Guo et al. 2017, arXiv 1706.04599; with a bias this is Platt's scaling). Fit it
/// on rows that the model was not trained on, and that no result is reported for.
///
/// `None` when the rows do not tell: all have one label, the scores part the labels without an error, so
/// that no temperature is low enough, or they do not rise with the labels.
///
/// # Errors
///
/// [`NotANumber`] for a score that is NaN.
pub fn fit_calibration(
    rows: &[(f64, bool)],
    bias: bool,
) -> Result<Option<TaskCalibration>, NotANumber> {
    if let Some(row) = rows.iter().position(|(score, _)| score.is_nan()) {
        return Err(NotANumber { row });
    }
    let rows: Vec<(f64, f64)> =
        rows.iter().map(|&(score, positive)| (logit(score), f64::from(positive))).collect();
    if !tell_apart(&rows, bias) {
        return Ok(None);
    }
    let (mut slope, mut offset) = (1.0, 0.0);
    for _ in 0..100 {
        let step = newton_step(&rows, slope, offset, bias);
        // Halved until it leads down: far from the optimum a whole step may lead away from it.
        let before = loss(&rows, slope, offset);
        let shorter = (0..60).map(|halvings| 0.5_f64.powi(halvings));
        let found = shorter
            .map(|share| (slope - share * step.0, offset - share * step.1))
            .find(|&(slope, offset)| loss(&rows, slope, offset) <= before);
        let Some((next_slope, next_offset)) = found else { break };
        let moved = (next_slope - slope).abs() + (next_offset - offset).abs();
        (slope, offset) = (next_slope, next_offset);
        if moved < 1e-12 {
            break;
        }
    }
    let rises = slope > 0.0;
    Ok(rises.then(|| TaskCalibration::new(1.0 / slope, offset / slope).ok()).flatten())
}

/// Whether rows have a best calibration: both labels, and scores that do not part them without an
/// error, for which no temperature would be low enough.
fn tell_apart(rows: &[(f64, f64)], bias: bool) -> bool {
    let of =
        |label: f64| rows.iter().filter(move |(_, own)| *own == label).map(|(logit, _)| *logit);
    let highest_negative = of(0.0).fold(f64::NEG_INFINITY, f64::max);
    let lowest_positive = of(1.0).fold(f64::INFINITY, f64::min);
    if !highest_negative.is_finite() || !lowest_positive.is_finite() {
        return false;
    }
    match bias {
        true => highest_negative > lowest_positive,
        false => highest_negative > 0.0 || lowest_positive < 0.0,
    }
}

/// The mean negative log-likelihood of `sigmoid(slope * logit + offset)`.
fn loss(rows: &[(f64, f64)], slope: f64, offset: f64) -> f64 {
    let one = |&(logit, label): &(f64, f64)| {
        let z = slope * logit + offset;
        // ln(1 + e^z) - label z, without overflow.
        z.max(0.0) + (-z.abs()).exp().ln_1p() - label * z
    };
    rows.iter().map(one).sum::<f64>() / rows.len() as f64
}

/// Newton's step for slope and offset.
fn newton_step(rows: &[(f64, f64)], slope: f64, offset: f64, bias: bool) -> (f64, f64) {
    let (mut gradient, mut hessian) = ([0.0; 2], [0.0; 3]);
    for &(logit, label) in rows {
        let p = 1.0 / (1.0 + (-(slope * logit + offset)).exp());
        let (error, weight) = (p - label, p * (1.0 - p));
        gradient[0] += error * logit;
        gradient[1] += error;
        hessian[0] += weight * logit * logit;
        hessian[1] += weight * logit;
        hessian[2] += weight;
    }
    // Kept away from zero, where all rows are certain.
    let [a, b, c] = [hessian[0] + 1e-9, hessian[1], hessian[2] + 1e-9];
    let determinant = a * c - b * b;
    if !bias || determinant <= 0.0 {
        return (gradient[0] / a, 0.0);
    }
    let [x, y] = gradient;
    ((c * x - b * y) / determinant, (a * y - b * x) / determinant)
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

    /// Rows whose labels are as often positive as a calibration of the scores says.
    fn rows(calibration: TaskCalibration) -> Vec<(f64, bool)> {
        let scores = (1..100).map(|percent| f64::from(percent) / 100.0);
        let labelled = scores.flat_map(|score| {
            let positive = (calibration.apply(score) * 1000.0).round() as usize;
            (0..1000).map(move |row| (score, row < positive))
        });
        labelled.collect()
    }

    #[test]
    fn the_calibration_behind_labels_is_found() {
        for (temperature, bias) in [(1.0, 0.0), (2.5, 0.0), (0.4, 0.0), (1.7, 0.8), (3.0, -1.2)] {
            let expected = TaskCalibration::new(temperature, bias).unwrap();
            let found = fit_calibration(&rows(expected), bias != 0.0).unwrap().unwrap();
            assert!((found.temperature() / temperature - 1.0).abs() < 0.01, "{found:?}");
            assert!((found.bias() - bias).abs() < 0.02, "{found:?}");
        }
    }

    #[test]
    fn rows_that_do_not_tell_have_no_calibration() {
        let fit = |rows: &[(f64, bool)]| fit_calibration(rows, true).unwrap();
        assert_eq!(fit(&[]), None);
        assert_eq!(fit(&[(0.2, true), (0.9, true)]), None);
        // Higher scores, fewer positives.
        assert_eq!(
            fit(&[(0.9, false), (0.8, false), (0.3, true), (0.1, true), (0.2, false)]),
            None
        );
        assert!(fit_calibration(&[(f64::NAN, true)], false).is_err());
    }
}
