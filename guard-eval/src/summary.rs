//! One system on one question of one benchmark, as numbers.

use std::collections::BTreeMap;

use guard_core::{Answer, Task};
use serde::Serialize;

use crate::benchmark::Benchmark;
use crate::bootstrap::Bootstrap;
use crate::calibration::{Bin, Bins, brier_score, expected_calibration_error, reliability};
use crate::confusion::{Confusion, Ratio};
use crate::curve::Ranking;
use crate::evaluation::{Evaluation, Record};
use crate::interval::Interval;
use crate::quantile::quantile;
use crate::scoring::ScoringPolicy;

/// Everything that a report says about one system on one question of one benchmark.
///
/// Rates and scores go from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// The system.
    pub system: String,
    /// The dataset.
    pub dataset: String,
    /// What is known of the dataset, if it is a published benchmark.
    pub benchmark: Option<&'static Benchmark>,
    /// The question.
    pub task: Task,
    /// How many rows the dataset has.
    pub rows: u64,
    /// How many of them have a label for the question.
    pub labelled: u64,
    /// How many of those are positive.
    pub positives: u64,
    /// Whether the system answers this question at all. If not, its scores mean nothing.
    pub supported: bool,
    /// The counts and scores under each policy, in the order of [`ScoringPolicy::ALL`].
    pub scores: [PolicyScore; 3],
    /// The interval of the strict F1, by resampling clusters of rows.
    pub f1_interval: Option<Interval>,
    /// The interval of the strict precision. Those of rates are Wilson's: they take rows as
    /// independent.
    pub precision_interval: Option<Interval>,
    /// The interval of the strict recall.
    pub recall_interval: Option<Interval>,
    /// The interval of the strict false positive rate: over-refusal.
    pub false_positive_rate_interval: Option<Interval>,
    /// The share of labelled rows that the system gave no label.
    pub undetermined: f64,
    /// The interval of that share.
    pub undetermined_interval: Option<Interval>,
    /// How many labelled rows the released script reads otherwise than this project's parser.
    pub read_otherwise: u64,
    /// How many undetermined rows there are, by the reason.
    pub reasons: BTreeMap<String, u64>,
    /// What its probabilities are worth, where it gives any.
    pub ranked: Option<Ranked>,
    /// Parts of the rows.
    pub slices: Vec<Slice>,
    /// What it took.
    pub cost: Option<Cost>,
    /// The SHA-256 of the predictions: see [`Evaluation::fingerprint`].
    pub fingerprint: String,
    /// Resampled strict F1s, for averages over benchmarks.
    #[serde(skip)]
    pub(crate) draws: Vec<f64>,
}

/// The counts under one policy and what follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PolicyScore {
    /// The policy.
    pub policy: ScoringPolicy,
    /// The counts.
    pub counts: Confusion,
    /// How many labelled rows have no label by this policy's way of reading.
    pub undetermined: u64,
    /// The F1; 0 where it is not defined.
    pub f1: f64,
    /// Whether the F1 is defined: whether there is anything positive.
    pub f1_defined: bool,
    /// The share of alarms that are right; `None` without an alarm.
    pub precision: Option<f64>,
    /// The share of positive rows that are found; `None` without one.
    pub recall: Option<f64>,
    /// The share of negative rows that raise an alarm, over-refusal; `None` without one.
    pub false_positive_rate: Option<f64>,
    /// The share of negative rows that are let through; `None` without one.
    pub specificity: Option<f64>,
    /// The share of right answers.
    pub accuracy: f64,
    /// Matthews' correlation, from -1 to 1.
    pub matthews: f64,
}

/// What the probabilities of a system are worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Ranked {
    /// How many labelled rows have a probability; the others are not part of these numbers.
    pub scored: u64,
    /// Average precision.
    pub average_precision: Option<f64>,
    /// Its interval, by resampling clusters of rows.
    pub average_precision_interval: Option<Interval>,
    /// The area under the ROC curve.
    pub roc_auc: Option<f64>,
    /// The largest recall at a false positive rate of at most 1 and 5 percent.
    pub recall_at_fpr: [(f64, Option<f64>); 2],
    /// The smallest false positive rate at a recall of at least 90, 95 and 99 percent.
    pub fpr_at_recall: [(f64, Option<f64>); 3],
    /// The Brier score.
    pub brier: Option<f64>,
    /// The expected calibration error over 15 bins of equal width.
    pub calibration_error: Option<f64>,
    /// The same over 15 bins of equal mass.
    pub calibration_error_equal_mass: Option<f64>,
    /// The points of the reliability diagram, bins of equal width.
    pub reliability: Vec<Bin>,
    /// The curves.
    #[serde(skip)]
    pub ranking: Ranking,
}

