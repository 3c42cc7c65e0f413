//! Scores of systems side by side, and how they are shown.

mod csv;
mod html;
mod markdown;
mod svg;
mod table;
mod terminal;

use std::collections::{BTreeMap, BTreeSet};

use guard_core::Task;
use rayon::prelude::*;
use serde::Serialize;

use crate::benchmark::BENCHMARKS;
use crate::bootstrap::Bootstrap;
use crate::compare::{Comparison, compare, holm};
use crate::confusion::Confusion;
use crate::error::EvalError;
use crate::evaluation::{Evaluation, Record};
use crate::interval::Interval;
use crate::published::Published;
use crate::scoring::ScoringPolicy;
use crate::summary::Summary;

/// The scores of one or several systems, with averages and comparisons.
///
/// It serialises to JSON; the other forms are methods.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The policy whose scores lead; the others stand beside it.
    pub policy: ScoringPolicy,
    /// Each system on each question of each dataset.
    pub summaries: Vec<Summary>,
    /// Each system over the datasets of a question.
    pub averages: Vec<Average>,
    /// Each system over all questions.
    pub macros: Vec<MacroAverage>,
    /// Each pair of systems on each question of a dataset that both answered.
    pub comparisons: Vec<PairComparison>,
    /// How the intervals were drawn.
    pub bootstrap_draws: usize,
    /// The seed of those draws.
    pub bootstrap_seed: u64,
    /// The version of this crate, whose parser read the texts.
    pub version: &'static str,
}

/// The mean over the datasets of one question, weighted by their rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Average {
    /// The system.
    pub system: String,
    /// The question.
    pub task: Task,
    /// The mean F1 under each policy, in the order of [`ScoringPolicy::ALL`].
    pub f1: [f64; 3],
    /// The interval of the strict mean, by resampling inside each dataset.
    pub f1_interval: Option<Interval>,
    /// The mean share of undetermined rows.
    pub undetermined: f64,
    /// How many datasets it is over.
    pub datasets: usize,
    /// Whether they are sets of one's own, not published benchmarks.
    pub own: bool,
    /// How many published benchmarks the question has: a mean over fewer, or over others, is
    /// not comparable with the paper's.
    pub of_paper: usize,
}

/// The plain mean of the averages of all questions over published benchmarks.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MacroAverage {
    /// The system.
    pub system: String,
    /// The mean F1 under each policy.
    pub f1: [f64; 3],
    /// How many questions it is over.
    pub tasks: usize,
    /// How many published benchmarks those averages are over, of 13.
    pub benchmarks: usize,
}

/// Two systems on one question of one dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PairComparison {
    /// The first system.
    pub first: String,
    /// The second system.
    pub second: String,
    /// The dataset.
    pub dataset: String,
    /// The question.
    pub task: Task,
    /// The difference, strictly scored; `None` when the two did not judge the same texts.
    pub comparison: Option<Comparison>,
    /// The p-value, adjusted for all questions and datasets on which these two are compared.
    /// Where more than two systems are compared, nothing is adjusted for the other pairs.
    pub adjusted_p: Option<f64>,
}

impl Report {
    /// Sums up evaluations; `policy` leads.
    ///
    /// # Errors
    ///
    /// [`EvalError::Repeated`] when a system has two results on one question of one dataset.
    pub fn new(
        evaluations: &[Evaluation],
        policy: ScoringPolicy,
        bootstrap: Bootstrap,
    ) -> Result<Self, EvalError> {
        let mut questions: Vec<(&Evaluation, Task)> = evaluations
            .iter()
            .flat_map(|evaluation| evaluation.tasks().iter().map(move |task| (evaluation, *task)))
            .collect();
        // Systems stand side by side, whatever the order in which they were judged.
        let first = |dataset: &str| evaluations.iter().position(|e| e.dataset() == dataset);
        questions.sort_by_key(|(evaluation, task)| (*task, first(evaluation.dataset())));
        check_repeated(&questions)?;
        let summaries: Vec<Summary> = questions
            .par_iter()
            .map(|(evaluation, task)| Summary::new(evaluation, *task, bootstrap))
            .collect();
        let averages = averages(&summaries);
        Ok(Self {
            policy,
            macros: macros(&averages),
            averages,
            comparisons: comparisons(&questions, bootstrap),
            summaries,
            bootstrap_draws: bootstrap.draws,
            bootstrap_seed: bootstrap.seed,
            version: env!("CARGO_PKG_VERSION"),
        })
    }

