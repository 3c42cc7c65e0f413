//! Reasoned samples: what a guard reads and the reasoning and answers that it is to write.

use std::fmt;
use std::path::{Path, PathBuf};

use guard_core::parse::{ParsedOutput, parse_output};
use guard_core::{Exchange, INSTRUCTION, Labels, read_input, write_input};
use serde::{Deserialize, Serialize};

use crate::row::RowFault;
use crate::sample::Sample;
use crate::source::{SampleSource, Samples, SourceError};
use crate::table::{TableFile, TableRow};

/// One row of a training set, in the fields of GuardReasonerTrain (paper, section 2.1), which
/// LLaMA-Factory reads as well.
///
/// Its texts are untrusted, so `Debug` shows their lengths only.
///
/// ```
/// use guard_data::{Exchange, Harm, ReasonedSample};
///
/// let sample = ReasonedSample::new(&Exchange::prompt("How is bread baked?"),
///     "# Task 1\n\n## Reasoning Step 1\nBread is food.\n\nAnswers: \nRequest: unharmful\n\
///      Completion: None\nResponse: None\n");
/// assert_eq!(sample.labels().request, Some(Harm::Unharmful));
/// assert_eq!(sample.exchange(), Some(Exchange::prompt("How is bread baked?")));
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReasonedSample {
    /// What the model is told to do. The model reads it, a newline, and the input.
    pub instruction: String,
    /// The exchange, as [`read_input`] reads it.
    pub input: String,
    /// The reasoning and the block of answers.
    pub output: String,
    /// The id of the sample that it was made of, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The set of that sample, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl ReasonedSample {
    /// A sample with the published instruction.
    pub fn new(exchange: &Exchange, output: impl Into<String>) -> Self {
        Self {
            instruction: INSTRUCTION.to_owned(),
            input: write_input(exchange),
            output: output.into(),
            id: None,
            source: None,
        }
    }

    /// The same sample with where it comes from.
    #[must_use]
    pub fn with_origin(mut self, source: impl Into<String>, id: impl Into<String>) -> Self {
        self.source = Some(source.into());
        self.id = Some(id.into());
        self
    }

    /// The exchange that the input holds; `None` when it is of another form.
    #[must_use]
    pub fn exchange(&self) -> Option<Exchange> {
        read_input(&self.input)
    }

    /// The reasoning and the answers of the output.
    #[must_use]
    pub fn parsed(&self) -> ParsedOutput {
        parse_output(&self.output)
    }

    /// The labels that the output gives, with those of a response only where there is one.
    #[must_use]
    pub fn labels(&self) -> Labels {
        let has_response = self.exchange().is_some_and(|exchange| exchange.response().is_some());
        labels_of(&self.parsed(), has_response)
    }

    pub(crate) fn from_row(mut row: TableRow) -> Result<Self, RowFault> {
        Ok(Self {
            instruction: row.take_string("instruction")?,
            input: row.take_string("input")?,
            output: row.take_string("output")?,
            id: row.take_id("id")?,
            source: row.take_optional_string("source")?,
        })
    }
}

/// The labels of a parsed output. Whatever it says of a response that is not there is dropped: the
/// published rows disagree on it (`None` in some, a refusal in others).
pub(crate) fn labels_of(parsed: &ParsedOutput, has_response: bool) -> Labels {
    Labels {
        request: parsed.request.given(),
        completion: parsed.completion.given().filter(|_| has_response),
        response: parsed.response.given().filter(|_| has_response),
    }
}

impl fmt::Debug for ReasonedSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReasonedSample")
            .field("source", &self.source)
            .field("id", &self.id)
            .field("instruction", &self.instruction.len())
            .field("input", &self.input.len())
            .field("output", &self.output.len())
            .finish()
    }
}

/// The reasoned samples of a source, each with its row from 1. One that fails leaves the others
/// alone.
pub type ReasonedSamples<'a> =
    Box<dyn Iterator<Item = (u64, Result<ReasonedSample, SourceError>)> + Send + 'a>;

/// A file of reasoned samples: JSON lines, a JSON array or Parquet.
///
/// As a [`SampleSource`] it gives the exchanges with the labels of their outputs. A sample is named
/// by its `id` field, or by its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReasonedFile {
    name: String,
    table: TableFile,
}

