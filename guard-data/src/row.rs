//! One line of a JSONL file, checked field by field, so that a fault can name the field and
//! never has to quote the text.

use guard_core::{Label, Labels, Task};
use serde::Deserialize;
use serde_json::Value;
use serde_json::error::Category;

use crate::sample::Sample;

/// Why a line of a file is no sample. It never holds text of the line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowFault {
    /// The line is longer than the reader's limit.
    #[error("longer than {limit} bytes")]
    TooLong {
        /// The most bytes that a line may have, its ending not counted.
        limit: usize,
    },
    /// The line is no text.
    #[error("not UTF-8 from byte {byte} on")]
    NotUtf8 {
        /// The first byte, from 1, that is no text.
        byte: usize,
    },
    /// A line of comma-separated values has another number of them than the header.
    #[error("{found} columns, the header has {expected}")]
    Columns {
        /// The columns of the header.
        expected: u64,
        /// The columns of the line.
        found: u64,
    },
    /// Two columns of a header have one name.
    #[error("two columns have one name")]
    RepeatedColumn,
    /// A Parquet file is damaged, or packed in a way that is not read.
    #[error("damaged Parquet data, or packed in another way than plain, Snappy or Zstandard")]
    Parquet,
    /// The file is no array of JSON objects.
    #[error("expected an array of objects")]
    NotAnArray,
    /// The line is anything but one JSON object.
    #[error("expected a JSON object")]
    NotAnObject,
    /// The line ends in the middle of its JSON, as when its writer was killed.
    #[error("the JSON is cut off")]
    CutOff,
    /// The JSON is broken.
    #[error("bad JSON near byte {byte}")]
    Json {
        /// Where in the line, from 1.
        byte: usize,
    },
    /// The JSON is sound and its structure is not: a field is there twice, `labels` is no
    /// object, or it names a task that does not exist.
    #[error("repeated field, or labels that are not of the three tasks, near byte {byte}")]
    Structure {
        /// Where in the line, from 1.
        byte: usize,
    },
    /// A field is not there.
    #[error("field `{field}` is missing")]
    Missing {
        /// The name of the field.
        field: &'static str,
    },
    /// A field has a value of another type.
    #[error("field `{field}` must be {expected}, found {found}")]
    WrongType {
        /// The name of the field.
        field: &'static str,
        /// The type that it must have.
        expected: &'static str,
        /// The type that it has.
        found: &'static str,
    },
    /// All rows of the file together are longer than anything published.
    #[error("the rows up to here are longer than {limit} bytes together")]
    FileTooLong {
        /// The most bytes of text that all rows may have.
        limit: usize,
    },
    /// A field has a text that is none of those that it can have.
    #[error("field `{field}` must be {expected}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// What it can be.
        expected: &'static str,
    },
    /// The label of a task is none of its two words.
    #[error("the {task} label must be `{}` or `{}`", expected[0], expected[1])]
    UnknownLabel {
        /// The task.
        task: Task,
        /// The words that it can have.
        expected: [&'static str; 2],
    },
    /// A label speaks of a response, and there is none.
    #[error("a {task} label without a response")]
    NothingToLabel {
        /// The task.
        task: Task,
    },
}

/// The fields of a line, each with whatever value the file gives it.
///
/// Fields with other names are let through: published sets carry many.
#[derive(Deserialize)]
pub(crate) struct Row {
    id: Option<Value>,
    source: Option<Value>,
    prompt: Option<Value>,
    response: Option<Value>,
    labels: Option<RowLabels>,
}

/// A misspelt task would pass as "no label" and change the scores: unknown names are refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RowLabels {
    request: Option<Value>,
    completion: Option<Value>,
    response: Option<Value>,
}

/// Reads one line, without its ending.
pub(crate) fn parse(line: &[u8]) -> Result<Sample, RowFault> {
    let text = std::str::from_utf8(line)
        .map_err(|error| RowFault::NotUtf8 { byte: error.valid_up_to() + 1 })?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(RowFault::NotAnObject);
    }
    let row: Row = serde_json::from_str(text).map_err(|error| json_fault(&error))?;
    Sample::try_from(row)
}

