//! The sets that the examples read, by name.

use std::path::Path;

use guard_data::{
    InMemorySource, JsonLinesSource, ReasonedFile, SampleSource, Samples, SourceError,
    TRAINING_SETS, TrainingFile, training_set,
};
use guard_eval::{BENCHMARKS, Dataset, benchmark};

use guard_infer::Exchange;
use serde::Deserialize;

use crate::lines::{self, Line, Outcome};

/// Opens a set of samples: `samples` (JSON lines), `traces`, or the name of a training set.
///
/// # Errors
///
/// When there is no such set, or the file has a name that tells no format.
pub fn open(source: &str, path: &Path) -> Outcome<Box<dyn SampleSource>> {
    Ok(match (source, training_set(source)) {
        (_, Some(set)) => Box::new(TrainingFile::open(set, path)?),
        ("samples", _) => Box::new(JsonLinesSource::new(path)),
        ("traces", _) => Box::new(ReasonedFile::open(path)?),
        _ => {
            let names = TRAINING_SETS.map(|set| set.name).join(", ");
            return Err(
                format!("unknown source `{source}`: expected samples, traces, {names}").into()
            );
        }
    })
}

/// An exchange; all else in its line is left aside.
#[derive(Deserialize)]
struct Item {
    prompt: String,
    response: Option<String>,
}

/// So many exchanges from a file of JSON lines of {"prompt": ..., "response": ...}, again and again where there are
/// fewer. Without a file, some of a made-up bank.
///
/// # Errors
///
/// When the file cannot be read, or a line is no exchange.
pub fn exchanges(path: Option<&Path>, count: usize) -> Outcome<Vec<Exchange>> {
    const BANK: &str = include_str!("../data/bank_test.jsonl");
    let items: Vec<Item> = match path {
        Some(path) => {
            let of_line = |line: Line<Item>| {
                line.record.map_err(|error| format!("{}: {error}", path.display()).into())
            };
            lines::read(path)?.into_iter().map(of_line).collect::<Outcome<_>>()?
        }
        None => BANK.lines().map(serde_json::from_str).collect::<Result<_, _>>()?,
    };
    let exchange = |item: &Item| match &item.response {
        Some(response) => Exchange::pair(&item.prompt, response),
        None => Exchange::prompt(&item.prompt),
    };
    Ok(items.iter().map(exchange).cycle().take(count).collect())
}

/// The first samples of a source.
pub struct Limited {
    source: Box<dyn SampleSource>,
    limit: usize,
}

impl Limited {
    /// At most so many; all without a limit.
    #[must_use]
    pub fn new(source: Box<dyn SampleSource>, limit: Option<usize>) -> Self {
        Self { source, limit: limit.unwrap_or(usize::MAX) }
    }
}

impl std::fmt::Debug for Limited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limited").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl SampleSource for Limited {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn samples(&self) -> Result<Samples<'_>, SourceError> {
        Ok(Box::new(self.source.samples()?.take(self.limit)))
    }
}

/// Opens NAME=FILE, a published benchmark, or FILE, an own set of samples.
///
/// # Errors
///
/// When there is no such benchmark, or its file cannot be read or has another number of rows.
pub fn open_benchmark(argument: &str) -> Outcome<Dataset> {
    let Some((name, path)) = argument.split_once('=') else {
        return Ok(Dataset::from_source(&JsonLinesSource::new(argument))?);
    };
    let known = benchmark(name).ok_or_else(|| {
        let names: Vec<&str> = BENCHMARKS.iter().map(|known| known.name).collect();
        format!("unknown benchmark `{name}`: expected one of {}", names.join(", "))
    })?;
    let dataset = Dataset::open(known, path)?;
    dataset.check_row_count()?;
    Ok(dataset)
}

/// The samples of such a benchmark.
///
/// # Errors
///
/// As [`open_benchmark`].
pub fn benchmark_samples(argument: &str) -> Outcome<InMemorySource> {
    let dataset = open_benchmark(argument)?;
    let samples = dataset.rows().iter().map(|row| row.sample.clone()).collect();
    Ok(InMemorySource::new(dataset.name(), samples))
}
