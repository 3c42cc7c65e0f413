//! The tables of a report, before they have a form.

use guard_core::Task;

use super::Report;
use crate::benchmark::{BENCHMARKS, Benchmark};
use crate::confusion::Ratio;
use crate::interval::Interval;
use crate::scoring::ScoringPolicy;
use crate::summary::{PolicyScore, Slice, Summary};

/// A table of texts.
pub(super) struct Table {
    pub(super) title: String,
    pub(super) header: Vec<&'static str>,
    /// The first cells are names, the others numbers.
    pub(super) rows: Vec<Vec<String>>,
    /// How many of the first columns are names.
    pub(super) names: usize,
    /// Which rows rest on so little that they are shown faintly; empty for none.
    pub(super) faint: Vec<bool>,
}

/// All tables of a report that are not empty.
pub(super) fn tables(report: &Report) -> Vec<Table> {
    let mut tables: Vec<Table> = Task::ALL.into_iter().map(|task| scores(report, task)).collect();
    tables.extend([
        averages(report),
        policies(report),
        ranked(report),
        costs(report),
        reasons(report),
        comparisons(report),
        provenance(report),
    ]);
    tables.retain(|table| !table.rows.is_empty());
    tables
}

pub(super) fn task_title(task: Task) -> &'static str {
    match task {
        Task::Request => "Is the request harmful?",
        Task::Completion => "Did the assistant refuse?",
        Task::Response => "Is the response harmful?",
    }
}

fn scores(report: &Report, task: Task) -> Table {
    let row = |summary: &Summary| {
        let score = summary.score(report.policy);
        // The intervals are those of the strict counts.
        let strict = |interval| match report.policy {
            ScoringPolicy::Strict => range(interval),
            _ => dash(),
        };
        let both = score.recall.is_some() && score.specificity.is_some();
        vec![
            summary.dataset.clone(),
            summary.system.clone(),
            if summary.supported { f1(score) } else { "unsupported".to_owned() },
            strict(summary.f1_interval),
            share(score.precision),
            share(score.recall),
            share(score.false_positive_rate),
            strict(summary.false_positive_rate_interval),
            if both { format!("{:.3}", score.matthews) } else { dash() },
            percent(summary.undetermined),
            format!("{} / {}", summary.positives, summary.labelled),
        ]
    };
    let of_task = report.summaries.iter().filter(|summary| summary.task == task);
    Table {
        title: format!("{} (policy {})", task_title(task), report.policy),
        header: vec![
            "benchmark",
            "system",
            "F1",
            "95 %",
            "precision",
            "recall",
            "FPR",
            "95 %",
            "MCC",
            "undetermined",
            "positives",
        ],
        rows: of_task.map(row).collect(),
        names: 2,
        faint: Vec::new(),
    }
}

fn averages(report: &Report) -> Table {
    let mut rows: Vec<Vec<String>> = report
        .averages
        .iter()
        .map(|average| {
            let f1 = |policy: ScoringPolicy| percent(average.f1[policy as usize]);
            vec![
                task_title(average.task).to_owned(),
                average.system.clone(),
                f1(ScoringPolicy::Strict),
                range(average.f1_interval),
                f1(ScoringPolicy::Reference),
                f1(ScoringPolicy::Blocked),
                percent(average.undetermined),
                match average.own {
                    true => format!("{} of your own", average.datasets),
                    false => format!("{} of {}", average.datasets, average.of_paper),
                },
            ]
        })
        .collect();
    rows.extend(report.macros.iter().filter(|found| found.tasks > 1).map(|found| {
        let f1 = |policy: ScoringPolicy| percent(found.f1[policy as usize]);
        vec![
            "mean of the questions".to_owned(),
            found.system.clone(),
            f1(ScoringPolicy::Strict),
            dash(),
            f1(ScoringPolicy::Reference),
            f1(ScoringPolicy::Blocked),
            dash(),
            format!("{} of {}", found.benchmarks, BENCHMARKS.len()),
        ]
    }));
    Table {
        title: "Averages of F1, weighted by rows".to_owned(),
        header: vec![
            "question",
            "system",
            "strict",
            "95 %",
            "reference",
            "blocked",
            "undetermined",
            "sets",
        ],
        rows,
        names: 2,
        faint: Vec::new(),
    }
}

