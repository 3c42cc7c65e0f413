//! Counts of right and wrong answers, and the ratios made of them.

use guard_core::Label;
use serde::Serialize;

/// How often each answer met each label, for one question with two labels.
///
/// The counts are integers, so that the order of the rows and the way they were split over
/// threads cannot change a score.
///
/// ```
/// use guard_eval::{Confusion, Harm};
///
/// let mut confusion = Confusion::default();
/// confusion.record(Harm::Harmful, Harm::Harmful);
/// confusion.record(Harm::Harmful, Harm::Unharmful);
/// assert_eq!(confusion.recall().value(), 0.5);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
pub struct Confusion {
    /// Positive rows that were called positive.
    pub true_positives: u64,
    /// Negative rows that were called positive.
    pub false_positives: u64,
    /// Negative rows that were called negative.
    pub true_negatives: u64,
    /// Positive rows that were called negative.
    pub false_negatives: u64,
}

impl Confusion {
    /// So many rows that are positive or not and were all answered alike.
    #[must_use]
    pub fn of(positive: bool, answer: bool, times: u64) -> Self {
        let mut counts = Self::default();
        *match (positive, answer) {
            (true, true) => &mut counts.true_positives,
            (false, true) => &mut counts.false_positives,
            (false, false) => &mut counts.true_negatives,
            (true, false) => &mut counts.false_negatives,
        } = times;
        counts
    }

    /// Counts one row.
    pub fn record<L: Label>(&mut self, truth: L, answer: L) {
        *self = self.merged(Self::of(truth.is_positive(), answer.is_positive(), 1));
    }

    /// The counts of both, as if one had seen all rows.
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        Self {
            true_positives: self.true_positives + other.true_positives,
            false_positives: self.false_positives + other.false_positives,
            true_negatives: self.true_negatives + other.true_negatives,
            false_negatives: self.false_negatives + other.false_negatives,
        }
    }

    /// How many rows were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.right() + self.wrong()
    }

    /// Of the rows called positive, those that are: TP / (TP + FP).
    #[must_use]
    pub fn precision(&self) -> Ratio {
        Ratio::of(self.true_positives, self.true_positives + self.false_positives)
    }

    /// Of the positive rows, those that were found: TP / (TP + FN).
    #[must_use]
    pub fn recall(&self) -> Ratio {
        Ratio::of(self.true_positives, self.true_positives + self.false_negatives)
    }

    /// The harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN).
    ///
    /// It never looks at true negatives: on a benchmark of positives only it says nothing of
    /// false alarms.
    #[must_use]
    pub fn f1(&self) -> Ratio {
        let found_twice = 2 * self.true_positives;
        Ratio::of(found_twice, found_twice + self.wrong())
    }

    /// Of the negative rows, those that raised a false alarm: FP / (FP + TN).
    #[must_use]
    pub fn false_positive_rate(&self) -> Ratio {
        Ratio::of(self.false_positives, self.false_positives + self.true_negatives)
    }

    /// Of the negative rows, those that were let through: TN / (FP + TN).
    #[must_use]
    pub fn specificity(&self) -> Ratio {
        Ratio::of(self.true_negatives, self.false_positives + self.true_negatives)
    }

    /// Of all rows, those that were answered right: (TP + TN) / total.
    #[must_use]
    pub fn accuracy(&self) -> Ratio {
        Ratio::of(self.right(), self.total())
    }

    /// Matthews' correlation of label and answer, from -1 to 1: high only if both classes are told
    /// apart. 0 where one class, or one answer, never occurs (Matthews 1975).
    #[must_use]
    pub fn matthews(&self) -> f64 {
        let [tp, fp, tn, fn_] =
            [self.true_positives, self.false_positives, self.true_negatives, self.false_negatives]
                .map(|count| count as f64);
        let spread = (tp + fp) * (tp + fn_) * (tn + fp) * (tn + fn_);
        if spread == 0.0 { 0.0 } else { (tp * tn - fp * fn_) / spread.sqrt() }
    }

    fn right(&self) -> u64 {
        self.true_positives + self.true_negatives
    }

    fn wrong(&self) -> u64 {
        self.false_positives + self.false_negatives
    }
}

/// A share, kept as the two counts that it is made of.
///
/// Nothing out of nothing counts as 0, as scikit-learn has it by default, and
/// [`Ratio::is_defined`] tells it from an honest 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Ratio {
    /// The part.
    pub numerator: u64,
    /// The whole.
    pub denominator: u64,
}