    /// The systems, in the order in which they came.
    #[must_use]
    pub fn systems(&self) -> Vec<&str> {
        let mut systems: Vec<&str> = Vec::new();
        for summary in &self.summaries {
            if !systems.contains(&summary.system.as_str()) {
                systems.push(&summary.system);
            }
        }
        systems
    }

    /// Tables for a terminal, in plain text.
    #[must_use]
    pub fn to_text(&self) -> String {
        terminal::render(self)
    }

    /// The same tables in Markdown.
    #[must_use]
    pub fn to_markdown(&self) -> String {
        markdown::render(self)
    }

    /// One line for each system, question, dataset and policy.
    #[must_use]
    pub fn to_csv(&self) -> String {
        csv::render(self)
    }

    /// One page with tables and pictures that needs nothing else: no script, no font, no network.
    /// Text of models and datasets is escaped.
    #[must_use]
    pub fn to_html(&self) -> String {
        html::render(self, &Published::paper())
    }
}

fn check_repeated(questions: &[(&Evaluation, Task)]) -> Result<(), EvalError> {
    let mut seen = BTreeSet::new();
    for (evaluation, task) in questions {
        if !seen.insert((evaluation.system(), evaluation.dataset(), *task)) {
            return Err(EvalError::Repeated {
                system: evaluation.system().to_owned(),
                dataset: evaluation.dataset().to_owned(),
                task: *task,
            });
        }
    }
    Ok(())
}

/// Published benchmarks and sets of one's own are averaged apart: a mean over both would look
/// like the paper's and be none.
fn averages(summaries: &[Summary]) -> Vec<Average> {
    let mut groups: BTreeMap<(Task, bool, usize), Vec<&Summary>> = BTreeMap::new();
    let mut systems: Vec<&str> = Vec::new();
    // An F1 that is not defined is no 0: it takes no part.
    let defined = |summary: &&Summary| summary.supported && summary.scores[0].f1_defined;
    for summary in summaries.iter().filter(defined) {
        let place = systems.iter().position(|system| *system == summary.system);
        let place = place.unwrap_or_else(|| {
            systems.push(&summary.system);
            systems.len() - 1
        });
        let own = summary.benchmark.is_none();
        groups.entry((summary.task, own, place)).or_default().push(summary);
    }
    groups
        .into_iter()
        .map(|((task, own, system), group)| average(systems[system], task, own, &group))
        .collect()
}

fn average(system: &str, task: Task, own: bool, group: &[&Summary]) -> Average {
    let total: f64 = group.iter().map(|summary| summary.weight() as f64).sum();
    let mean = |value: &dyn Fn(&Summary) -> f64| {
        group.iter().map(|summary| summary.weight() as f64 * value(summary)).sum::<f64>() / total
    };
    let draws = group.iter().map(|summary| summary.draws.len()).min().unwrap_or(0);
    let draws: Vec<f64> = (0..draws).map(|draw| mean(&|summary| summary.draws[draw])).collect();
    Average {
        system: system.to_owned(),
        task,
        f1: ScoringPolicy::ALL.map(|policy| mean(&|summary| summary.score(policy).f1)),
        f1_interval: Interval::of_draws(&draws),
        undetermined: mean(&|summary| summary.undetermined),
        datasets: group.len(),
        own,
        of_paper: BENCHMARKS.iter().filter(|benchmark| benchmark.task == task).count(),
    }
}

fn macros(averages: &[Average]) -> Vec<MacroAverage> {
    let mut macros: Vec<MacroAverage> = Vec::new();
    for average in averages.iter().filter(|average| !average.own) {
        let sum = |sum: [f64; 3]| [0, 1, 2].map(|policy| sum[policy] + average.f1[policy]);
        match macros.iter_mut().find(|found| found.system == average.system) {
            Some(found) => {
                found.f1 = sum(found.f1);
                found.tasks += 1;
                found.benchmarks += average.datasets;
            }
            None => macros.push(MacroAverage {
                system: average.system.clone(),
                f1: average.f1,
                tasks: 1,
                benchmarks: average.datasets,
            }),
        }
    }
    for found in &mut macros {
        found.f1 = found.f1.map(|sum| sum / found.tasks as f64);
    }
    macros
}

