//! From a journal to the files that others read.

use std::collections::HashSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use guard_core::{PromptStyle, ReasoningMode, write_input};
use serde::Serialize;

use super::error::SynthesisError;
use super::journal::{Journal, Outcome, OutcomeReader};
use super::run::Synthesizer;
use super::transform::with_style;
use crate::reasoned::ReasonedSample;
use crate::replace::replace_file;
use crate::sample::Sample;
use crate::source::SampleSource;
use crate::statistics::StatisticsTable;
use crate::teacher::ChatClient;

/// The files of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportPaths {
    /// Where the traces go: JSON lines of `instruction`, `input` and `output`, with `id` and
    /// `source`.
    pub traces: PathBuf,
    /// Where the rows without one go: JSON lines with the reason of each.
    pub quarantine: PathBuf,
    /// How the model will be asked that learns from the traces. Default: as the published ones were.
    pub style: PromptStyle,
}

impl ExportPaths {
    /// These files.
    pub fn new(traces: impl Into<PathBuf>, quarantine: impl Into<PathBuf>) -> Self {
        let (traces, quarantine) = (traces.into(), quarantine.into());
        Self { traces, quarantine, style: PromptStyle::default() }
    }

    /// The same files, for models that are asked in this style.
    #[must_use]
    pub fn with_style(mut self, style: PromptStyle) -> Self {
        self.style = style;
        self
    }
}

/// What was exported.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Exported {
    /// Rows with a trace.
    pub traces: u64,
    /// Rows that were put aside, failed or cannot be read.
    pub quarantined: u64,
    /// Rows that were not asked for yet.
    pub missing: u64,
    /// The traces in numbers, in their whole form.
    pub statistics: StatisticsTable,
}

/// A line of the quarantine.
#[derive(Serialize)]
struct Aside<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<&'a str>,
}

impl<C: ChatClient> Synthesizer<C> {
    /// Writes the traces of a source's rows, in its order, in each of the modes and with the
    /// instructions of the paths' style, and the rows that have none. The same journal gives the same files, whatever the order of the replies was and
    /// however often runs were stopped. Files that are there are replaced when the new ones are
    /// whole.
    ///
    /// # Errors
    ///
    /// [`SynthesisError`] when the source or the journal cannot be read to its end, or a file not be
    /// written. Files that are there stay as they were then.
    pub fn export(
        &self,
        source: &dyn SampleSource,
        journal: &Journal,
        paths: &ExportPaths,
        modes: &[ReasoningMode],
    ) -> Result<Exported, SynthesisError> {
        check_paths(&[journal.path(), &paths.traces, &paths.quarantine])?;
        let mut exported = Exported::default();
        replace_file(&paths.quarantine, failed(&paths.quarantine), |aside| {
            replace_file(&paths.traces, failed(&paths.traces), |traces| {
                let mut rows = Rows {
                    exported: &mut exported,
                    outcomes: journal.reader()?,
                    traces: Lines { path: &paths.traces, out: traces },
                    aside: Lines { path: &paths.quarantine, out: aside },
                    style: paths.style,
                    modes,
                };
                self.export_rows(source, &mut rows)
            })
        })?;
        Ok(exported)
    }

    fn export_rows(
        &self,
        source: &dyn SampleSource,
        rows: &mut Rows<'_>,
    ) -> Result<(), SynthesisError> {
        let mut seen = HashSet::new();
        for sample in source.samples()? {
            let sample = match sample {
                Ok(sample) => sample,
                Err(error) if !error.is_of_row() => return Err(error.into()),
                Err(error) => {
                    rows.exported.quarantined += 1;
                    let reason = error.to_string();
                    let aside = Aside { source: None, id: None, reason, input: None, reply: None };
                    rows.aside.write(&aside)?;
                    continue;
                }
            };
            let key = self.key(&sample);
            if !seen.insert(key) {
                continue;
            }
            match rows.outcomes.read(key)? {
                Some(outcome) => rows.write(&sample, outcome)?,
                None => rows.exported.missing += 1,
            }
        }
        Ok(())
    }
}

/// Files that would replace each other.
fn check_paths(paths: &[&Path]) -> Result<(), SynthesisError> {
    let whole = |path: &Path| {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).canonicalize();
        let link = path.canonicalize();
        link.or(folder.map(|folder| folder.join(path.file_name().unwrap_or_default())))
    };
    let mut seen = HashSet::new();
    for path in paths {
        let place = whole(path).unwrap_or_else(|_| path.to_path_buf());
        if !seen.insert(place) {
            return Err(SynthesisError::SamePath { path: path.to_path_buf() });
        }
    }
    Ok(())
}

struct Rows<'a> {
    exported: &'a mut Exported,
    outcomes: OutcomeReader<'a>,
    traces: Lines<'a>,
    aside: Lines<'a>,
    style: PromptStyle,
    modes: &'a [ReasoningMode],
}

impl Rows<'_> {
    fn write(&mut self, sample: &Sample, outcome: Outcome) -> Result<(), SynthesisError> {
        let Outcome { output, rejection, reply, error, .. } = outcome;
        let Some(output) = output else {
            self.exported.quarantined += 1;
            return self.aside.write(&Aside {
                source: Some(&sample.source),
                id: Some(&sample.id),
                reason: error.or(rejection.map(|why| why.to_string())).unwrap_or_default(),
                input: Some(write_input(&sample.exchange())),
                reply: reply.as_deref(),
            });
        };
        let trace =
            ReasonedSample::new(&sample.exchange(), output).with_origin(&sample.source, &sample.id);
        self.exported.traces += 1;
        let statistics = self.exported.statistics.source(&sample.source);
        statistics.record(&trace.output, &trace.parsed().reasoning);
        let mut write = |mode| self.traces.write(&with_style(&trace, self.style, mode));
        self.modes.iter().try_for_each(|mode| write(*mode))
    }
}

struct Lines<'a> {
    path: &'a Path,
    out: &'a mut dyn Write,
}

impl Lines<'_> {
    fn write(&mut self, line: &impl Serialize) -> Result<(), SynthesisError> {
        let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            self.out.write_all(&line)
        });
        written.map_err(failed(self.path))
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> SynthesisError {
    move |source| SynthesisError::Write { path: path.to_owned(), source }
}
