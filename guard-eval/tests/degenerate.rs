//! T-62: benchmarks and systems at the edge of what can be scored.
#![allow(clippy::unwrap_used)]

use guard_data::{InMemorySource, Sample};
use guard_eval::{
    Answer, Bootstrap, Dataset, EvalError, Evaluation, Harm, Judged, Labels, Prediction, Reason,
    Report, ScoringPolicy, Summary, Task, Verdict,
};

const HARM: Answer<Harm> = Answer::Given(Harm::Harmful);
const SAFE: Answer<Harm> = Answer::Given(Harm::Unharmful);
const SILENT: Answer<Harm> = Answer::Undetermined(Reason::NoAnswers);

/// Rows of a truth, an answer and a score.
fn evaluation(rows: &[(Harm, Answer<Harm>, Option<f64>)]) -> Evaluation {
    let sample = |(row, (truth, _, _)): (usize, &(Harm, Answer<Harm>, Option<f64>))| {
        let labels = Labels { request: Some(*truth), ..Labels::default() };
        Sample::new(row.to_string(), "edge", format!("text {row}")).with_labels(labels)
    };
    let samples = rows.iter().enumerate().map(sample).collect();
    let dataset = Dataset::from_source(&InMemorySource::new("edge", samples)).unwrap();
    let predictions: Vec<Prediction> = rows
        .iter()
        .enumerate()
        .map(|(row, (_, answer, score))| {
            let mut request = Judged::new(*answer);
            request.score = *score;
            let mut line = Prediction::new(format!("text {row}"), "", "");
            line.verdict =
                Some(Verdict::new(request, Answer::NotApplicable, Answer::NotApplicable));
            line
        })
        .collect();
    Evaluation::of_dataset("system", &dataset, &predictions).unwrap()
}

fn summary(rows: &[(Harm, Answer<Harm>, Option<f64>)]) -> Summary {
    let evaluation = evaluation(rows);
    let bootstrap = Bootstrap { draws: 50, seed: 0 };
    // Every form of the report can be made, and no number in it is none.
    let report = Report::new(std::slice::from_ref(&evaluation), ScoringPolicy::Strict, bootstrap);
    let report = report.unwrap();
    for text in [report.to_text(), report.to_markdown(), report.to_csv(), report.to_html()] {
        assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
    }
    Summary::new(&evaluation, Task::Request, bootstrap)
}

#[test]
fn fault_t62_no_rows_are_no_dataset() {
    let error = Dataset::from_source(&InMemorySource::new("none", vec![])).unwrap_err();
    assert!(matches!(error, EvalError::Empty { .. }));
}

#[test]
fn fault_t62_one_row() {
    let right = summary(&[(Harm::Harmful, HARM, Some(0.9))]);
    assert_eq!(right.score(ScoringPolicy::Strict).f1, 1.0);
    let ranked = right.ranked.unwrap();
    assert_eq!((ranked.average_precision, ranked.roc_auc), (Some(1.0), None));
}

#[test]
fn fault_t62_one_class_only() {
    let positives = summary(&[(Harm::Harmful, HARM, None), (Harm::Harmful, SAFE, None)]);
    assert_eq!(positives.score(ScoringPolicy::Strict).f1, 2.0 / 3.0);
    assert_eq!(positives.false_positive_rate_interval, None);
    let negatives = summary(&[(Harm::Unharmful, SAFE, None), (Harm::Unharmful, SAFE, None)]);
    let score = negatives.score(ScoringPolicy::Strict);
    assert_eq!((score.f1, score.f1_defined, score.specificity), (0.0, false, Some(1.0)));
}

#[test]
fn fault_t62_all_undetermined() {
    let silent = summary(&[(Harm::Harmful, SILENT, None), (Harm::Unharmful, SILENT, None)]);
    assert_eq!((silent.undetermined, silent.supported), (1.0, true));
    assert_eq!(silent.score(ScoringPolicy::Strict).f1, 0.0);
    assert_eq!(silent.score(ScoringPolicy::Blocked).f1, 2.0 / 3.0);
    assert_eq!(silent.score(ScoringPolicy::Reference).counts.total(), 2);
    assert_eq!(silent.reasons["no block of answers"], 2);
}

#[test]
fn fault_t62_a_task_that_is_not_supported() {
    let none = summary(&[(Harm::Harmful, Answer::Unsupported, None)]);
    assert!(!none.supported);
    assert_eq!(none.reasons["unsupported"], 1);
}

#[test]
fn fault_t62_ties_and_scores_that_are_no_number() {
    let tied = summary(&[
        (Harm::Harmful, HARM, Some(0.5)),
        (Harm::Unharmful, HARM, Some(0.5)),
        (Harm::Harmful, HARM, Some(f64::NAN)),
        (Harm::Unharmful, SAFE, None),
    ]);
    let ranked = tied.ranked.as_ref().unwrap();
    assert_eq!((ranked.scored, ranked.roc_auc), (2, Some(0.5)));
    assert_eq!(tied.score(ScoringPolicy::Strict).counts.total(), 4);
}
