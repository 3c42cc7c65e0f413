//! What a system said about the rows of a benchmark, beside what is true.

use std::collections::HashMap;

use guard_core::parse::{ReleasedAnswers, parse_output, released_answers};
use guard_core::{
    Answer, Exchange, INSTRUCTION, Labels, PromptStyle, Reason, Task, Verdict, read_input,
};
use guard_data::Sample;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use crate::benchmark::{Benchmark, Dataset, labels};
use crate::error::EvalError;
use crate::metric::Metric;
use crate::prediction::Prediction;
use crate::scoring::ScoringPolicy;

/// One system on one benchmark: everything that scores are made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    system: String,
    dataset: String,
    benchmark: Option<&'static Benchmark>,
    tasks: Vec<Task>,
    records: Vec<Record>,
    fingerprint: String,
    /// Wall time of the judging, where it was measured.
    pub(crate) wall_seconds: Option<f64>,
}

/// One row of an evaluation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Record {
    /// The id of the row.
    pub id: String,
    /// The number of its request: rows with equal requests have the same, and are resampled
    /// together.
    pub cluster: u32,
    /// The SHA-256 of its prompt, by which two systems' rows are put together.
    pub(crate) text: [u8; 32],
    /// What is true.
    pub truth: Labels,
    /// What the system said, without its reasoning.
    pub verdict: Verdict,
    /// What the released script reads from the system's text, where there is one.
    pub released: Option<ReleasedAnswers>,
    /// Why there is no verdict, if the system failed.
    pub error: Option<String>,
    /// What the row belongs to, for breakdowns.
    pub slices: Vec<(String, String)>,
}

impl Record {
    /// Whether the system gave the positive label; `None` without a label. The policy
    /// `reference` reads texts by its own rule.
    #[must_use]
    pub fn answer(&self, task: Task, policy: ScoringPolicy) -> Option<bool> {
        let answer = match (policy, self.released) {
            (ScoringPolicy::Reference, Some(released)) => released.answer(task),
            _ => self.verdict.answer(task),
        };
        answer.given()
    }
}

impl Evaluation {
    /// Stored predictions of a published benchmark, with the labels that the file itself gives.
    ///
    /// # Errors
    ///
    /// [`EvalError::RowCount`] and [`EvalError::Positives`] when the benchmark has another number
    /// of rows or of positive ones, [`EvalError::Label`] for a line without a label of its task,
    /// [`EvalError::RepeatedId`] when two lines have one id.
    pub fn of_predictions(
        system: impl Into<String>,
        benchmark: &'static Benchmark,
        predictions: &[Prediction],
    ) -> Result<Self, EvalError> {
        let found = predictions.len() as u64;
        if let Some(expected) = benchmark.rows.filter(|expected| *expected != found) {
            return Err(EvalError::RowCount { name: benchmark.name.to_owned(), expected, found });
        }
        let requests: Vec<String> =
            predictions.par_iter().map(|prediction| request(&prediction.prompt)).collect();
        let rows = predictions.par_iter().zip(clusters(&requests)).zip(&requests).enumerate();
        let records = rows.map(|(row, ((prediction, cluster), request))| {
            let truth = labels(benchmark.task, &prediction.label)
                .ok_or_else(|| EvalError::Label { name: benchmark.name.to_owned(), row })?;
            let id = prediction.id.clone().unwrap_or_else(|| row.to_string());
            let slices = vec![length_slice(request)];
            Ok(record(id, cluster, truth, slices, prediction))
        });
        let records = records.collect::<Result<Vec<Record>, EvalError>>()?;
        check_ids(benchmark.name, records.iter().map(|record| record.id.as_str()))?;
        let positive = |record: &&Record| record.truth.positive(benchmark.task) == Some(true);
        let found = records.iter().filter(positive).count() as u64;
        if let Some(expected) = benchmark.positives.filter(|expected| *expected != found) {
            return Err(EvalError::Positives { name: benchmark.name.to_owned(), expected, found });
        }
        let (system, dataset) = (system.into(), benchmark.name.to_owned());
        Ok(Self {
            system,
            dataset,
            benchmark: Some(benchmark),
            tasks: vec![benchmark.task],
            records,
            fingerprint: fingerprint(predictions),
            wall_seconds: None,
        })
    }

