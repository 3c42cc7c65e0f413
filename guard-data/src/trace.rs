//! What is wrong with a trace: the reasoning and answers that a guard is to learn.

use std::fmt;

use guard_core::parse::{ParsedOutput, is_reasoned};
use guard_core::{PromptStyle, ReasoningMode, Task};
use memchr::memmem;
use serde::{Serialize, Serializer};

use crate::reasoned::ReasonedSample;
use crate::words::{phrase_hash, word_hashes};

/// A reason not to train on a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TraceFault {
    /// The input holds no exchange.
    NoExchange,
    /// There is no text: the reference stores failed calls of its teacher so.
    Empty,
    /// There is no block of answers, or none in it is a label.
    NoAnswers,
    /// The block has no label for this task, which it should have: the request always, the others where
    /// there is a response.
    MissingAnswer(Task),
    /// The answers stand alone where the instruction asks for more, or behind text that is no reasoning about the three tasks.
    NoReasoning,
    /// Words of the teacher's instructions are in it: a guard would learn to speak of labels that
    /// it is not given.
    Scaffold,
    /// The text goes round in circles.
    Loop,
    /// The reasoning concludes otherwise than it answers.
    Inconsistent,
}

impl fmt::Display for TraceFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoExchange => f.pad("no exchange in the input"),
            Self::Empty => f.pad("empty output"),
            Self::NoAnswers => f.pad("no block of answers"),
            Self::MissingAnswer(task) => f.pad(match task {
                Task::Request => "no answer about the request",
                Task::Completion => "no answer about the completion",
                Task::Response => "no answer about the response",
            }),
            Self::NoReasoning => f.pad("answers without reasoning"),
            Self::Scaffold => f.pad("words of the teacher's instructions"),
            Self::Loop => f.pad("a text that loops"),
            Self::Inconsistent => f.pad("a conclusion against the answers"),
        }
    }
}

impl Serialize for TraceFault {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is wrong with the trace of a sample, each thing once; nothing for one worth learning.
///
/// ```
/// use guard_data::{Exchange, ReasonedSample, TraceFault, trace_faults};
///
/// let sample = ReasonedSample::new(&Exchange::prompt("hi"), "");
/// assert_eq!(trace_faults(&sample), [TraceFault::Empty]);
/// ```
#[must_use]
pub fn trace_faults(sample: &ReasonedSample) -> Vec<TraceFault> {
    let exchange = sample.exchange();
    let has_response = exchange.as_ref().is_some_and(|exchange| exchange.response().is_some());
    let mut faults = faults_of(&sample.parsed(), sample, has_response);
    if exchange.is_none() {
        faults.insert(0, TraceFault::NoExchange);
    }
    faults
}

pub(crate) fn faults_of(
    parsed: &ParsedOutput,
    sample: &ReasonedSample,
    has_response: bool,
) -> Vec<TraceFault> {
    let ReasonedSample { instruction, input, output, .. } = sample;
    if output.trim().is_empty() {
        return vec![TraceFault::Empty];
    }
    let mut faults = missing_answers(parsed, has_response);
    let unreasoned = faults.is_empty() && !is_reasoned(output);
    let asks_for_none = PromptStyle::ALL
        .iter()
        .any(|style| *instruction == style.instruction(ReasoningMode::LabelOnly));
    if !asks_for_none && (parsed.reasoning.step_count() == 0 || unreasoned) {
        faults.push(TraceFault::NoReasoning);
    }
    if is_scaffold(output, input) {
        faults.push(TraceFault::Scaffold);
    }
    if is_loop(output) {
        faults.push(TraceFault::Loop);
    }
    if parsed.consistent() == Some(false) {
        faults.push(TraceFault::Inconsistent);
    }
    faults
}

fn missing_answers(parsed: &ParsedOutput, has_response: bool) -> Vec<TraceFault> {
    let none = parsed.request.given().is_none()
        && parsed.completion.given().is_none()
        && parsed.response.given().is_none();
    if none {
        return vec![TraceFault::NoAnswers];
    }
    let missing = [
        (Task::Request, parsed.request.given().is_none()),
        (Task::Completion, has_response && parsed.completion.given().is_none()),
        (Task::Response, has_response && parsed.response.given().is_none()),
    ];
    let missing = missing.into_iter().filter(|(_, missing)| *missing);
    missing.map(|(task, _)| TraceFault::MissingAnswer(task)).collect()
}

/// What teachers say of the labels that they were given. The first is the reference's.
const SCAFFOLD: [&str; 6] = [
    "ground truth",
    "given label",
    "provided label",
    "verified label",
    "known label",
    "correct label",
];

/// Each of these phrases ends with one of these words.
const SCAFFOLD_LAST_WORDS: [&str; 2] = ["truth", "label"];

/// Whether the text has words of the teacher's instructions that are not in the input as well.
pub(crate) fn is_scaffold(output: &str, input: &str) -> bool {
    let written = output.to_ascii_lowercase();
    let has = |text: &str, phrase: &str| memmem::find(text.as_bytes(), phrase.as_bytes()).is_some();
    if !SCAFFOLD_LAST_WORDS.iter().any(|word| has(&written, word)) {
        return false;
    }
    let input = input.to_ascii_lowercase();
    SCAFFOLD.iter().any(|phrase| has(&written, phrase) && !has(&input, phrase))
}

/// The words that are looked at together, the words in a row that count as the same again, and
/// the share of them that makes a loop.
const LOOP_WINDOW: usize = 150;
const LOOP_NGRAM: usize = 4;
const LOOP_SHARE: f64 = 0.75;

/// Whether some stretch of the text mostly repeats what the text said before.
pub(crate) fn is_loop(text: &str) -> bool {
    // A word and what parts it from the next take two bytes at least.
    if text.len() < 2 * LOOP_WINDOW {
        return false;
    }
    let words = word_hashes(text);
    if words.len() < LOOP_WINDOW + LOOP_NGRAM {
        return false;
    }
    let mut seen = Seen::new(words.len());
    let repeated: Vec<bool> =
        words.windows(LOOP_NGRAM).map(|phrase| seen.has_or_adds(phrase_hash(phrase))).collect();
    let most = repeated.windows(LOOP_WINDOW).scan(None, |count: &mut Option<usize>, window| {
        let next = match *count {
            None => window.iter().filter(|repeated| **repeated).count(),
            Some(count) => count + usize::from(window[LOOP_WINDOW - 1]),
        };
        *count = Some(next - usize::from(window[0]));
        Some(next)
    });
    most.max().is_some_and(|most| most as f64 >= LOOP_SHARE * LOOP_WINDOW as f64)
}

/// A set of hashes, for the many texts that are short: a table that is never full.
struct Seen {
    slots: Vec<u64>,
}

impl Seen {
    fn new(count: usize) -> Self {
        Self { slots: vec![0; (2 * count).next_power_of_two()] }
    }