impl ReasonedFile {
    /// The file of this name; the source is named like the file. Nothing is read yet.
    ///
    /// # Errors
    ///
    /// [`SourceError::Format`] when the name does not tell a known format.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, SourceError> {
        let table = TableFile::open(path)?;
        let name = table.path().file_name().unwrap_or_default().to_string_lossy();
        let name = name.split('.').next().unwrap_or_default().to_owned();
        Ok(Self { name, table })
    }

    /// The same file as a source with another name.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.table.path()
    }

    /// The reasoned samples from the first one on, however often it is called.
    ///
    /// # Errors
    ///
    /// [`SourceError`] when the file cannot be opened or is not of its format.
    pub fn rows(&self) -> Result<ReasonedSamples<'_>, SourceError> {
        let read = |(line, row): (u64, Result<TableRow, SourceError>)| {
            let row = row.and_then(|row| {
                let row = ReasonedSample::from_row(row);
                row.map_err(|fault| SourceError::row(self.path(), line, fault))
            });
            (line, row)
        };
        Ok(Box::new(self.table.rows()?.map(read)))
    }

    fn sample(&self, line: u64, row: ReasonedSample) -> Result<Sample, SourceError> {
        let Some(exchange) = row.exchange() else {
            let fault = RowFault::Field { field: "input", expected: INPUT };
            return Err(SourceError::row(self.path(), line, fault));
        };
        let labels = labels_of(&row.parsed(), exchange.response().is_some());
        let id = row.id.unwrap_or_else(|| line.to_string());
        let source = row.source.unwrap_or_else(|| self.name.clone());
        let mut sample = Sample::new(id, source, exchange.request()).with_labels(labels);
        sample.response = exchange.response().map(str::to_owned);
        Ok(sample)
    }
}

pub(crate) const INPUT: &str = "the turns `Human user:` and `AI assistant:`";

impl SampleSource for ReasonedFile {
    fn name(&self) -> &str {
        &self.name
    }

    fn samples(&self) -> Result<Samples<'_>, SourceError> {
        let rows = self.rows()?;
        Ok(Box::new(rows.map(|(line, row)| row.and_then(|row| self.sample(line, row)))))
    }
}

#[cfg(test)]
mod tests {
    use guard_core::{Completion, Harm};

    use super::*;

    const OUTPUT: &str = "# Task 1\n\nSECRET\n\nAnswers: \nRequest: harmful\nCompletion: refusal\n\
                          Response: unharmful";

    #[test]
    fn labels_of_a_response_need_one() {
        let prompt = ReasonedSample::new(&Exchange::prompt("hi"), OUTPUT);
        assert_eq!(prompt.labels(), Labels { request: Some(Harm::Harmful), ..Labels::default() });
        let pair = ReasonedSample::new(&Exchange::pair("hi", "no"), OUTPUT);
        assert_eq!(pair.labels().completion, Some(Completion::Refusal));
        assert_eq!(pair.labels().response, Some(Harm::Unharmful));
        assert!(!format!("{pair:?}").contains("SECRET"));
    }

    #[test]
    fn the_published_fields_are_enough_and_others_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("AegisTrain-R.json");
        let plain = ReasonedSample::new(&Exchange::prompt("hi"), OUTPUT);
        let named = plain.clone().with_origin("mine", "7");
        let bad = r#"{"instruction":"i","input":"SECRET","output":""}"#;
        let rows =
            [serde_json::to_string(&plain), serde_json::to_string(&named)].map(Result::unwrap);
        std::fs::write(&path, format!("[{},{bad},{{\"input\":1}},{}]", rows[0], rows[1])).unwrap();
        let file = ReasonedFile::open(&path).unwrap();
        let read: Vec<_> = file.rows().unwrap().map(|(_, row)| row).collect();
        assert_eq!(read[0].as_ref().unwrap(), &plain);
        assert_eq!(read[3].as_ref().unwrap(), &named);
        assert!(
            read[2]
                .as_ref()
                .unwrap_err()
                .to_string()
                .ends_with(":3: field `instruction` is missing")
        );
        let samples: Vec<_> = file.samples().unwrap().collect();
        let origin = |sample: &Sample| (sample.source.clone(), sample.id.clone());
        assert_eq!(origin(samples[0].as_ref().unwrap()), ("AegisTrain-R".into(), "1".into()));
        assert_eq!(origin(samples[3].as_ref().unwrap()), ("mine".into(), "7".into()));
        let fault = samples[1].as_ref().unwrap_err().to_string();
        assert!(fault.contains(":2: field `input`") && !fault.contains("SECRET"), "{fault}");
    }
}
