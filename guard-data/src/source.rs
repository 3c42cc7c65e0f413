//! Where samples come from.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::row::RowFault;
use crate::sample::Sample;
use crate::table::TableFormat;

/// The samples of a source, in its order. An item that fails leaves the others alone.
pub type Samples<'a> = Box<dyn Iterator<Item = Result<Sample, SourceError>> + Send + 'a>;

/// Something that gives samples: a file, a published set, a database, or a list in memory.
///
/// The trait is object-safe, and a source and its samples can move to another thread.
///
/// ```
/// use guard_data::{Sample, SampleSource, Samples, SourceError};
///
/// /// The requests that an operator wrote down, one a line.
/// #[derive(Debug)]
/// struct Requests(&'static str);
///
/// impl SampleSource for Requests {
///     fn name(&self) -> &str {
///         "requests"
///     }
///
///     fn samples(&self) -> Result<Samples<'_>, SourceError> {
///         let lines = self.0.lines().enumerate();
///         Ok(Box::new(lines.map(|(id, line)| Ok(Sample::new(id.to_string(), "requests", line)))))
///     }
/// }
///
/// assert_eq!(Requests("hi\nhello").samples()?.count(), 2);
/// # Ok::<(), SourceError>(())
/// ```
pub trait SampleSource: Send + Sync {
    /// The name of the source in logs and reports.
    fn name(&self) -> &str;

    /// The samples from the first one on, however often it is called.
    ///
    /// # Errors
    ///
    /// [`SourceError`] when the source cannot be opened at all. A sample that cannot be read is
    /// an item of the iterator.
    fn samples(&self) -> Result<Samples<'_>, SourceError>;
}

impl<S: SampleSource + ?Sized> SampleSource for Arc<S> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn samples(&self) -> Result<Samples<'_>, SourceError> {
        (**self).samples()
    }
}

/// Why a source, or one of its samples, cannot be read. The messages hold no text of a sample.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: `open` or `read`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The name of a file tells no format that can be read.
    #[error("{}: {}", path.display(), unreadable(*format))]
    Format {
        /// The file.
        path: PathBuf,
        /// The format, where it is known and its feature is not built.
        format: Option<TableFormat>,
    },
    /// A row of a file is no sample.
    #[error("{}:{line}: {fault}", path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The line, or the row of a file without lines, from 1; 0 for the file's own header.
        line: u64,
        /// What is wrong with it.
        fault: RowFault,
    },
    /// An observer ended the work.
    #[error("stopped after {done} rows")]
    Stopped {
        /// The rows that were done.
        done: u64,
    },
    /// A source that is not of this crate failed.
    #[error("the source `{name}` failed")]
    Other {
        /// The name of the source.
        name: String,
        /// What it said.
        source: Box<dyn Error + Send + Sync>,
    },
}

fn unreadable(format: Option<TableFormat>) -> &'static str {
    match format {
        Some(_) => "this program was built without the feature `parquet`",
        None => "expected .csv, .jsonl, .json (each also .gz or .xz) or .parquet",
    }
}

impl SourceError {
    /// Whether one row is at fault and those behind it are read, as far as that can be told.
    #[must_use]
    pub fn is_of_row(&self) -> bool {
        let breaks_off = |fault: &RowFault| {
            matches!(fault, RowFault::Parquet | RowFault::NotAnArray | RowFault::FileTooLong { .. })
        };
        matches!(self, Self::Row { fault, .. } if !breaks_off(fault))
    }

    pub(crate) fn row(path: &Path, line: u64, fault: RowFault) -> Self {
        Self::Row { path: path.to_owned(), line, fault }
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}

/// Samples that are already in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InMemorySource {
    name: String,
    samples: Vec<Sample>,
}

impl InMemorySource {
    /// A source of these samples.
    pub fn new(name: impl Into<String>, samples: Vec<Sample>) -> Self {
        Self { name: name.into(), samples }
    }

    /// The samples again.
    #[must_use]
    pub fn into_samples(self) -> Vec<Sample> {
        self.samples
    }
}

impl SampleSource for InMemorySource {
    fn name(&self) -> &str {
        &self.name
    }

    fn samples(&self) -> Result<Samples<'_>, SourceError> {
        Ok(Box::new(self.samples.iter().cloned().map(Ok)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only while the trait is object-safe and its objects can change threads.
    fn on_another_thread(source: Arc<dyn SampleSource>) -> usize {
        std::thread::spawn(move || source.samples().map_or(0, Iterator::count)).join().unwrap()
    }

    #[test]
    fn a_source_in_memory_can_be_read_twice() {
        let samples = vec![Sample::new("1", "s", "a"), Sample::new("2", "s", "b")];
        let source = InMemorySource::new("mine", samples.clone());
        for _ in 0..2 {
            let read: Result<Vec<_>, _> = source.samples().unwrap().collect();
            assert_eq!(read.unwrap(), samples);
        }
        assert_eq!(source.name(), "mine");
        assert_eq!(on_another_thread(Arc::new(source)), 2);
    }

    #[test]
    fn the_cause_of_a_foreign_failure_is_kept() {
        let cause = std::io::Error::other("no such table");
        let error = SourceError::Other { name: "db".to_owned(), source: Box::new(cause) };
        assert_eq!(error.to_string(), "the source `db` failed");
        assert_eq!(error.source().unwrap().to_string(), "no such table");
    }
}