/// The rows of one value of a dimension.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Slice {
    /// The dimension, such as `category`.
    pub dimension: String,
    /// The value.
    pub value: String,
    /// The labelled rows. Below [`Slice::FEW`] a score says little.
    pub labelled: u64,
    /// How many of them were given no label.
    pub undetermined: u64,
    /// The strict counts.
    pub counts: Confusion,
}

impl Slice {
    /// Scores of slices with fewer rows are shown greyed.
    pub const FEW: u64 = 30;
}

/// What judging took, over the rows that were judged.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Cost {
    /// Mean tokens read for a row.
    pub prompt_tokens: f64,
    /// Mean tokens written for a row.
    pub completion_tokens: f64,
    /// The latency, in milliseconds, below which half of the rows stay.
    pub latency_p50_ms: f64,
    /// Below which 95 of 100 stay.
    pub latency_p95_ms: f64,
    /// Below which 99 of 100 stay.
    pub latency_p99_ms: f64,
    /// Rows a second, where the wall time of the run is known.
    pub rows_per_second: Option<f64>,
}

impl Summary {
    /// Sums up one question of an evaluation.
    #[must_use]
    pub fn new(evaluation: &Evaluation, task: Task, bootstrap: Bootstrap) -> Self {
        let rows = Rows::new(evaluation, task);
        let scores = ScoringPolicy::ALL.map(|policy| rows.score(policy));
        let strict = scores[0].counts;
        let bootstrap = bootstrap.named(&format!("{} {task}", evaluation.dataset()));
        let draws = bootstrap.confusions(&rows.clustered(ScoringPolicy::Strict));
        let draws: Vec<f64> = draws.iter().map(|draw| draw.f1().value()).collect();
        let undetermined = rows.undetermined();
        Self {
            system: evaluation.system().to_owned(),
            dataset: evaluation.dataset().to_owned(),
            benchmark: evaluation.benchmark(),
            task,
            rows: evaluation.records().len() as u64,
            labelled: rows.0.len() as u64,
            positives: rows.0.iter().filter(|row| row.positive).count() as u64,
            supported: evaluation.supports(task),
            scores,
            f1_interval: Interval::of_draws(&draws).filter(|_| scores[0].f1_defined),
            precision_interval: Interval::wilson(strict.precision()),
            recall_interval: Interval::wilson(strict.recall()),
            false_positive_rate_interval: Interval::wilson(strict.false_positive_rate()),
            undetermined: undetermined.value(),
            undetermined_interval: Interval::wilson(undetermined),
            read_otherwise: rows.read_otherwise(),
            reasons: rows.reasons(),
            ranked: rows.ranked(bootstrap),
            slices: rows.slices(),
            cost: Cost::of(evaluation),
            fingerprint: evaluation.fingerprint().to_owned(),
            draws,
        }
    }

    /// The score under a policy.
    #[must_use]
    pub fn score(&self, policy: ScoringPolicy) -> &PolicyScore {
        &self.scores[policy as usize]
    }

    /// The weight in averages: the rows that the paper counts for a published benchmark, else
    /// the labelled rows.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.benchmark.map_or(self.labelled, |benchmark| benchmark.paper_rows)
    }
}

impl PolicyScore {
    fn new(policy: ScoringPolicy, counts: Confusion, undetermined: u64) -> Self {
        let share = |ratio: Ratio| ratio.is_defined().then(|| ratio.value());
        Self {
            policy,
            counts,
            undetermined,
            f1: counts.f1().value(),
            f1_defined: counts.f1().is_defined(),
            precision: share(counts.precision()),
            recall: share(counts.recall()),
            false_positive_rate: share(counts.false_positive_rate()),
            specificity: share(counts.specificity()),
            accuracy: counts.accuracy().value(),
            matthews: counts.matthews(),
        }
    }
}

/// The labelled rows of one question.
struct Rows<'a>(Vec<Row<'a>>, Task);

struct Row<'a> {
    record: &'a Record,
    positive: bool,
}

impl<'a> Rows<'a> {
    fn new(evaluation: &'a Evaluation, task: Task) -> Self {
        let labelled = evaluation.records().iter().filter_map(|record| {
            let positive = record.truth.positive(task)?;
            Some(Row { record, positive })
        });
        Self(labelled.collect(), task)
    }

    fn count(&self, row: &Row<'_>, policy: ScoringPolicy) -> Confusion {
        policy.count(self.1, row.positive, row.record.answer(self.1, policy))
    }

    fn score(&self, policy: ScoringPolicy) -> PolicyScore {
        let counts = self.0.iter().map(|row| self.count(row, policy));
        let silent = |row: &&Row<'_>| row.record.answer(self.1, policy).is_none();
        let undetermined = self.0.iter().filter(silent).count() as u64;
        PolicyScore::new(policy, counts.fold(Confusion::default(), Confusion::merged), undetermined)
    }

    fn clustered(&self, policy: ScoringPolicy) -> Vec<(u32, Confusion)> {
        self.0.iter().map(|row| (row.record.cluster, self.count(row, policy))).collect()
    }

