//! The sets that the examples read, by name.

use std::path::Path;

use guard_data::{
    InMemorySource, JsonLinesSource, ReasonedFile, SampleSource, Samples, SourceError,
    TRAINING_SETS, TrainingFile, training_set,
};
use guard_eval::{BENCHMARKS, Dataset, benchmark};

use crate::lines::Outcome;

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