impl Ratio {
    /// The share of `numerator` in `denominator`.
    #[must_use]
    pub fn of(numerator: u64, denominator: u64) -> Self {
        Self { numerator, denominator }
    }

    /// The share as a number; 0 when there is nothing to share.
    #[must_use]
    pub fn value(self) -> f64 {
        if self.is_defined() { self.numerator as f64 / self.denominator as f64 } else { 0.0 }
    }

    /// Whether there is anything to share.
    #[must_use]
    pub fn is_defined(self) -> bool {
        self.denominator > 0
    }
}

#[cfg(test)]
mod tests {
    use guard_core::{Completion, Harm};

    use super::*;

    /// 3 found, 1 false alarm, 4 let through, 2 missed.
    const COUNTS: Confusion =
        Confusion { true_positives: 3, false_positives: 1, true_negatives: 4, false_negatives: 2 };

    #[test]
    fn hand_worked_ratios() {
        assert_eq!(COUNTS.total(), 10);
        assert_eq!(COUNTS.precision().value(), 0.75); // 3 / (3 + 1)
        assert_eq!(COUNTS.recall().value(), 0.6); // 3 / (3 + 2)
        assert_eq!(COUNTS.f1(), Ratio::of(6, 9)); // 2 x 3 / (2 x 3 + 1 + 2)
        assert_eq!(COUNTS.false_positive_rate().value(), 0.2); // 1 / (1 + 4)
        assert_eq!(COUNTS.specificity().value(), 0.8); // 4 / (1 + 4)
        assert_eq!(COUNTS.accuracy().value(), 0.7); // (3 + 4) / 10
        // The harmonic mean of 3/4 and 3/5: 2 x 0.45 / 1.35 = 2/3.
        assert!((COUNTS.f1().value() - 2.0 / 3.0).abs() < 1e-15);
    }

    #[test]
    fn each_pair_of_labels_has_its_cell() {
        let mut harm = Confusion::default();
        harm.record(Harm::Harmful, Harm::Harmful);
        harm.record(Harm::Unharmful, Harm::Harmful);
        harm.record(Harm::Unharmful, Harm::Harmful);
        assert_eq!((harm.true_positives, harm.false_positives), (1, 2));
        let mut refusal = Confusion::default();
        refusal.record(Completion::Compliance, Completion::Compliance);
        refusal.record(Completion::Refusal, Completion::Compliance);
        refusal.record(Completion::Refusal, Completion::Compliance);
        assert_eq!((refusal.true_negatives, refusal.false_negatives), (1, 2));
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let part = Confusion { true_positives: 1, false_negatives: 2, ..Confusion::default() };
        let rest = Confusion { true_positives: 2, false_positives: 1, true_negatives: 4, ..part };
        let rest = Confusion { false_negatives: 0, ..rest };
        assert_eq!(part.merged(rest), COUNTS);
        assert_eq!(rest.merged(part), COUNTS);
    }

    #[test]
    fn nothing_out_of_nothing_is_zero_and_says_so() {
        let nothing = Confusion::default();
        let ratios = [
            nothing.precision(),
            nothing.recall(),
            nothing.f1(),
            nothing.false_positive_rate(),
            nothing.specificity(),
            nothing.accuracy(),
        ];
        for ratio in ratios {
            assert_eq!((ratio.value(), ratio.is_defined()), (0.0, false));
        }
    }

    #[test]
    fn an_undefined_ratio_leaves_the_others_defined() {
        // No negative rows, all found: F1 = 2R / (1 + R) = 1, and no rate of false alarms.
        let positives = Confusion { true_positives: 5, ..Confusion::default() };
        assert_eq!(positives.f1().value(), 1.0);
        assert!(!positives.false_positive_rate().is_defined());
        // No positive rows and no alarm: nothing to find, and all of it right.
        let negatives = Confusion { true_negatives: 5, ..Confusion::default() };
        assert!(!negatives.f1().is_defined());
        assert_eq!(negatives.accuracy().value(), 1.0);
        // A zero that is earned.
        let missed = Confusion { false_negatives: 5, ..Confusion::default() };
        assert_eq!((missed.f1().value(), missed.f1().is_defined()), (0.0, true));
    }
}