fn policies(report: &Report) -> Table {
    let row = |summary: &Summary| {
        let score = |policy| summary.score(policy);
        vec![
            summary.dataset.clone(),
            summary.system.clone(),
            f1(score(ScoringPolicy::Strict)),
            f1(score(ScoringPolicy::Reference)),
            f1(score(ScoringPolicy::Blocked)),
            score(ScoringPolicy::Strict).undetermined.to_string(),
            range(summary.undetermined_interval),
            score(ScoringPolicy::Reference).undetermined.to_string(),
            summary.read_otherwise.to_string(),
        ]
    };
    Table {
        title: "F1 under each policy, and rows that are undetermined".to_owned(),
        header: vec![
            "benchmark",
            "system",
            "strict",
            "reference",
            "blocked",
            "undetermined",
            "95 %",
            "by the reference",
            "read otherwise",
        ],
        rows: report.summaries.iter().map(row).collect(),
        names: 2,
        faint: Vec::new(),
    }
}

fn ranked(report: &Report) -> Table {
    let rows = report.summaries.iter().filter_map(|summary| {
        let ranked = summary.ranked.as_ref()?;
        Some(vec![
            summary.dataset.clone(),
            summary.system.clone(),
            share(ranked.average_precision),
            range(ranked.average_precision_interval),
            share(ranked.roc_auc),
            share(ranked.recall_at_fpr[0].1),
            share(ranked.recall_at_fpr[1].1),
            share(ranked.fpr_at_recall[1].1),
            ranked.calibration_error.map_or_else(dash, |error| format!("{error:.3}")),
            ranked.brier.map_or_else(dash, |score| format!("{score:.3}")),
            format!("{} / {}", ranked.scored, summary.labelled),
        ])
    });
    Table {
        title: "Probabilities".to_owned(),
        header: vec![
            "benchmark",
            "system",
            "AP",
            "95 %",
            "ROC AUC",
            "recall at 1 % FPR",
            "at 5 % FPR",
            "FPR at 95 % recall",
            "ECE",
            "Brier",
            "scored",
        ],
        rows: rows.collect(),
        names: 2,
        faint: Vec::new(),
    }
}

fn costs(report: &Report) -> Table {
    let rows = report.summaries.iter().filter_map(|summary| {
        let cost = summary.cost?;
        Some(vec![
            summary.dataset.clone(),
            summary.system.clone(),
            format!("{:.0}", cost.prompt_tokens),
            format!("{:.0}", cost.completion_tokens),
            format!("{:.0}", cost.latency_p50_ms),
            format!("{:.0}", cost.latency_p95_ms),
            format!("{:.0}", cost.latency_p99_ms),
            cost.rows_per_second.map_or_else(dash, |rate| format!("{rate:.2}")),
        ])
    });
    Table {
        title: "Cost".to_owned(),
        header: vec![
            "benchmark",
            "system",
            "tokens read",
            "written",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "rows / s",
        ],
        rows: rows.collect(),
        names: 2,
        faint: Vec::new(),
    }
}

fn reasons(report: &Report) -> Table {
    let rows = report.summaries.iter().flat_map(|summary| {
        summary.reasons.iter().map(|(reason, count)| {
            vec![summary.dataset.clone(), summary.system.clone(), reason.clone(), count.to_string()]
        })
    });
    Table {
        title: "Why rows are undetermined".to_owned(),
        header: vec!["benchmark", "system", "reason", "rows"],
        rows: rows.collect(),
        names: 3,
        faint: Vec::new(),
    }
}

