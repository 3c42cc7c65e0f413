//! Curves over scores: what a guard could do at other thresholds.

/// Labelled scores in falling order, equal scores together: what every curve is made of.
///
/// All counts are integers, so the order of the rows cannot change a value. The definitions are
/// scikit-learn's (`precision_recall_curve`, `average_precision_score`, `roc_curve`,
/// `roc_auc_score`).
///
/// ```
/// use guard_eval::Ranking;
///
/// let ranking = Ranking::new([(0.9, true), (0.8, false), (0.3, true), (0.1, false)])?;
/// assert_eq!(ranking.roc_auc(), Some(0.75));
/// assert_eq!(ranking.recall_at_fpr(0.0), Some(0.5));
/// # Ok::<(), guard_eval::NotANumber>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// One step for each different score, falling.
    steps: Vec<Step>,
}

/// Everything with at least this score counts as positive.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    threshold: f64,
    true_positives: u64,
    false_positives: u64,
}

/// A point of a precision-recall curve.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct PrPoint {
    /// The lowest score that counts as positive.
    pub threshold: f64,
    /// The share of the alarms that are right.
    pub precision: f64,
    /// The share of the positive rows that are found.
    pub recall: f64,
}

/// A point of a ROC curve.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RocPoint {
    /// The lowest score that counts as positive; infinite where nothing does.
    pub threshold: f64,
    /// The share of the negative rows that raise an alarm.
    pub false_positive_rate: f64,
    /// The share of the positive rows that are found.
    pub recall: f64,
}

/// A score that is no number, and so has no place in an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the score of row {row} is not a number")]
pub struct NotANumber {
    /// The row, from 0.
    pub row: usize,
}

impl Ranking {
    /// The ranking of rows of a score and whether the row is positive.
    ///
    /// # Errors
    ///
    /// [`NotANumber`] for a score that is NaN.
    pub fn new(rows: impl IntoIterator<Item = (f64, bool)>) -> Result<Self, NotANumber> {
        let mut rows: Vec<(f64, bool)> = rows.into_iter().collect();
        if let Some(row) = rows.iter().position(|(score, _)| score.is_nan()) {
            return Err(NotANumber { row });
        }
        rows.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        let weighted = rows.into_iter().map(|(score, positive)| (score, positive, 1));
        Ok(Self::of_sorted(weighted))
    }

    /// The ranking of rows in falling order, each as often as its last field says.
    pub(crate) fn of_sorted(rows: impl IntoIterator<Item = (f64, bool, u64)>) -> Self {
        let mut steps: Vec<Step> = Vec::new();
        for (threshold, positive, count) in rows {
            let last = steps.last().copied();
            let (found, alarms) = last.map_or((0, 0), |s| (s.true_positives, s.false_positives));
            let step = Step {
                threshold,
                true_positives: found + if positive { count } else { 0 },
                false_positives: alarms + if positive { 0 } else { count },
            };
            // Zeros of either sign are equal.
            match steps.last_mut().filter(|last| last.threshold == threshold) {
                Some(last) => *last = step,
                None => steps.push(step),
            }
        }
        Self { steps }
    }

    /// The number of positive rows.
    #[must_use]
    pub fn positives(&self) -> u64 {
        self.steps.last().map_or(0, |step| step.true_positives)
    }

    /// The number of negative rows.
    #[must_use]
    pub fn negatives(&self) -> u64 {
        self.steps.last().map_or(0, |step| step.false_positives)
    }

    /// The mean precision over the positive rows: the area under the steps of the
    /// precision-recall curve. `None` without a positive row.
    #[must_use]
    pub fn average_precision(&self) -> Option<f64> {
        let positives = share_of(self.positives())?;
        let mut before = 0;
        let mut sum = 0.0;
        for step in &self.steps {
            sum += (step.true_positives - before) as f64 * step.precision();
            before = step.true_positives;
        }
        Some(sum / positives)
    }

    /// The probability that a positive row scores above a negative one, ties counted half.
    /// `None` unless there are both.
    #[must_use]
    pub fn roc_auc(&self) -> Option<f64> {
        let pairs = share_of(self.positives())? * share_of(self.negatives())?;
        let mut before = Step { threshold: f64::INFINITY, true_positives: 0, false_positives: 0 };
        let mut doubled = 0_u128;
        for step in &self.steps {
            let width = step.false_positives - before.false_positives;
            doubled += u128::from(width) * u128::from(step.true_positives + before.true_positives);
            before = *step;
        }
        Some(doubled as f64 / 2.0 / pairs)
    }