/// Keeps the kind and the place of a JSON error and drops its message, which quotes the text.
pub(crate) fn json_fault(error: &serde_json::Error) -> RowFault {
    let byte = error.column();
    match error.classify() {
        Category::Eof => RowFault::CutOff,
        Category::Data => RowFault::Structure { byte },
        Category::Syntax | Category::Io => RowFault::Json { byte },
    }
}

impl TryFrom<Row> for Sample {
    type Error = RowFault;

    fn try_from(row: Row) -> Result<Self, RowFault> {
        let mut sample = Self::new(
            required("id", row.id)?,
            required("source", row.source)?,
            required("prompt", row.prompt)?,
        );
        sample.response = row.response.map(|value| string("response", value)).transpose()?;
        sample.labels = row.labels.ok_or(RowFault::Missing { field: "labels" })?.read()?;
        match unanswerable_label(&sample) {
            Some(task) => Err(RowFault::NothingToLabel { task }),
            None => Ok(sample),
        }
    }
}

impl RowLabels {
    fn read(self) -> Result<Labels, RowFault> {
        Ok(Labels {
            request: label(Task::Request, self.request)?,
            completion: label(Task::Completion, self.completion)?,
            response: label(Task::Response, self.response)?,
        })
    }
}

fn required(field: &'static str, value: Option<Value>) -> Result<String, RowFault> {
    string(field, value.ok_or(RowFault::Missing { field })?)
}

fn string(field: &'static str, value: Value) -> Result<String, RowFault> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(RowFault::WrongType { field, expected: "a string", found: type_name(&other) }),
    }
}

fn label<L: Label>(task: Task, value: Option<Value>) -> Result<Option<L>, RowFault> {
    let Some(value) = value else { return Ok(None) };
    match value.as_str().and_then(L::from_word) {
        Some(label) => Ok(Some(label)),
        None => {
            Err(RowFault::UnknownLabel { task, expected: [L::POSITIVE.word(), L::NEGATIVE.word()] })
        }
    }
}

/// The first task that has a label although the sample has no response to judge.
fn unanswerable_label(sample: &Sample) -> Option<Task> {
    let labels = &sample.labels;
    let labelled = |task: &Task| match task {
        Task::Request => labels.request.is_some(),
        Task::Completion => labels.completion.is_some(),
        Task::Response => labels.response.is_some(),
    };
    let mut unanswerable = Task::ALL.into_iter().filter(|task| task.needs_response());
    if sample.response.is_some() { None } else { unanswerable.find(labelled) }
}

pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use guard_core::{Completion, Harm};
    use proptest::prelude::*;

    use super::*;

    /// A row of these labels with a prompt that no error may repeat.
    fn row(rest: &str) -> String {
        format!(r#"{{"id":"1","source":"s","prompt":"SECRET",{rest}}}"#)
    }

    #[test]
    fn a_row_may_have_other_fields_nulls_and_labels_in_any_case() {
        let line = row(
            r#""response":"ok","extra":[{}],"labels":{"request":null,"completion":"Refusal","response":"UNHARMFUL"}"#,
        );
        let sample = parse(line.as_bytes()).unwrap();
        assert_eq!(sample.response.as_deref(), Some("ok"));
        assert_eq!(
            sample.labels,
            Labels {
                request: None,
                completion: Some(Completion::Refusal),
                response: Some(Harm::Unharmful)
            }
        );
        let bare = parse(row(r#""response":null,"labels":{}"#).as_bytes()).unwrap();
        assert_eq!((bare.response, bare.labels), (None, Labels::default()));
    }

    #[test]
    fn each_fault_has_its_name() {
        let harm = ["harmful", "unharmful"];
        let wrong = |field, found| RowFault::WrongType { field, expected: "a string", found };
        let unknown = |task, expected| RowFault::UnknownLabel { task, expected };
        let cases = [
            ("[1,2]".to_owned(), RowFault::NotAnObject),
            ("SECRET".to_owned(), RowFault::NotAnObject),
            (r#"{"id":"SECR"#.to_owned(), RowFault::CutOff),
            (
                r#"{"source":"s","prompt":"p","labels":{}}"#.to_owned(),
                RowFault::Missing { field: "id" },
            ),
            (
                r#"{"id":"1","source":"s","labels":{}}"#.to_owned(),
                RowFault::Missing { field: "prompt" },
            ),
            (
                r#"{"id":"1","source":"s","prompt":"SECRET"}"#.to_owned(),
                RowFault::Missing { field: "labels" },
            ),
            (
                r#"{"id":7,"source":"s","prompt":"p","labels":{}}"#.to_owned(),
                wrong("id", "a number"),
            ),
            (row(r#""response":["SECRET"],"labels":{}"#), wrong("response", "an array")),
            (row(r#""labels":{"request":"SECRET"}"#), unknown(Task::Request, harm)),
            (row(r#""labels":{"request":true}"#), unknown(Task::Request, harm)),
            (
                row(r#""response":"r","labels":{"completion":"harmful"}"#),
                unknown(Task::Completion, ["refusal", "compliance"]),
            ),
            (
                row(r#""labels":{"request":"harmful","response":"harmful"}"#),
                RowFault::NothingToLabel { task: Task::Response },
            ),
        ];
        for (line, fault) in cases {
            assert_eq!(parse(line.as_bytes()), Err(fault), "{line}");
        }
    }

    #[test]
    fn misspelt_and_repeated_fields_are_no_silent_loss() {
        let cases = [
            row(r#""labels":{"reqest":"harmful"}"#),
            row(r#""labels":{"request":"harmful","request":"unharmful"}"#),
            row(r#""prompt":"SECRET","labels":{}"#),
            row(r#""labels":"SECRET""#),
        ];
        for line in cases {
            assert!(matches!(parse(line.as_bytes()), Err(RowFault::Structure { .. })), "{line}");
        }
    }

    #[test]
    fn broken_text_is_located() {
        let mut bytes = row(r#""labels":{}"#).into_bytes();
        bytes[0] = 0xff;
        assert_eq!(parse(&bytes), Err(RowFault::NotUtf8 { byte: 1 }));
        // The comma at byte 10 is followed by a second one.
        assert_eq!(parse(br#"{"id": "1",,}"#), Err(RowFault::Json { byte: 12 }));
        let surrogate = row(r#""labels":{}"#).replace("SECRET", r"SECRET \ud800");
        assert!(matches!(parse(surrogate.as_bytes()), Err(RowFault::Json { .. })));
        let two = format!("{0}{0}", row(r#""labels":{}"#));
        assert!(matches!(parse(two.as_bytes()), Err(RowFault::Json { .. })));
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_stack_overflow() {
        for field in ["id", "other"] {
            let line = format!(r#"{{"{field}":{}{}}}"#, "[".repeat(200_000), "]".repeat(200_000));
            assert!(parse(line.as_bytes()).is_err());
        }
    }

    #[test]
    fn no_fault_repeats_the_text() {
        let lines = [
            row(r#""labels":{"SECRET":"harmful"}"#),
            row(r#""labels":{"request":"SECRET"}"#),
            row(r#""labels":"SECRET""#),
            row(r#""id":"SECRET","labels":{}"#),
            r#"{"id":["SECRET"],"source":"s","prompt":"p","labels":{}}"#.to_owned(),
            r#"{"id":SECRET}"#.to_owned(),
            r#"{"id":"SECRET"#.to_owned(),
            "SECRET".to_owned(),
        ];
        for line in lines {
            let fault = parse(line.as_bytes()).unwrap_err();
            assert!(!format!("{fault} {fault:?}").contains("SECRET"), "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_sample_or_a_fault(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&line);
        }

        #[test]
        fn what_is_written_is_read(id in ".*", prompt in ".*", response in proptest::option::of(".*")) {
            let mut sample = Sample::new(id, "s", prompt);
            sample.response = response;
            let line = serde_json::to_string(&sample).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(parse(line.as_bytes()), Ok(sample));
        }
    }
}