fn comparisons(questions: &[(&Evaluation, Task)], bootstrap: Bootstrap) -> Vec<PairComparison> {
    let mut pairs = Vec::new();
    for (place, (first, task)) in questions.iter().enumerate() {
        for (second, other) in &questions[place + 1..] {
            let same = first.dataset() == second.dataset() && task == other;
            if same && first.supports(*task) && second.supports(*task) {
                pairs.push((*first, *second, *task, pair_rows(first, second, *task)));
            }
        }
    }
    let mut comparisons: Vec<PairComparison> = pairs
        .into_par_iter()
        .map(|(first, second, task, rows)| {
            let seeded = bootstrap.named(&format!("{} {task}", first.dataset()));
            let comparison = rows.map(|rows| compare(&rows, &seeded));
            PairComparison {
                first: first.system().to_owned(),
                second: second.system().to_owned(),
                dataset: first.dataset().to_owned(),
                task,
                comparison,
                adjusted_p: comparison.map(|found| found.p_value),
            }
        })
        .collect();
    adjust(&mut comparisons);
    comparisons
}

/// Holm's correction over all tests of the same two systems, whichever is named first.
fn adjust(comparisons: &mut [PairComparison]) {
    let mut families: BTreeMap<[String; 2], Vec<(usize, f64)>> = BTreeMap::new();
    for (place, found) in comparisons.iter().enumerate() {
        let mut pair = [found.first.clone(), found.second.clone()];
        pair.sort();
        families.entry(pair).or_default().extend(found.adjusted_p.map(|p| (place, p)));
    }
    for family in families.into_values() {
        let p_values: Vec<f64> = family.iter().map(|(_, p)| *p).collect();
        for ((place, _), adjusted) in family.into_iter().zip(holm(&p_values)) {
            comparisons[place].adjusted_p = Some(adjusted);
        }
    }
}

/// Both systems' strict counts of each labelled row, put together by their texts; `None` if they
/// did not judge the same ones.
fn pair_rows(first: &Evaluation, second: &Evaluation, task: Task) -> Option<Vec<PairedRow>> {
    let mut others: BTreeMap<[u8; 32], Vec<&Record>> = BTreeMap::new();
    for record in second.records() {
        others.entry(record.text).or_default().push(record);
    }
    let count = |record: &Record, positive| {
        let policy = ScoringPolicy::Strict;
        policy.count(task, positive, record.answer(task, policy))
    };
    let mut pairs = Vec::new();
    for record in first.records() {
        // Equal texts may have unequal labels: the rows that belong together agree in both.
        let equal = others.get_mut(&record.text)?;
        let other = equal.swap_remove(equal.iter().position(|o| o.truth == record.truth)?);
        if let Some(positive) = record.truth.positive(task) {
            pairs.push((record.cluster, [count(record, positive), count(other, positive)]));
        }
    }
    (first.records().len() == second.records().len()).then_some(pairs)
}

/// The cluster of a row, and what it counts as for either system.
type PairedRow = (u32, [Confusion; 2]);

#[cfg(test)]
pub(crate) mod tests {
    use guard_core::{Answer, Harm, Judged, Labels, Verdict};
    use guard_data::{InMemorySource, Sample};

    use super::*;
    use crate::benchmark::Dataset;
    use crate::prediction::Prediction;

    /// A system of this name that is right on all rows but the first `wrong`, and says nothing
    /// on the last one.
    pub(crate) fn evaluation(system: &str, wrong: usize) -> Evaluation {
        in_order(system, wrong, 0..60)
    }

