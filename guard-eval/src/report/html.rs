//! A report as one HTML page.

use std::fmt::Write;

use guard_core::Task;

use super::Report;
use super::svg::{Axis, Bar, COLOURS, Plot, Point, Series, bars, escape, round_end};
use super::table::{Table, breakdown, tables, task_title};
use crate::benchmark::BENCHMARKS;
use crate::published::{Published, PublishedTable};
use crate::scoring::ScoringPolicy;
use crate::summary::Summary;

const STYLE: &str = include_str!("report.css");

pub(super) fn render(report: &Report, published: &Published) -> String {
    let mut body = String::new();
    let _ = write!(body, "<h1>Evaluation of {}</h1>", escape(&report.systems().join(", ")));
    let _ = write!(
        body,
        "<p>Scored by the policy <b>{}</b>. Intervals hold 95 percent: Wilson's for rates, {} \
         resamples of whole clusters of equal requests (seed {}) for F1 and averages. Read by \
         guard-eval {}.</p>",
        report.policy, report.bootstrap_draws, report.bootstrap_seed, report.version
    );
    body.push_str(&legend(report));
    figure(&mut body, "wide", &f1_bars(report));
    let plots = plots(report);
    if !plots.is_empty() {
        let _ = write!(body, r#"<h2>Curves</h2><div class="plots">{plots}</div>"#);
    }
    tables(report).iter().for_each(|table| write_table(&mut body, table));
    body.push_str(&confusions(report));
    body.push_str(&folded_breakdown(report));
    body.push_str(&beside_the_paper(report, published));
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>Evaluation</title><style>\n{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )
}

/// The number of a system's colour.
fn colour(report: &Report, system: &str) -> usize {
    report.systems().iter().position(|name| *name == system).unwrap_or(0) % COLOURS
}

fn legend(report: &Report) -> String {
    let item = |system: &&str| {
        format!(r#"<li class="s{}">{}</li>"#, colour(report, system), escape(system))
    };
    let items: String = report.systems().iter().map(item).collect();
    format!(r#"<ul class="legend">{items}</ul>"#)
}

fn figure(out: &mut String, class: &str, svg: &str) {
    let _ = write!(out, r#"<figure class="{class}">{svg}</figure>"#);
}

fn f1_bars(report: &Report) -> String {
    let bar = |summary: &Summary| Bar {
        group: format!("{} ({})", summary.dataset, summary.task),
        name: summary.system.clone(),
        value: summary.score(report.policy).f1,
        interval: match report.policy {
            ScoringPolicy::Strict => {
                summary.f1_interval.map(|interval| (interval.low, interval.high))
            }
            _ => None,
        },
        colour: colour(report, &summary.system),
    };
    let shown: Vec<Bar> = scored(report).map(bar).collect();
    bars("F1 in percent, with intervals", &shown)
}

/// The results that have an F1.
fn scored(report: &Report) -> impl Iterator<Item = &Summary> {
    let defined = |summary: &&Summary| summary.score(report.policy).f1_defined;
    report.summaries.iter().filter(|summary| summary.supported).filter(defined)
}

/// The curves of each dataset, and F1 against latency.
fn plots(report: &Report) -> String {
    let mut out = String::new();
    let mut seen = Vec::new();
    for summary in &report.summaries {
        let key = (summary.dataset.as_str(), summary.task);
        if !seen.contains(&key) {
            seen.push(key);
            out.push_str(&dataset_plots(report, key));
        }
    }
    out.push_str(&latency_plot(report));
    out
}

fn dataset_plots(report: &Report, (dataset, task): (&str, Task)) -> String {
    let of = |points: &dyn Fn(&crate::Ranked) -> Vec<Point>| -> Vec<Series> {
        let same = report.summaries.iter().filter(|s| s.dataset == dataset && s.task == task);
        let series = same.filter_map(|summary| {
            Some(Series {
                name: summary.system.clone(),
                points: points(summary.ranked.as_ref()?),
                colour: colour(report, &summary.system),
            })
        });
        series.filter(|series| !series.points.is_empty()).collect()
    };
    let pr = of(&|ranked| {
        ranked.ranking.precision_recall().iter().map(|p| (p.recall, p.precision)).collect()
    });
    if pr.is_empty() {
        return String::new();
    }
    let roc = of(&|ranked| {
        ranked.ranking.roc().iter().map(|p| (p.false_positive_rate, p.recall)).collect()
    });
    let reliability =
        of(&|ranked| ranked.reliability.iter().map(|b| (b.mean_score, b.positive_rate)).collect());
    let share = |title| Axis { title, from: 0.0, to: 1.0 };
    let mut out = String::new();
    let title = format!("Precision and recall: {dataset}");
    let plot = Plot { title: &title, x: share("recall"), y: share("precision") };
    figure(&mut out, "", &plot.lines(&pr, false));
    let title = format!("ROC: {dataset}");
    let plot = Plot { title: &title, x: share("false positive rate"), y: share("recall") };
    figure(&mut out, "", &plot.lines(&roc, true));
    let title = format!("Reliability: {dataset}");
    let plot = Plot { title: &title, x: share("mean probability"), y: share("share of positives") };
    figure(&mut out, "", &plot.marks(&reliability, true));
    out
}

fn latency_plot(report: &Report) -> String {
    let points = scored(report).filter_map(|summary| {
        let latency = summary.cost?.latency_p50_ms;
        Some(Series {
            name: format!("{} on {}", summary.system, summary.dataset),
            points: vec![(latency, summary.score(report.policy).f1)],
            colour: colour(report, &summary.system),
        })
    });
    let points: Vec<Series> = points.collect();
    let slowest = points.iter().map(|series| series.points[0].0).fold(0.0, f64::max);
    if slowest <= 0.0 {
        return String::new();
    }
    let plot = Plot {
        title: "F1 against latency",
        x: Axis { title: "median milliseconds", from: 0.0, to: round_end(slowest) },
        y: Axis { title: "F1", from: 0.0, to: 1.0 },
    };
    let mut out = String::new();
    figure(&mut out, "", &plot.marks(&points, false));
    out
}

fn write_table(out: &mut String, table: &Table) {
    let _ = write!(out, "<h2>{}</h2>{}", escape(&table.title), table_body(table));
}

fn table_body(table: &Table) -> String {
    let class = |column: usize| if column < table.names { r#" class="name""# } else { "" };
    let header: String = table
        .header
        .iter()
        .enumerate()
        .map(|(column, name)| format!("<th{}>{}</th>", class(column), escape(name)))
        .collect();
    let row = |(number, row): (usize, &Vec<String>)| {
        let faint = table.faint.get(number) == Some(&true);
        let cells = row.iter().enumerate();
        let cells: String = cells
            .map(|(column, cell)| format!("<td{}>{}</td>", class(column), escape(cell)))
            .collect();
        format!("<tr{}>{cells}</tr>", if faint { r#" class="faint""# } else { "" })
    };
    let rows: String = table.rows.iter().enumerate().map(row).collect();
    format!(r#"<div class="scroll"><table><tr>{header}</tr>{rows}</table></div>"#)
}

fn confusions(report: &Report) -> String {
    let matrix = |summary: &Summary| {
        let counts = summary.score(report.policy).counts;
        let total = counts.total().max(1) as f64;
        let cell = |count: u64| {
            let share = 70.0 * count as f64 / total;
            format!(r#"<div class="cell" style="--share: {share:.0}%">{count}</div>"#)
        };
        let (positive, negative) = match summary.task {
            Task::Completion => ("refusal", "compliance"),
            _ => ("harmful", "unharmful"),
        };
        format!(
            r#"<figure><b>{}</b><br>{}<div class="matrix"><div></div><div class="head">says {positive}</div><div class="head">says {negative}</div><div class="head">{positive}</div>{}{}<div class="head">{negative}</div>{}{}</div></figure>"#,
            escape(&summary.system),
            escape(&format!("{} ({})", summary.dataset, summary.task)),
            cell(counts.true_positives),
            cell(counts.false_negatives),
            cell(counts.false_positives),
            cell(counts.true_negatives),
        )
    };
    let shown: String = report.summaries.iter().filter(|s| s.supported).map(matrix).collect();
    format!(
        r#"<h2>Confusion (policy {})</h2><details open><summary>Counts of label and answer</summary><div class="plots">{shown}</div></details>"#,
        report.policy
    )
}

/// Parts of the rows, folded away: there may be hundreds.
fn folded_breakdown(report: &Report) -> String {
    let table = breakdown(report);
    if table.rows.is_empty() {
        return String::new();
    }
    format!(
        "<h2>{}</h2><details><summary>Show all parts</summary>{}</details>",
        escape(&table.title),
        table_body(&table)
    )
}

/// The paper's tables with the systems of the run under them.
fn beside_the_paper(report: &Report, published: &Published) -> String {
    let mut out = String::new();
    for table in &published.tables {
        let ours = |summary: &Summary| {
            table.benchmarks.iter().any(|name| is_of(summary, &summary.system, table, name))
        };
        if report.summaries.iter().any(ours) {
            out.push_str(&paper_table(report, table));
        }
    }
    if out.is_empty() {
        return out;
    }
    out.push_str(&paper_means(report, published));
    format!(
        "<h2>Beside the published results</h2><p>{} The runs of this report come first, by the \
         policy <b>reference</b>, which counts as those tables were counted.</p>{out}",
        escape(&published.source)
    )
}

/// Whether a result belongs into a column of a table of the paper. A set of one's own that has a
/// benchmark's name does not.
fn is_of(summary: &Summary, system: &str, table: &PublishedTable, name: &str) -> bool {
    summary.system == system
        && summary.supported
        && summary.task == table.task
        && summary.benchmark.is_some_and(|benchmark| benchmark.name == name)
}

/// The means of the three questions, with those of the run that are over all benchmarks.
fn paper_means(report: &Report, published: &Published) -> String {
    let row = |class: &str, system: &str, mean: f64| {
        let system = escape(system);
        format!(
            r#"<tr><td class="name{class}">{system}</td><td class="{class}">{mean:.2}</td></tr>"#
        )
    };
    let whole = report.macros.iter().filter(|mean| mean.benchmarks == BENCHMARKS.len());
    let reference = ScoringPolicy::Reference as usize;
    let ours: String =
        whole.map(|mean| row(" ours", &mean.system, 100.0 * mean.f1[reference])).collect();
    let averages = &published.averages;
    let theirs: String = averages
        .systems
        .iter()
        .map(|system| row("", &system.system, system.macro_average))
        .collect();
    format!(
        r#"<h3>Mean of the three questions (paper, table {})</h3><div class="scroll"><table><tr><th class="name">system</th><th>mean F1</th></tr>{ours}{theirs}</table></div>"#,
        averages.paper_table
    )
}

fn paper_table(report: &Report, table: &PublishedTable) -> String {
    let header: String =
        table.benchmarks.iter().map(|name| format!("<th>{}</th>", escape(name))).collect();
    let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |f1| format!("{f1:.2}"));
    let mut rows = String::new();
    for system in report.systems() {
        let f1 = |name: &String| {
            let found = report.summaries.iter().find(|summary| is_of(summary, system, table, name));
            found.map(|summary| 100.0 * summary.score(ScoringPolicy::Reference).f1)
        };
        let found: Vec<Option<f64>> = table.benchmarks.iter().map(f1).collect();
        let average = found.iter().copied().collect::<Option<Vec<f64>>>().map(|f1| {
            let sum: f64 = f1.iter().zip(&table.weights).map(|(f1, w)| f1 * *w as f64).sum();
            sum / table.weights.iter().sum::<u64>() as f64
        });
        let cells = found.into_iter().chain([average]);
        let cells: String =
            cells.map(|value| format!(r#"<td class="ours">{}</td>"#, cell(value))).collect();
        let _ = write!(rows, r#"<tr><td class="name ours">{}</td>{cells}</tr>"#, escape(system));
    }
    for row in &table.systems {
        let cells: String = row
            .f1
            .iter()
            .chain([&row.weighted])
            .map(|value| format!("<td>{}</td>", cell(*value)))
            .collect();
        let _ = write!(rows, r#"<tr><td class="name">{}</td>{cells}</tr>"#, escape(&row.system));
    }
    format!(
        r#"<h3>{} (paper, table {})</h3><div class="scroll"><table><tr><th class="name">system</th>{header}<th>weighted</th></tr>{rows}</table></div>"#,
        task_title(table.task),
        table.paper_table
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;

    /// Markup in every text that a model or a file can choose.
    #[test]
    fn nothing_of_a_name_is_markup() {
        let mut report = report();
        let hostile = "<img src=x onerror=alert(1)>\"'&\u{0}</script>";
        for summary in &mut report.summaries {
            summary.system = hostile.to_owned();
            summary.dataset = hostile.to_owned();
            summary.reasons.insert(hostile.to_owned(), 1);
            summary.slices[0].value = hostile.to_owned();
        }
        let html = report.to_html();
        assert!(!html.contains("<img") && !html.contains("onerror=alert(1)>"));
        assert!(!html.contains("</script>") && !html.contains('\u{0}'));
        assert!(html.contains("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;\u{fffd}"));
    }

    #[test]
    fn the_page_needs_nothing_else_and_is_well_formed() {
        let html = report().to_html();
        for foreign in ["http://", "https://", "<script", "url(", "@import", "src="] {
            assert!(!html.contains(foreign), "{foreign}");
        }
        for tag in ["svg", "table", "figure", "details", "div", "h2", "tr", "td", "text"] {
            let open = html.matches(&format!("<{tag}>")).count()
                + html.matches(&format!("<{tag} ")).count();
            assert_eq!(open, html.matches(&format!("</{tag}>")).count(), "{tag}");
        }
        assert!(html.contains("Precision and recall: mine &lt;script&gt;"));
        assert!(html.contains("Reliability"));
        assert!(!html.contains("NaN"));
    }
}
