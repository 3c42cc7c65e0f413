//! What the checks found.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

use super::phrases::TellingPhrase;
use crate::statistics::StatisticsTable;
use crate::trace::TraceFault;

/// Something that a set should not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Problem {
    /// A row that cannot be read, or lacks a field.
    Undecodable,
    /// A label that is none of its task's words.
    UnknownLabel,
    /// A request without any text.
    EmptyText,
    /// A row whose texts were in an earlier row.
    Duplicate,
    /// A row whose texts have opposite labels elsewhere.
    Conflict,
    /// A row whose request has the opposite label elsewhere, with whatever response.
    RequestConflict,
    /// A request that is also in a benchmark, but for case and punctuation.
    InBenchmark,
    /// 13 words in a row that are also in a benchmark's request.
    PartlyInBenchmark,
    /// Characters that hide text from its reader or steer a terminal.
    HiddenCharacters,
    /// A fault of a trace.
    Trace(TraceFault),
}

impl Problem {
    /// All of them, in the order of a report.
    pub const ALL: [Self; 19] = [
        Self::Undecodable,
        Self::UnknownLabel,
        Self::EmptyText,
        Self::Duplicate,
        Self::Conflict,
        Self::RequestConflict,
        Self::InBenchmark,
        Self::PartlyInBenchmark,
        Self::HiddenCharacters,
        Self::Trace(TraceFault::NoExchange),
        Self::Trace(TraceFault::Empty),
        Self::Trace(TraceFault::NoAnswers),
        Self::Trace(TraceFault::MissingAnswer(guard_core::Task::Request)),
        Self::Trace(TraceFault::MissingAnswer(guard_core::Task::Completion)),
        Self::Trace(TraceFault::MissingAnswer(guard_core::Task::Response)),
        Self::Trace(TraceFault::NoReasoning),
        Self::Trace(TraceFault::Scaffold),
        Self::Trace(TraceFault::Loop),
        Self::Trace(TraceFault::Inconsistent),
    ];
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undecodable => f.pad("undecodable row"),
            Self::UnknownLabel => f.pad("unknown label"),
            Self::EmptyText => f.pad("request without text"),
            Self::Duplicate => f.pad("duplicate"),
            Self::Conflict => f.pad("same text, opposite labels"),
            Self::RequestConflict => f.pad("same request, opposite labels"),
            Self::InBenchmark => f.pad("in a benchmark"),
            Self::PartlyInBenchmark => f.pad("13 words of a benchmark"),
            Self::HiddenCharacters => f.pad("hidden characters"),
            Self::Trace(fault) => write!(f, "trace: {fault}"),
        }
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How often a problem was found, and where first. It holds no text of the set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// The rows.
    pub count: u64,
    /// Where the first of them are, at most [`Finding::EXAMPLES`].
    pub examples: Vec<String>,
}

impl Finding {
    /// The most places that a finding names.
    pub const EXAMPLES: usize = 5;
}

/// How many rows have which label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LabelCount {
    /// Harmful, or refusal.
    pub positive: u64,
    /// Unharmful, or compliance.
    pub negative: u64,
    /// Without a label.
    pub missing: u64,
}

impl LabelCount {
    pub(super) fn record(&mut self, positive: Option<bool>) {
        match positive {
            Some(true) => self.positive += 1,
            Some(false) => self.negative += 1,
            None => self.missing += 1,
        }
    }
}

/// What the checks of a set found. Shown, it is a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CheckReport {
    /// The name of the set.
    pub name: String,
    /// Its rows, those included that cannot be read.
    pub rows: u64,
    /// Its labels, for the request, the completion and the response.
    pub labels: [LabelCount; 3],
    /// Its traces, where it has them.
    pub statistics: StatisticsTable,
    /// Rare phrases that nearly fix the label of the request, the most surprising first. Most are
    /// natural; one that no reader would expect may be planted.
    pub phrases: Vec<TellingPhrase>,
    findings: BTreeMap<Problem, Finding>,
}

impl CheckReport {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            rows: 0,
            labels: [LabelCount::default(); 3],
            statistics: StatisticsTable::default(),
            phrases: Vec::new(),
            findings: BTreeMap::new(),
        }
    }

    /// How often, and where, a problem was found.
    #[must_use]
    pub fn finding(&self, problem: Problem) -> Finding {
        self.findings.get(&problem).cloned().unwrap_or_default()
    }

    pub(super) fn find(&mut self, problem: Problem, place: impl FnOnce() -> String) {
        self.find_several(problem, 1, place);
    }

    pub(super) fn find_several(
        &mut self,
        problem: Problem,
        rows: u64,
        place: impl FnOnce() -> String,
    ) {
        let finding = self.findings.entry(problem).or_default();
        finding.count += rows;
        if finding.examples.len() < Finding::EXAMPLES {
            finding.examples.push(place());
        }
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} rows", self.name, self.rows)?;
        writeln!(f, "\n{:<12}{:>10}{:>10}{:>10}", "labels", "positive", "negative", "none")?;
        for (task, count) in guard_core::Task::ALL.iter().zip(&self.labels) {
            let LabelCount { positive, negative, missing } = count;
            writeln!(f, "{task:<12}{positive:>10}{negative:>10}{missing:>10}")?;
        }
        writeln!(f, "\n{:<36}{:>8}  where", "checks", "rows")?;
        let has_traces = self.statistics.sources().next().is_some();
        let shown = Problem::ALL
            .iter()
            .filter(|problem| has_traces || !matches!(problem, Problem::Trace(_)));
        for problem in shown {
            let finding = self.finding(*problem);
            let places = finding.examples.join("; ");
            writeln!(f, "{:<36}{:>8}  {places}", problem.to_string(), finding.count)?;
        }
        if !self.phrases.is_empty() {
            writeln!(
                f,
                "\n{:<36}{:>8}{:>10}{:>10}",
                "phrases that tell", "harmful", "unharmful", "log10 p"
            )?;
        }
        for phrase in &self.phrases {
            let words = guard_core::visible(&phrase.words);
            let TellingPhrase { harmful, unharmful, log10_p, .. } = phrase;
            writeln!(f, "{words:<36}{harmful:>8}{unharmful:>10}{log10_p:>10.1}")?;
        }
        if has_traces {
            write!(f, "\n{}", self.statistics)?;
        }
        Ok(())
    }
}