    fn in_order(system: &str, wrong: usize, order: impl Iterator<Item = usize>) -> Evaluation {
        let labels = |row: usize| {
            let harm = if row.is_multiple_of(3) { Harm::Harmful } else { Harm::Unharmful };
            Labels { request: Some(harm), ..Labels::default() }
        };
        let sample = |row: usize| {
            Sample::new(row.to_string(), "mine", format!("text <b>{row}</b>"))
                .with_labels(labels(row))
        };
        let source = InMemorySource::new("mine <script>", order.map(sample).collect());
        let dataset = Dataset::from_source(&source).unwrap();
        let predictions: Vec<Prediction> = dataset
            .rows()
            .iter()
            .map(|known| {
                let row: usize = known.sample.id.parse().unwrap();
                let truth = known.sample.labels.request.unwrap();
                let said = match (row < wrong, truth) {
                    (false, truth) => truth,
                    (true, Harm::Harmful) => Harm::Unharmful,
                    (true, Harm::Unharmful) => Harm::Harmful,
                };
                let score = if said == Harm::Harmful { 0.9 } else { 0.1 };
                let request = match row {
                    59 => Judged::new(Answer::Undetermined(guard_core::Reason::NoAnswers)),
                    _ => Judged::new(Answer::Given(said)).with_score(score),
                };
                let mut line = Prediction::new(&known.sample.prompt, "", "");
                line.id = Some(row.to_string());
                line.verdict =
                    Some(Verdict::new(request, Answer::NotApplicable, Answer::NotApplicable));
                line
            })
            .collect();
        Evaluation::of_dataset(system, &dataset, &predictions).unwrap()
    }

    pub(crate) fn report() -> Report {
        let evaluations = [evaluation("good & fast", 2), evaluation("bad", 20)];
        let bootstrap = Bootstrap { draws: 200, seed: 0 };
        Report::new(&evaluations, ScoringPolicy::Strict, bootstrap).unwrap()
    }

    #[test]
    fn systems_are_averaged_and_compared() {
        let report = report();
        assert_eq!(report.systems(), ["good & fast", "bad"]);
        assert_eq!(report.averages.len(), 2);
        assert!(report.macros.is_empty());
        let average = &report.averages[0];
        assert_eq!((average.datasets, average.own, average.of_paper), (1, true, 6));
        let [pair] = report.comparisons.as_slice() else { panic!("{:?}", report.comparisons) };
        let found = pair.comparison.unwrap();
        assert_eq!((found.only_first_right, found.only_second_right), (18, 0));
        assert!(pair.adjusted_p.unwrap() < 1e-4 && found.f1_difference > 0.1);
    }

    #[test]
    fn systems_are_compared_by_text_whatever_the_order_of_rows() {
        let bootstrap = Bootstrap { draws: 200, seed: 0 };
        let compared = |second| {
            let evaluations = [evaluation("good", 2), second];
            let report = Report::new(&evaluations, ScoringPolicy::Strict, bootstrap).unwrap();
            report.comparisons[0].comparison.map(|found| (found.only_first_right, found.p_value))
        };
        let turned = in_order("bad", 20, (0..60).rev());
        assert_eq!(compared(turned), compared(evaluation("bad", 20)));
        assert_eq!(compared(in_order("bad", 20, 0..59)), None);
    }

    #[test]
    fn one_result_counted_twice_is_refused() {
        let twice = [evaluation("x", 2), evaluation("x", 3)];
        let error = Report::new(&twice, ScoringPolicy::Strict, Bootstrap::default()).unwrap_err();
        assert!(error.to_string().starts_with("`x` has two results on `mine <script>`"), "{error}");
    }

    #[test]
    fn an_average_is_weighted_by_rows() {
        let mut summaries = report().summaries;
        summaries[1].system = summaries[0].system.clone();
        summaries[1].labelled = 180;
        let averages = averages(&summaries);
        assert_eq!(averages.len(), 1);
        let average = &averages[0];
        let f1 = |place: usize| summaries[place].scores[0].f1;
        assert!((average.f1[0] - (60.0 * f1(0) + 180.0 * f1(1)) / 240.0).abs() < 1e-12);
    }

    #[test]
    fn fault_t63_the_order_of_rows_changes_nothing() {
        let bootstrap = Bootstrap { draws: 200, seed: 0 };
        let json = |evaluation| {
            let report = Report::new(&[evaluation], ScoringPolicy::Strict, bootstrap).unwrap();
            serde_json::to_value(&report).unwrap()
        };
        let forward = json(evaluation("x", 20));
        assert_eq!(forward["summaries"][0]["reasons"]["no block of answers"], 1);
        assert_eq!(forward, json(in_order("x", 20, (0..60).rev())));
    }
}