    fn is_undetermined(&self, row: &Row<'_>) -> bool {
        row.record.answer(self.1, ScoringPolicy::Strict).is_none()
    }

    fn undetermined(&self) -> Ratio {
        let count = self.0.iter().filter(|row| self.is_undetermined(row)).count();
        Ratio::of(count as u64, self.0.len() as u64)
    }

    fn read_otherwise(&self) -> u64 {
        let answer = |row: &Row<'_>, policy| row.record.answer(self.1, policy);
        let differ = |row: &&Row<'_>| {
            answer(row, ScoringPolicy::Strict) != answer(row, ScoringPolicy::Reference)
        };
        self.0.iter().filter(differ).count() as u64
    }

    fn reasons(&self) -> BTreeMap<String, u64> {
        let mut reasons = BTreeMap::new();
        for row in self.0.iter().filter(|row| self.is_undetermined(row)) {
            let reason = match row.record.verdict.answer(self.1) {
                Answer::Undetermined(reason) => reason.to_string(),
                Answer::Unsupported => "unsupported".to_owned(),
                // Those with a label are not undetermined.
                Answer::NotApplicable | Answer::Given(_) => "not applicable".to_owned(),
            };
            *reasons.entry(reason).or_default() += 1;
        }
        reasons
    }

    fn ranked(&self, bootstrap: Bootstrap) -> Option<Ranked> {
        // What is no probability is no score.
        let scored = self.0.iter().filter_map(|row| {
            let score =
                row.record.verdict.score(self.1).filter(|score| (0.0..=1.0).contains(score))?;
            Some((row.record.cluster, score, row.positive))
        });
        let mut clustered: Vec<(u32, f64, bool)> = scored.collect();
        // Sums of floats depend on their order; this one does not depend on the rows'.
        clustered.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.2.cmp(&b.2)));
        let rows: Vec<(f64, bool)> =
            clustered.iter().map(|&(_, s, positive)| (s, positive)).collect();
        let ranking = Ranking::new(rows.iter().copied()).ok().filter(|_| !rows.is_empty())?;
        let wide = reliability(&rows, Bins::EqualWidth(15)).ok()?;
        let even = reliability(&rows, Bins::EqualMass(15)).ok()?;
        let draws = bootstrap.average_precisions(&clustered);
        Some(Ranked {
            scored: rows.len() as u64,
            average_precision: ranking.average_precision(),
            average_precision_interval: Interval::of_draws(&draws),
            roc_auc: ranking.roc_auc(),
            recall_at_fpr: [0.01, 0.05].map(|limit| (limit, ranking.recall_at_fpr(limit))),
            fpr_at_recall: [0.9, 0.95, 0.99].map(|least| (least, ranking.fpr_at_recall(least))),
            brier: brier_score(&rows),
            calibration_error: expected_calibration_error(&wide),
            calibration_error_equal_mass: expected_calibration_error(&even),
            reliability: wide,
            ranking,
        })
    }

    fn slices(&self) -> Vec<Slice> {
        let mut slices: BTreeMap<(&str, &str), Slice> = BTreeMap::new();
        for row in &self.0 {
            for (dimension, value) in &row.record.slices {
                let slice = slices.entry((dimension, value)).or_insert_with(|| Slice {
                    dimension: dimension.clone(),
                    value: value.clone(),
                    labelled: 0,
                    undetermined: 0,
                    counts: Confusion::default(),
                });
                slice.labelled += 1;
                slice.undetermined += u64::from(self.is_undetermined(row));
                slice.counts = slice.counts.merged(self.count(row, ScoringPolicy::Strict));
            }
        }
        slices.into_values().collect()
    }
}

impl Cost {
    /// The cost of the rows that were judged; `None` where nothing was measured.
    fn of(evaluation: &Evaluation) -> Option<Self> {
        let records = evaluation.records();
        let usages: Vec<_> = records
            .iter()
            .map(|record| record.verdict.usage)
            .filter(|usage| usage.prompt_tokens > 0 || usage.latency_ms > 0)
            .collect();
        let latencies: Vec<f64> = usages.iter().map(|usage| usage.latency_ms as f64).collect();
        let count = usages.len() as f64;
        let mean = |tokens: fn(&guard_core::Usage) -> usize| {
            usages.iter().map(|usage| tokens(usage) as f64).sum::<f64>() / count
        };
        Some(Self {
            prompt_tokens: mean(|usage| usage.prompt_tokens),
            completion_tokens: mean(|usage| usage.completion_tokens),
            latency_p50_ms: quantile(&latencies, 0.5)?,
            latency_p95_ms: quantile(&latencies, 0.95)?,
            latency_p99_ms: quantile(&latencies, 0.99)?,
            rows_per_second: evaluation.wall_seconds.map(|wall| records.len() as f64 / wall),
        })
    }
}