fn comparisons(report: &Report) -> Table {
    let rows = report.comparisons.iter().map(|pair| {
        let mut row = vec![pair.dataset.clone(), format!("{} - {}", pair.first, pair.second)];
        match &pair.comparison {
            Some(found) => row.extend([
                format!("{:+.2}", 100.0 * found.f1_difference),
                range(found.f1_interval),
                format!("{} : {}", found.only_first_right, found.only_second_right),
                p_value(found.p_value),
                pair.adjusted_p.map_or_else(dash, p_value),
            ]),
            None => {
                row.push("other texts".to_owned());
                row.resize_with(7, dash);
            }
        }
        row
    });
    Table {
        title: "Differences of strict F1 (McNemar's exact test, Holm's correction for each pair)"
            .to_owned(),
        header: vec!["benchmark", "systems", "F1", "95 %", "only one right", "p", "adjusted"],
        rows: rows.collect(),
        names: 2,
        faint: Vec::new(),
    }
}

/// Parts of the rows of each result.
pub(super) fn breakdown(report: &Report) -> Table {
    let parts: Vec<(&Summary, &Slice)> = report
        .summaries
        .iter()
        .flat_map(|summary| summary.slices.iter().map(move |slice| (summary, slice)))
        .collect();
    let row = |&(summary, slice): &(&Summary, &Slice)| {
        let counts = slice.counts;
        let of = |ratio: Ratio| share(ratio.is_defined().then(|| ratio.value()));
        vec![
            summary.dataset.clone(),
            summary.system.clone(),
            slice.dimension.clone(),
            slice.value.clone(),
            slice.labelled.to_string(),
            of(counts.f1()),
            of(counts.recall()),
            of(counts.false_positive_rate()),
            slice.undetermined.to_string(),
        ]
    };
    Table {
        title: format!("Breakdown (policy strict; faint below {} rows)", Slice::FEW),
        header: vec![
            "benchmark",
            "system",
            "by",
            "part",
            "rows",
            "F1",
            "recall",
            "FPR",
            "undetermined",
        ],
        rows: parts.iter().map(row).collect(),
        names: 4,
        faint: parts.iter().map(|(_, slice)| slice.labelled < Slice::FEW).collect(),
    }
}

fn provenance(report: &Report) -> Table {
    let row = |summary: &Summary| {
        let known = summary.benchmark;
        let yes = |is: fn(&Benchmark) -> bool| {
            known.map_or_else(dash, |b| if is(b) { "yes" } else { "no" }.to_owned())
        };
        vec![
            summary.dataset.clone(),
            summary.system.clone(),
            summary.fingerprint.get(..16).unwrap_or_default().to_owned(),
            summary.rows.to_string(),
            known.map_or_else(dash, |benchmark| benchmark.labelled_by.to_owned()),
            known.map_or_else(dash, |benchmark| benchmark.licence.to_owned()),
            yes(|benchmark| benchmark.in_distribution),
            yes(|benchmark| benchmark.adversarial),
        ]
    };
    Table {
        title: "Where the numbers are from".to_owned(),
        header: vec![
            "benchmark",
            "system",
            "predictions (SHA-256)",
            "rows",
            "labels by",
            "licence",
            "in training distribution",
            "adversarial",
        ],
        rows: report.summaries.iter().map(row).collect(),
        names: 3,
        faint: Vec::new(),
    }
}

fn f1(score: &PolicyScore) -> String {
    share(score.f1_defined.then_some(score.f1))
}

fn share(share: Option<f64>) -> String {
    share.map_or_else(dash, percent)
}

fn percent(share: f64) -> String {
    format!("{:.2}", 100.0 * share)
}

fn range(interval: Option<Interval>) -> String {
    interval.map_or_else(dash, |interval| {
        format!("{:.1} to {:.1}", 100.0 * interval.low, 100.0 * interval.high)
    })
}

fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

fn dash() -> String {
    "-".to_owned()
}