    /// The largest recall at which the false positive rate is at most `limit`. `None` unless
    /// there are positive and negative rows.
    #[must_use]
    pub fn recall_at_fpr(&self, limit: f64) -> Option<f64> {
        share_of(self.positives()).and(share_of(self.negatives()))?;
        let allowed = self.roc().into_iter().filter(|point| point.false_positive_rate <= limit);
        allowed.map(|point| point.recall).reduce(f64::max)
    }

    /// The smallest false positive rate at which the recall is at least `least`. `None` unless
    /// there are positive and negative rows.
    #[must_use]
    pub fn fpr_at_recall(&self, least: f64) -> Option<f64> {
        share_of(self.positives()).and(share_of(self.negatives()))?;
        let enough = self.roc().into_iter().filter(|point| point.recall >= least);
        enough.map(|point| point.false_positive_rate).reduce(f64::min)
    }

    /// The threshold with the highest F1, and that F1; the highest such threshold. `None` without
    /// a positive row.
    ///
    /// Choose it on rows that no reported score rests on.
    #[must_use]
    pub fn best_f1(&self) -> Option<(f64, f64)> {
        let positives = self.positives();
        share_of(positives)?;
        let f1 = |step: &Step| {
            let alarms = step.true_positives + step.false_positives;
            2.0 * step.true_positives as f64 / (alarms + positives) as f64
        };
        let scored = self.steps.iter().map(|step| (step.threshold, f1(step)));
        scored.reduce(|best, next| if next.1 > best.1 { next } else { best })
    }

    /// The precision-recall curve from the highest threshold to the lowest, without the point at
    /// recall 0 that rests on no row. Recall is 0 where there is no positive row.
    #[must_use]
    pub fn precision_recall(&self) -> Vec<PrPoint> {
        let positives = self.positives();
        let point = |step: &Step| PrPoint {
            threshold: step.threshold,
            precision: step.precision(),
            recall: ratio(step.true_positives, positives),
        };
        self.steps.iter().map(point).collect()
    }

    /// The ROC curve from the highest threshold to the lowest, beginning where nothing counts as
    /// positive.
    #[must_use]
    pub fn roc(&self) -> Vec<RocPoint> {
        let (positives, negatives) = (self.positives(), self.negatives());
        let none = Step { threshold: f64::INFINITY, true_positives: 0, false_positives: 0 };
        let point = |step: &Step| RocPoint {
            threshold: step.threshold,
            false_positive_rate: ratio(step.false_positives, negatives),
            recall: ratio(step.true_positives, positives),
        };
        std::iter::once(&none).chain(&self.steps).map(point).collect()
    }
}

impl Step {
    fn precision(&self) -> f64 {
        ratio(self.true_positives, self.true_positives + self.false_positives)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn share_of(count: u64) -> Option<f64> {
    (count > 0).then_some(count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_worked_curve_with_a_tie() {
        let rows = [(0.9, true), (0.5, true), (0.5, false), (0.1, false)];
        let ranking = Ranking::new(rows).unwrap();
        assert_eq!((ranking.positives(), ranking.negatives()), (2, 2));
        // Half of the positives at precision 1, the other half at 2/3.
        assert_eq!(ranking.average_precision(), Some((1.0 + 2.0 / 3.0) / 2.0));
        // Of 4 pairs 3 are in order and 1 is a tie.
        assert_eq!(ranking.roc_auc(), Some(3.5 / 4.0));
        assert_eq!(ranking.recall_at_fpr(0.4), Some(0.5));
        assert_eq!(ranking.fpr_at_recall(0.9), Some(0.5));
        assert_eq!(ranking.best_f1(), Some((0.5, 0.8)));
        assert_eq!(ranking.precision_recall().len(), 3);
        assert_eq!(ranking.roc().len(), 4);
    }

    #[test]
    fn one_class_has_no_curve() {
        let positives = Ranking::new([(0.5, true)]).unwrap();
        assert_eq!((positives.average_precision(), positives.roc_auc()), (Some(1.0), None));
        let negatives = Ranking::new([(0.5, false)]).unwrap();
        assert_eq!((negatives.average_precision(), negatives.best_f1()), (None, None));
        assert_eq!(negatives.recall_at_fpr(0.5), None);
        let nothing = Ranking::new([]).unwrap();
        assert_eq!((nothing.roc_auc(), nothing.roc().len()), (None, 1));
    }

    #[test]
    fn fault_t62_a_score_that_is_no_number_is_named() {
        assert_eq!(Ranking::new([(0.1, true), (f64::NAN, true)]), Err(NotANumber { row: 1 }));
        let zeros = Ranking::new([(0.0, true), (-0.0, false)]).unwrap();
        assert_eq!(zeros.precision_recall().len(), 1);
    }
}
