//! What is looked at in one row, apart from all others.

use std::fmt;

use guard_core::{Exchange, INSTRUCTION, Labels, Task, is_hidden, visible};
use sha2::{Digest, Sha256};

use super::overlap::{Overlap, OverlapHit};
use super::phrases::PhraseSketch;
use super::report::Problem;
use crate::reasoned::{ReasonedFile, ReasonedSample, labels_of};
use crate::sample::Sample;
use crate::source::{SampleSource, SourceError};
use crate::statistics::Statistics;
use crate::trace::{TraceFault, faults_of};
use crate::words::word_hashes;

/// What is checked.
pub(super) enum Input<'a> {
    Samples(&'a dyn SampleSource),
    Traces(&'a ReasonedFile),
}

/// A row with its number from 1 among those that the source gives, and what it holds.
pub(super) struct Item {
    pub(super) row: u64,
    /// Its line, or row, in the file.
    line: Option<u64>,
    pub(super) content: Result<Content, SourceError>,
}

/// Where a row is, for people: its number in a file, or the id of a sample.
pub(super) enum Place {
    Row(u64),
    Id(Box<str>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Row(row) => write!(f, "row {row}"),
            Self::Id(id) => write!(f, "`{id}`"),
        }
    }
}

impl Item {
    /// How people find it.
    pub(super) fn place(&self) -> Place {
        match (self.line, &self.content) {
            (Some(line), _) => Place::Row(line),
            (None, Ok(Content::Sample(sample))) => {
                let id: String = sample.id.chars().take(40).collect();
                Place::Id(visible(&id).as_str().into())
            }
            (None, _) => Place::Row(self.row),
        }
    }

    /// The bytes of its texts.
    pub(super) fn text_len(&self) -> usize {
        match &self.content {
            Ok(Content::Sample(sample)) => {
                sample.prompt.len() + sample.response.as_ref().map_or(0, String::len)
            }
            Ok(Content::Trace(trace)) => {
                trace.instruction.len() + trace.input.len() + trace.output.len()
            }
            Err(_) => 0,
        }
    }
}

pub(super) enum Content {
    Sample(Sample),
    Trace(ReasonedSample),
}

impl Input<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Samples(source) => source.name(),
            Self::Traces(file) => file.name(),
        }
    }

    pub(super) fn items(&self) -> Result<Box<dyn Iterator<Item = Item> + '_>, SourceError> {
        Ok(match self {
            Self::Samples(source) => {
                let rows = (1..).zip(source.samples()?);
                Box::new(rows.map(|(row, sample)| Item {
                    row,
                    line: None,
                    content: sample.map(Content::Sample),
                }))
            }
            Self::Traces(file) => {
                let rows = (1..).zip(file.rows()?);
                Box::new(rows.map(|(row, (line, trace))| Item {
                    row,
                    line: Some(line),
                    content: trace.map(Content::Trace),
                }))
            }
        })
    }
}

impl Content {
    fn exchange(&self) -> Option<Exchange> {
        match self {
            Self::Sample(sample) => Some(sample.exchange()),
            Self::Trace(trace) => trace.exchange(),
        }
    }

    /// What the user wrote.
    pub(super) fn request(&self) -> String {
        self.exchange().map_or_else(String::new, |exchange| exchange.request().to_owned())
    }
}

/// What one row says.
#[derive(Default)]
pub(super) struct RowFacts {
    /// The name of its set, where the row says one.
    pub(super) source: Option<String>,
    /// `None` for a row that cannot be read.
    pub(super) hashes: Option<TextHashes>,
    /// Whether the label of each task is the positive one.
    pub(super) labels: [Option<bool>; 3],
    pub(super) problems: Vec<Problem>,
    pub(super) overlap: Option<OverlapHit>,
    /// Of a row with a trace.
    pub(super) statistics: Option<Statistics>,
}

/// What tells whether two rows have the same texts.
pub(super) struct TextHashes {
    pub(super) request: u128,
    /// The request and the response, and of a trace the instruction.
    pub(super) exchange: u128,
}

impl RowFacts {
    pub(super) fn of(item: &Item, overlap: &Overlap, sketch: &PhraseSketch) -> Self {
        let mut facts = Self::default();
        let Ok(content) = &item.content else { return facts };
        let Some(exchange) = content.exchange() else {
            facts.problems.push(Problem::Trace(TraceFault::NoExchange));
            return facts;
        };
        let labels = match content {
            Content::Sample(sample) => sample.labels,
            Content::Trace(trace) => facts.read_trace(trace, exchange.response().is_some()),
        };
        facts.labels = Task::ALL.map(|task| labels.positive(task));
        let instruction = match content {
            Content::Sample(_) => "",
            // The one that nearly all traces have needs no hash.
            Content::Trace(trace) if trace.instruction == INSTRUCTION => "",
            Content::Trace(trace) => &trace.instruction,
        };
        let response = exchange.response().map_or(["", ""], |response| ["1", response]);
        let [is_there, response] = response;
        facts.hashes = Some(TextHashes {
            request: text_hash(&[exchange.request()]),
            exchange: text_hash(&[instruction, exchange.request(), is_there, response]),
        });
        facts.read_texts(&exchange);
        if overlap.is_needed() || sketch.is_needed() {
            let words = word_hashes(exchange.request());
            facts.overlap = overlap.find(&words);
            if facts.labels[0].is_some() {
                sketch.add(&words);
            }
        }
        facts
    }

    fn read_trace(&mut self, trace: &ReasonedSample, has_response: bool) -> Labels {
        let parsed = trace.parsed();
        let mut statistics = Statistics::default();
        statistics.record(&trace.output, &parsed.reasoning);
        self.source.clone_from(&trace.source);
        self.statistics = Some(statistics);
        let is_published = trace.instruction == INSTRUCTION;
        if hides(&trace.output) || !is_published && hides(&trace.instruction) {
            self.problems.push(Problem::HiddenCharacters);
        }
        let faults = faults_of(&parsed, trace, has_response);
        self.problems.extend(faults.into_iter().map(Problem::Trace));
        labels_of(&parsed, has_response)
    }

    fn read_texts(&mut self, exchange: &Exchange) {
        let hides = hides(exchange.request()) || exchange.response().is_some_and(hides);
        if hides && !self.problems.contains(&Problem::HiddenCharacters) {
            self.problems.push(Problem::HiddenCharacters);
        }
        if exchange.request().trim().is_empty() {
            self.problems.push(Problem::EmptyText);
        }
    }
}

/// Whether a text has characters that its readers do not see: what changes lines is seen.
fn hides(text: &str) -> bool {
    // Without a branch a byte, the compiler looks at many bytes at a time.
    let is_plain =
        |plain: bool, byte: &u8| plain & matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t');
    !text.as_bytes().iter().fold(true, is_plain)
        && text.chars().any(|c| is_hidden(c) && !matches!(c, '\n' | '\r' | '\t'))
}

/// The first half of a SHA-256 over the texts: hostile texts cannot be made to collide.
fn text_hash(texts: &[&str]) -> u128 {
    let mut hasher = Sha256::new();
    for text in texts {
        hasher.update((text.len() as u64).to_le_bytes());
        hasher.update(text);
    }
    let digest = hasher.finalize();
    digest.iter().take(16).fold(0, |hash, byte| hash << 8 | u128::from(*byte))
}