    fn has_or_adds(&mut self, hash: u64) -> bool {
        // 0 marks a free slot.
        let hash = hash.max(1);
        let mask = self.slots.len() - 1;
        let mut slot = (hash >> 32) as usize & mask;
        loop {
            match self.slots[slot] {
                0 => {
                    self.slots[slot] = hash;
                    return false;
                }
                taken if taken == hash => return true,
                _ => slot = (slot + 1) & mask,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use guard_core::Exchange;

    use super::*;

    const GOOD: &str = "# Task 1\n\n## Reasoning Step 1\nIt asks for bread.\n\n# Task 2\n\n\
                        ## Reasoning Step 1\nIt complies.\n\n# Task 3\n\n## Reasoning Step 1\nFine.\n\n";
    const BLOCK: &str =
        "Answers: \nRequest: unharmful\nCompletion: compliance\nResponse: unharmful";

    fn faults(output: &str) -> Vec<TraceFault> {
        trace_faults(&ReasonedSample::new(&Exchange::pair("bread?", "flour"), output))
    }

    #[test]
    fn a_good_trace_has_no_fault() {
        assert_eq!(faults(&format!("{GOOD}{BLOCK}")), []);
        let prompt = Exchange::prompt("bread?");
        let none = "# Task 1\n## Step 1\nx\n# Task 3\nAnswers:\nRequest: unharmful\nCompletion: None\nResponse: None";
        assert_eq!(trace_faults(&ReasonedSample::new(&prompt, none)), []);
    }

    #[test]
    fn each_fault_is_found() {
        assert_eq!(faults(" \n"), [TraceFault::Empty]);
        assert_eq!(faults(GOOD), [TraceFault::NoAnswers]);
        let part = format!("{GOOD}Answers:\nRequest: unharmful\nResponse: None");
        let missing = [Task::Completion, Task::Response].map(TraceFault::MissingAnswer);
        assert_eq!(faults(&part), missing);
        assert_eq!(faults(BLOCK), [TraceFault::NoReasoning]);
        let whole = ReasonedSample::new(&Exchange::pair("a", "b"), format!("{GOOD}{BLOCK}"));
        assert_eq!(trace_faults(&crate::with_mode(&whole, ReasoningMode::LabelOnly)), []);
        assert_eq!(faults(&format!("{GOOD}The Ground Truth is\n{BLOCK}")), [TraceFault::Scaffold]);
        let quoted = Exchange::pair("what is ground truth?", "data");
        let output = format!("{GOOD}It asks about ground truth.\n{BLOCK}");
        assert_eq!(trace_faults(&ReasonedSample::new(&quoted, output)), []);
        let against = GOOD.replace("Fine.", "Fine.\n## Conclusion\nThe response is harmful.");
        assert_eq!(faults(&format!("{against}{BLOCK}")), [TraceFault::Inconsistent]);
        let mut other = ReasonedSample::new(&Exchange::prompt("x"), format!("{GOOD}{BLOCK}"));
        other.input = "x".to_owned();
        assert_eq!(trace_faults(&other), [TraceFault::NoExchange]);
    }

    #[test]
    fn loops_are_told_from_long_texts() {
        let looping = format!("{GOOD}{}{BLOCK}", "This is harmful and it is bad. ".repeat(40));
        assert_eq!(faults(&looping), [TraceFault::Loop]);
        let long: String = (0..2000).map(|word| format!("word{word} ")).collect();
        assert!(!is_loop(&long));
        // 3 of 5 words in a row are said again: under the share of 3 in 4.
        let half: String = (0..600)
            .map(|word| format!("w{} ", if word % 10 < 7 { word % 10 } else { word }))
            .collect();
        assert!(!is_loop(&half));
        assert!(is_loop(&"a ".repeat(1000)));
    }
}