    /// Predictions beside the dataset that they are about. They are matched by id, or by their
    /// order where they have none.
    ///
    /// # Errors
    ///
    /// [`EvalError::RowCount`] when they are not as many as the rows; [`EvalError::Mismatch`]
    /// when one belongs to no row, twice to the same, or was made from another text.
    pub fn of_dataset(
        system: impl Into<String>,
        dataset: &Dataset,
        predictions: &[Prediction],
    ) -> Result<Self, EvalError> {
        let (expected, found) = (dataset.rows().len(), predictions.len());
        if expected != found {
            let name = dataset.name().to_owned();
            return Err(EvalError::RowCount {
                name,
                expected: expected as u64,
                found: found as u64,
            });
        }
        let mismatch = |prediction: usize, what| EvalError::Mismatch {
            dataset: dataset.name().to_owned(),
            prediction,
            what,
        };
        let places = by_id(dataset);
        let mut of_row: Vec<Option<&Prediction>> = vec![None; expected];
        for (index, prediction) in predictions.iter().enumerate() {
            let place = match &prediction.id {
                Some(id) => {
                    *places.get(id.as_str()).ok_or_else(|| mismatch(index, "unknown id"))?
                }
                None => index,
            };
            let sample = &dataset.rows()[place].sample;
            if !is_about(&prediction.prompt, sample) {
                return Err(mismatch(index, "its prompt is not the row's"));
            }
            if of_row[place].replace(prediction).is_some() {
                return Err(mismatch(index, "a second prediction for its row"));
            }
        }
        let clusters = clusters(dataset.rows().iter().map(|row| &row.sample.prompt));
        let rows = dataset.rows().iter().zip(of_row).zip(clusters);
        let records = rows.filter_map(|((row, prediction), cluster)| {
            let mut slices = row.slices.clone();
            slices.push(length_slice(&row.sample.prompt));
            Some(record(row.sample.id.clone(), cluster, row.sample.labels, slices, prediction?))
        });
        Ok(Self {
            system: system.into(),
            dataset: dataset.name().to_owned(),
            benchmark: dataset.benchmark(),
            tasks: dataset.tasks(),
            records: records.collect(),
            fingerprint: fingerprint(predictions),
            wall_seconds: None,
        })
    }

    /// The name of the system.
    #[must_use]
    pub fn system(&self) -> &str {
        &self.system
    }

    /// The name of the dataset.
    #[must_use]
    pub fn dataset(&self) -> &str {
        &self.dataset
    }

    /// What is known of the dataset, if it is a published benchmark.
    #[must_use]
    pub fn benchmark(&self) -> Option<&'static Benchmark> {
        self.benchmark
    }

    /// The questions that are scored.
    #[must_use]
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// Whether the system answers this question at all.
    #[must_use]
    pub fn supports(&self, task: Task) -> bool {
        let answer = |record: &Record| record.verdict.answer(task);
        self.records.iter().any(|record| answer(record) != Answer::Unsupported)
    }

    /// The rows.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The SHA-256 of the predictions that were scored, whatever their order.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Shows all rows to a metric of one's own.
    pub fn feed(&self, metric: &mut dyn Metric) {
        self.records.iter().for_each(|record| metric.record(&record.truth, &record.verdict));
    }
}

fn fingerprint(predictions: &[Prediction]) -> String {
    let line = |prediction: &Prediction| {
        // A prediction is plain data, which always has a JSON form.
        Sha256::digest(serde_json::to_vec(prediction).unwrap_or_default())
    };
    let mut lines: Vec<_> = predictions.par_iter().map(line).collect();
    lines.sort_unstable();
    let whole = lines.into_iter().fold(Sha256::new(), |hash, line| hash.chain_update(line));
    whole.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn by_id(dataset: &Dataset) -> HashMap<&str, usize> {
    let ids = dataset.rows().iter().enumerate();
    ids.map(|(place, row)| (row.sample.id.as_str(), place)).collect()
}

/// The prompt of an exchange as the reference's files have it.
pub(crate) fn rendered(exchange: &Exchange) -> String {
    PromptStyle::Benchmark.render(exchange).to_string()
}

/// Whether a prompt, in whatever form, asks about the sample.
fn is_about(prompt: &str, sample: &Sample) -> bool {
    let holds = |text: &str| prompt.contains(text);
    let response = sample.response.as_deref();
    prompt == rendered(&sample.exchange())
        || (!prompt.starts_with(INSTRUCTION)
            && !sample.prompt.is_empty()
            && holds(&sample.prompt)
            && response.is_none_or(holds))
}

/// Refuses ids that occur twice.
pub(crate) fn check_ids<'a>(
    dataset: &str,
    ids: impl Iterator<Item = &'a str>,
) -> Result<(), EvalError> {
    let mut seen = HashMap::new();
    for (row, id) in ids.enumerate() {
        if let Some(first) = seen.insert(id, row) {
            return Err(EvalError::RepeatedId { dataset: dataset.to_owned(), rows: [first, row] });
        }
    }
    Ok(())
}

