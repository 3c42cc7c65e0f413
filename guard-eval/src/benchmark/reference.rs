//! Benchmarks as the reference publishes them: an array of `instruction`, `input`, `output`.

use std::path::Path;

use guard_core::parse::parse_output;
use guard_core::{Answer, Label, Labels, Task, read_input};
use guard_data::{RowFault, Sample, SourceError, TableFile, TableFormat};

use super::Benchmark;
use super::dataset::{DatasetRow, collect};

/// The rows of the file; `None` when it is not of this form.
pub(super) fn read(
    benchmark: &Benchmark,
    path: &Path,
) -> Result<Option<Vec<DatasetRow>>, SourceError> {
    let table = TableFile::open(path)?;
    if !matches!(table.format(), TableFormat::Json | TableFormat::JsonLines) {
        return Ok(None);
    }
    let first = table.rows()?.next();
    let Some((_, Ok(first))) = first else { return Ok(None) };
    if first.get("input").is_none() || first.get("output").is_none() {
        return Ok(None);
    }
    let mut number = 0_u64;
    let rows = collect(&table, |_, row| {
        let input = row.string("input")?;
        let exchange =
            read_input(&input).ok_or(RowFault::Field { field: "input", expected: INPUT })?;
        let output = row.string("output")?;
        let labels = labels(benchmark.task, &output).ok_or(RowFault::Field {
            field: "output",
            expected: "a label of the benchmark's task",
        })?;
        let mut sample = Sample::new(number.to_string(), benchmark.name, exchange.request());
        number += 1;
        if let Some(response) = exchange.response() {
            sample = sample.with_response(response);
        }
        Ok(Some(DatasetRow::new(sample.with_labels(labels))))
    })?;
    Ok(Some(rows))
}

const INPUT: &str = "the turns `Human user:` and `AI assistant:`";

/// The label of the task: the word alone, or a whole block of answers, as two of the files have.
pub(crate) fn labels(task: Task, output: &str) -> Option<Labels> {
    if let Some(labels) = Labels::default().with_word(task, output.trim()) {
        return Some(labels);
    }
    fn word<L: Label>(answer: Answer<L>) -> Option<&'static str> {
        answer.given().map(Label::word)
    }
    let parsed = parse_output(output);
    let word = match task {
        Task::Request => word(parsed.request),
        Task::Completion => word(parsed.completion),
        Task::Response => word(parsed.response),
    };
    Labels::default().with_word(task, word?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_words_or_blocks() {
        let block = "Answers: \nRequest: None\nCompletion: None\nResponse: unharmful\n";
        let positive = |task, output| labels(task, output).and_then(|labels| labels.positive(task));
        assert_eq!(positive(Task::Response, block), Some(false));
        assert_eq!(positive(Task::Request, block), None);
        assert_eq!(positive(Task::Completion, "refusal\n"), Some(true));
        assert_eq!(positive(Task::Completion, "harmful"), None);
    }
}
