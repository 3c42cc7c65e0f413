//! The block of answers.

use super::{is_decoration, strip_prefix_ignore_case};
use crate::label::{Label, Task};
use crate::verdict::{Answer, Reason};

/// The three answers as they stand in a block, in the order of [`Task::ALL`].
pub(super) type Answers = [TaskAnswers; 3];

/// What a block says about one task: nothing, or one word or several.
#[derive(Clone, Debug, Default)]
pub(super) struct TaskAnswers {
    values: Vec<String>,
}

impl TaskAnswers {
    pub(super) fn is_missing(&self) -> bool {
        self.values.is_empty()
    }
}

/// Whether a line opens a block.
pub(super) fn opens(line: &str) -> bool {
    answers_heading(line.trim()).is_some()
}

pub(super) struct Block {
    /// Where its first line starts in the text, in bytes.
    pub(super) start: usize,
    /// Where its last answer ends, without the newline.
    pub(super) end: usize,
    headed: bool,
    pub(super) answers: Answers,
}

impl Block {
    fn open(start: usize, headed: bool) -> Self {
        Self { start, end: start, headed, answers: Answers::default() }
    }

    fn is_empty(&self) -> bool {
        self.answers.iter().all(TaskAnswers::is_missing)
    }

    pub(super) fn is_complete(&self) -> bool {
        !self.answers.iter().any(TaskAnswers::is_missing)
    }

    /// Adds the answers of a later block, of which some may differ.
    fn contradict(&mut self, later: Self) {
        for (answer, later) in self.answers.iter_mut().zip(later.answers) {
            answer.values.extend(later.values);
        }
    }

    fn add(&mut self, fields: Vec<(Task, String)>, end: usize) {
        for (task, value) in fields {
            self.answers[task as usize].values.push(value);
        }
        self.end = end;
    }
}

/// The block of answers that counts.
pub(super) fn answer_block(text: &str) -> Option<Block> {
    let mut complete: Option<Block> = None;
    let mut partial = None;
    let mut keep = |block: Option<Block>| match (block, &mut complete) {
        (Some(block), _) if block.is_complete() => complete = Some(block),
        // The model went on to answer again. What it says then cannot be weighed against the
        // whole block, so answers that differ end as conflicting.
        (Some(block), Some(complete)) => complete.contradict(block),
        (Some(block), None) if block.headed && !block.is_empty() => partial = Some(block),
        _ => {}
    };
    let mut open: Option<Block> = None;
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let (line_start, line_end) = (start, start + line.trim_end().len());
        start += line.len();
        let line = line.trim();
        if let Some(rest) = answers_heading(line) {
            keep(open.take());
            let block = open.insert(Block::open(line_start, true));
            block.add(answer_fields(rest), line_end);
            continue;
        }
        let fields = answer_fields(line);
        if !fields.is_empty() {
            open.get_or_insert_with(|| Block::open(line_start, false)).add(fields, line_end);
        } else if !continues_block(open.as_ref(), line) {
            keep(open.take());
        }
    }
    keep(open);
    complete.or(partial)
}

/// Whether a line that is no answer leaves the block open: an empty line does, and so does
/// stray text between `Answers:` and the first answer (the published 8B model writes some).
fn continues_block(open: Option<&Block>, line: &str) -> bool {
    match open {
        None => true,
        Some(_) if line.is_empty() => true,
        Some(block) => block.headed && block.is_empty() && !line.starts_with('#'),
    }
}

/// What follows `Answers:` on a line that starts with it; the colon may be left out at the end.
fn answers_heading(line: &str) -> Option<&str> {
    let line = line.trim_start_matches(is_decoration);
    let rest = strip_prefix_ignore_case(line, "answers")?.trim_start_matches(is_decoration);
    match rest.strip_prefix(':') {
        Some(rest) => Some(rest.trim_start_matches(is_decoration)),
        None => rest.is_empty().then_some(rest),
    }
}

/// The answers of a line such as `Request: harmful` or `Request: harmful, Completion: None`.
/// A field without a value is left out: the text may end there.
fn answer_fields(line: &str) -> Vec<(Task, String)> {
    let mut fields: Vec<(Task, String)> = Vec::new();
    // Most lines are reasoning.
    if !line.contains(':') {
        return fields;
    }
    for part in line.split([',', ';']) {
        match answer_field(part) {
            Some((_, "")) => {}
            Some((task, value)) => fields.push((task, value.to_ascii_lowercase())),
            // More text after a label: the line says something else than a label.
            None => match fields.last_mut() {
                Some(_) if part.trim().is_empty() => {}
                Some((_, value)) => {
                    value.push(',');
                    value.push_str(part);
                }
                None => return fields,
            },
        }
    }
    fields
}

fn answer_field(part: &str) -> Option<(Task, &str)> {
    let part = part.trim_start_matches(is_decoration);
    Task::ALL.into_iter().find_map(|task| {
        let rest = strip_prefix_ignore_case(part, answer_name(task))?;
        let value = rest.trim_start_matches(is_decoration).strip_prefix(':')?;
        Some((task, value.trim_matches(|c| is_decoration(c) || is_punctuation(c))))
    })
}

/// The name of a task in the block of answers.
fn answer_name(task: Task) -> &'static str {
    match task {
        Task::Request => "request",
        Task::Completion => "completion",
        Task::Response => "response",
    }
}

pub(super) fn read<L: Label>(answer: Option<&TaskAnswers>) -> Answer<L> {
    let Some(answer) = answer else {
        return Answer::Undetermined(Reason::NoAnswers);
    };
    let Some((first, others)) = answer.values.split_first() else {
        return Answer::Undetermined(Reason::MissingAnswer);
    };
    if others.iter().any(|other| other != first) {
        return Answer::Undetermined(Reason::ConflictingAnswers);
    }
    match (L::from_word(first), first.as_str()) {
        (Some(label), _) => Answer::Given(label),
        (None, "none" | "n/a") => Answer::Undetermined(Reason::AnsweredNone),
        (None, _) => Answer::Undetermined(Reason::UnknownLabel),
    }
}

fn is_punctuation(c: char) -> bool {
    matches!(c, '.' | '"' | '\'' | '[' | ']' | '(' | ')')
}