fn record(
    id: String,
    cluster: u32,
    truth: Labels,
    slices: Vec<(String, String)>,
    prediction: &Prediction,
) -> Record {
    let verdict = match (&prediction.error, &prediction.verdict) {
        (Some(_), _) => Verdict::undetermined(Reason::Failed),
        (None, Some(verdict)) => verdict.clone(),
        (None, None) => read_text(&prediction.predict),
    };
    let text = &prediction.predict;
    let released = (!text.is_empty()).then(|| released_answers(text));
    let text = Sha256::digest(&prediction.prompt).into();
    Record { id, cluster, text, truth, verdict, released, error: prediction.error.clone(), slices }
}

/// The verdict that a stored text says. How it ended is not known.
fn read_text(text: &str) -> Verdict {
    let parsed = parse_output(text);
    let mut verdict = Verdict::new(parsed.request, parsed.completion, parsed.response);
    verdict.consistent = parsed.consistent();
    verdict
}

/// The request in a stored prompt, or the whole of a prompt in another form.
fn request(prompt: &str) -> String {
    let input = prompt.strip_prefix(INSTRUCTION).map(|rest| rest.trim_start_matches('\n'));
    let exchange = input.and_then(read_input);
    exchange.map_or_else(|| prompt.to_owned(), |exchange| exchange.request().to_owned())
}

/// The length of a prompt, as a dimension of breakdowns.
fn length_slice(prompt: &str) -> (String, String) {
    let bucket = match prompt.chars().count() {
        0..250 => "under 250 characters",
        250..1000 => "250 to 999 characters",
        1000..4000 => "1,000 to 3,999 characters",
        _ => "4,000 characters or more",
    };
    ("prompt length".to_owned(), bucket.to_owned())
}

/// Numbers for texts, the same for equal ones.
fn clusters<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<u32> {
    let mut numbers: HashMap<&String, u32> = HashMap::new();
    let number = |text| {
        let next = numbers.len() as u32;
        *numbers.entry(text).or_insert(next)
    };
    texts.into_iter().map(number).collect()
}

#[cfg(test)]
mod tests {
    use guard_core::Harm;
    use guard_data::{InMemorySource, Sample};

    use super::*;
    use crate::benchmark::benchmark;

    fn dataset(prompts: &[&str]) -> Dataset {
        let labels = Labels { request: Some(Harm::Harmful), ..Labels::default() };
        let samples = prompts.iter().enumerate().map(|(id, prompt)| {
            Sample::new(format!("row-{id}"), "mine", *prompt).with_labels(labels)
        });
        Dataset::from_source(&InMemorySource::new("mine", samples.collect())).unwrap()
    }

    fn prediction(prompt: &str, id: Option<&str>) -> Prediction {
        let mut line =
            Prediction::new(format!("instruction {prompt}"), "harmful", "Request: harmful");
        line.id = id.map(str::to_owned);
        line
    }

    #[test]
    fn fault_t64_predictions_find_their_rows_by_id_or_order() {
        let dataset = dataset(&["a", "b"]);
        let by_order = [prediction("a", None), prediction("b", None)];
        let by_id = [prediction("b", Some("row-1")), prediction("a", Some("row-0"))];
        for lines in [by_order, by_id] {
            let evaluation = Evaluation::of_dataset("x", &dataset, &lines).unwrap();
            let ids: Vec<&str> = evaluation.records().iter().map(|r| r.id.as_str()).collect();
            assert_eq!(ids, ["row-0", "row-1"]);
        }
        let refused = |lines: &[Prediction]| {
            Evaluation::of_dataset("x", &dataset, lines).unwrap_err().to_string()
        };
        let count = refused(&[prediction("a", None)]);
        assert_eq!(count, "`mine` has 1 rows, expected 2");
        assert!(refused(&[prediction("b", None), prediction("a", None)]).contains("not the row's"));
        let twice = [prediction("a", Some("row-0")), prediction("a", Some("row-0"))];
        assert!(refused(&twice).contains("second prediction"));
        let unknown = [prediction("a", Some("row-0")), prediction("b", Some("row-9"))];
        assert!(refused(&unknown).contains("unknown id"));
    }

    #[test]
    fn equal_texts_are_one_cluster() {
        let dataset = dataset(&["a", "b", "a"]);
        let lines = [prediction("a", None), prediction("b", None), prediction("a", None)];
        let evaluation = Evaluation::of_dataset("x", &dataset, &lines).unwrap();
        let clusters: Vec<u32> = evaluation.records().iter().map(|r| r.cluster).collect();
        assert_eq!(clusters, [0, 1, 0]);
    }

    #[test]
    fn a_file_of_another_length_is_no_benchmark() {
        let aegis = benchmark("AegisSafetyTest").unwrap();
        let error = Evaluation::of_predictions("x", aegis, &[prediction("a", None)]).unwrap_err();
        assert_eq!(error.to_string(), "`AegisSafetyTest` has 1 rows, expected 359");
    }
}
