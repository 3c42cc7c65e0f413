//! What a metric is: rows in, one number out.

use guard_core::{Labels, Verdict};

use crate::confusion::Ratio;

/// A number that sums up how well verdicts fit the labels.
///
/// The trait is object-safe, so that a run can feed a list of metrics. The order of the rows
/// must not matter.
///
/// ```
/// use guard_eval::{Labels, Metric, Score, Verdict};
///
/// /// The share of verdicts that contradict their own reasoning.
/// #[derive(Debug, Default)]
/// struct Contradictions {
///     found: u64,
///     rows: u64,
/// }
///
/// impl Metric for Contradictions {
///     fn name(&self) -> &str {
///         "contradictions"
///     }
///
///     fn record(&mut self, _: &Labels, verdict: &Verdict) {
///         self.rows += u64::from(verdict.consistent.is_some());
///         self.found += u64::from(verdict.consistent == Some(false));
///     }
///
///     fn score(&self) -> Option<Score> {
///         (self.rows > 0).then(|| Score::new(self.found as f64 / self.rows as f64, self.rows))
///     }
/// }
/// ```
pub trait Metric {
    /// The name of the metric in reports.
    fn name(&self) -> &str;

    /// Takes in one row: what is known about it, and what the guard said. Rows that the metric
    /// does not measure, such as rows without its label, change nothing.
    fn record(&mut self, truth: &Labels, verdict: &Verdict);

    /// The score of the rows so far; `None` while there is nothing to score.
    fn score(&self) -> Option<Score>;
}

/// A value and how many rows it rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Score {
    /// The value. Its range and direction are the metric's.
    pub value: f64,
    /// The rows that were counted: the weight of the value in an average over benchmarks.
    pub counted: u64,
    /// Whether the value means anything. `false` for 0 out of 0, which stands as 0.
    pub defined: bool,
}

impl Score {
    /// A value that rests on this many rows.
    #[must_use]
    pub fn new(value: f64, counted: u64) -> Self {
        Self { value, counted, defined: true }
    }

    /// The value of a ratio that rests on this many rows.
    #[must_use]
    pub fn from_ratio(ratio: Ratio, counted: u64) -> Self {
        Self { value: ratio.value(), counted, defined: ratio.is_defined() }
    }
}

#[cfg(test)]
mod tests {
    use guard_core::{Reason, Task};

    use super::*;
    use crate::scoring::ScoringPolicy;
    use crate::task_f1::TaskF1;

    /// Compiles only while the trait is object-safe.
    fn feed(metrics: &mut [Box<dyn Metric>], truth: &Labels, verdict: &Verdict) {
        for metric in metrics {
            metric.record(truth, verdict);
        }
    }

    #[test]
    fn metrics_are_fed_as_a_list() {
        let mut metrics: Vec<Box<dyn Metric>> = Task::ALL
            .into_iter()
            .map(|task| Box::new(TaskF1::new(task, ScoringPolicy::Strict)) as Box<dyn Metric>)
            .collect();
        let truth = Labels { request: Some(guard_core::Harm::Harmful), ..Labels::default() };
        feed(&mut metrics, &truth, &Verdict::undetermined(Reason::NoAnswers));
        let counted: Vec<_> =
            metrics.iter().map(|metric| metric.score().map(|s| s.counted)).collect();
        assert_eq!(counted, [Some(1), None, None]);
    }

    #[test]
    fn a_score_keeps_whether_its_ratio_was_defined() {
        let score = Score::from_ratio(Ratio::of(1, 4), 10);
        assert_eq!(score, Score::new(0.25, 10));
        let nothing = Score::from_ratio(Ratio::of(0, 0), 3);
        assert_eq!((nothing.value, nothing.counted, nothing.defined), (0.0, 3, false));
    }
}
