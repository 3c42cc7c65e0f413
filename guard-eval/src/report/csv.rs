//! A report as comma-separated values.

use std::fmt::Write;

use guard_core::visible;

use super::Report;
use crate::interval::Interval;
use crate::scoring::ScoringPolicy;

const HEADER: &str = "system,dataset,task,policy,rows,labelled,positives,true_positives,\
false_positives,true_negatives,false_negatives,f1,f1_low,f1_high,precision,recall,\
false_positive_rate,specificity,accuracy,matthews,undetermined,average_precision,roc_auc,\
calibration_error,brier,prompt_tokens,completion_tokens,latency_p50_ms,latency_p95_ms,\
latency_p99_ms\n";

pub(super) fn render(report: &Report) -> String {
    let mut out = HEADER.to_owned();
    for summary in &report.summaries {
        for score in &summary.scores {
            let interval = summary.f1_interval.filter(|_| score.policy == ScoringPolicy::Strict);
            let ends = |end: fn(Interval) -> f64| number(interval.map(end));
            let ranked = |value: &dyn Fn(&crate::Ranked) -> Option<f64>| {
                number(summary.ranked.as_ref().and_then(value))
            };
            let cost = |value: fn(crate::Cost) -> f64| number(summary.cost.map(value));
            let counts = score.counts;
            let cells = [
                text(&summary.system),
                text(&summary.dataset),
                summary.task.to_string(),
                score.policy.to_string(),
                summary.rows.to_string(),
                summary.labelled.to_string(),
                summary.positives.to_string(),
                counts.true_positives.to_string(),
                counts.false_positives.to_string(),
                counts.true_negatives.to_string(),
                counts.false_negatives.to_string(),
                number(score.f1_defined.then_some(score.f1)),
                ends(|interval| interval.low),
                ends(|interval| interval.high),
                number(score.precision),
                number(score.recall),
                number(score.false_positive_rate),
                number(score.specificity),
                score.accuracy.to_string(),
                score.matthews.to_string(),
                summary.undetermined.to_string(),
                ranked(&|ranked| ranked.average_precision),
                ranked(&|ranked| ranked.roc_auc),
                ranked(&|ranked| ranked.calibration_error),
                ranked(&|ranked| ranked.brier),
                cost(|cost| cost.prompt_tokens),
                cost(|cost| cost.completion_tokens),
                cost(|cost| cost.latency_p50_ms),
                cost(|cost| cost.latency_p95_ms),
                cost(|cost| cost.latency_p99_ms),
            ];
            let _ = writeln!(out, "{}", cells.join(","));
        }
    }
    out
}

fn number(value: Option<f64>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// A quoted text. A first character that spreadsheets take for a formula is disarmed.
fn text(value: &str) -> String {
    let formula = value.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let guard = if formula { "'" } else { "" };
    format!("\"{guard}{}\"", visible(value).replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;

    #[test]
    fn each_policy_has_its_line_and_names_are_no_formulas() {
        let mut report = report();
        report.summaries[0].system = "=1+1,\"x\"".to_owned();
        let csv = report.to_csv();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines.len(), 1 + 2 * 3);
        assert!(
            lines[1].starts_with("\"'=1+1,\"\"x\"\"\",\"mine <script>\",request,strict,60,60,20,")
        );
        let columns = lines[0].split(',').count();
        assert!(lines[4..].iter().all(|line| line.split(',').count() == columns));
    }
}
