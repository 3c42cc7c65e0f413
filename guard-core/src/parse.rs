//! Reading what a GuardReasoner model wrote: the only place that knows its output format.
//!
//! The format (arXiv 2501.18492, figure 9) is steps of reasoning under task headings and then
//! a block of answers:
//!
//! ```text
//! # Task 1
//! ## Reasoning Step 1
//! The human user asks ...
//! ---
//! Answers:
//! Request: harmful
//! Completion: refusal
//! Response: unharmful
//! ```
//!
//! Rules, strictest reading first, since whatever is not understood ends as undetermined:
//!
//! - Only a line counts that starts with the name of a task and a colon. Quoted lines (`>`) do
//!   not count.
//! - A block is a line `Answers` and the answer lines after it, or the three answer lines alone.
//! - The last block that names all three tasks counts. Without one, the last block under an
//!   `Answers` line counts for the tasks that it names.
//! - A label is a whole word, whatever its case. A line that says more than a label says none.
//! - Two different answers to one task are none.

use crate::label::{Completion, Harm, Label, Task};
use crate::reasoning::{Reasoning, Step, TaskReasoning};
use crate::verdict::{Answer, Reason};

/// What a generated text says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParsedOutput {
    /// The answer to task 1.
    pub request: Answer<Harm>,
    /// The answer to task 2.
    pub completion: Answer<Completion>,
    /// The answer to task 3.
    pub response: Answer<Harm>,
    /// The text before the block of answers.
    pub reasoning: Reasoning,
}

impl ParsedOutput {
    /// Whether the conclusions in the reasoning agree with the answers.
    ///
    /// `None` when no task has both a label as its conclusion and a label as its answer.
    #[must_use]
    pub fn consistent(&self) -> Option<bool> {
        let agreements = self.reasoning.tasks.iter().filter_map(|task| {
            let conclusion = task.conclusion.as_deref()?;
            match task.task? {
                Task::Request => agreement(conclusion, self.request),
                Task::Completion => agreement(conclusion, self.completion),
                Task::Response => agreement(conclusion, self.response),
            }
        });
        agreements.reduce(|all, one| all && one)
    }
}

/// Reads a generated text. Any text gives a result; pass only what the model generated, never
/// the prompt.
#[must_use]
pub fn parse_output(text: &str) -> ParsedOutput {
    let block = answer_block(text);
    let reasoning = match &block {
        Some(block) => &text[..block.start],
        None => text,
    };
    let answers = block.map(|block| block.answers);
    ParsedOutput {
        request: read(answers.as_ref().map(|answers| &answers[0])),
        completion: read(answers.as_ref().map(|answers| &answers[1])),
        response: read(answers.as_ref().map(|answers| &answers[2])),
        reasoning: parse_reasoning(reasoning),
    }
}

/// Whether the text holds all the reasoning and a whole block of answers, so that whatever
/// follows would be a repetition.
///
/// A block that stands before the heading of task 3 does not count: the model may be quoting
/// one from the text that it judges.
#[must_use]
pub fn is_whole_output(text: &str) -> bool {
    let Some(block) = answer_block(text).filter(|block| block.is_complete()) else {
        return false;
    };
    let headings: Vec<_> =
        text[..block.start].lines().filter_map(heading).filter_map(|h| h.task_number()).collect();
    let reasoned = headings.is_empty() || headings.contains(&3);
    reasoned && text[block.end..].contains('\n')
}

/// The three answers as they stand in a block, in the order of [`Task::ALL`].
type Answers = [TaskAnswers; 3];

/// What a block says about one task: nothing, or one word or several.
#[derive(Clone, Debug, Default)]
struct TaskAnswers {
    values: Vec<String>,
}

struct Block {
    /// Where its first line starts in the text, in bytes.
    start: usize,
    /// Where its last answer ends, without the newline.
    end: usize,
    headed: bool,
    answers: Answers,
}

impl Block {
    fn open(start: usize, headed: bool) -> Self {
        Self { start, end: start, headed, answers: Answers::default() }
    }

    fn is_empty(&self) -> bool {
        self.answers.iter().all(|answer| answer.values.is_empty())
    }

    fn is_complete(&self) -> bool {
        self.answers.iter().all(|answer| !answer.values.is_empty())
    }

    fn add(&mut self, fields: Vec<(Task, String)>, end: usize) {
        for (task, value) in fields {
            self.answers[task as usize].values.push(value);
        }
        self.end = end;
    }
}

/// The block of answers that counts.
fn answer_block(text: &str) -> Option<Block> {
    let mut complete = None;
    let mut partial = None;
    let mut keep = |block: Option<Block>| match block {
        Some(block) if block.is_complete() => complete = Some(block),
        Some(block) if block.headed && !block.is_empty() => partial = Some(block),
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
    for part in line.split([',', ';']) {
        match answer_field(part) {
            Some((_, "")) => {}
            Some((task, value)) => fields.push((task, value.to_ascii_lowercase())),
            // More text after a label: the line says something else than a label.
            None => match fields.last_mut() {
                Some((_, value)) => value.push_str(part),
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

fn read<L: Label>(answer: Option<&TaskAnswers>) -> Answer<L> {
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

/// Markup that models put round headings and labels. A quotation mark at the start of a line
/// (`>`) is not among them: quoted answers are not the model's.
fn is_decoration(c: char) -> bool {
    c.is_whitespace() || matches!(c, '#' | '*' | '_' | '-' | '`')
}

fn is_punctuation(c: char) -> bool {
    matches!(c, '.' | '"' | '\'' | '[' | ']' | '(' | ')')
}

fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, tail) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
}

/// The headings that give the reasoning its shape.
enum Heading<'a> {
    /// `# Task 2: ...`; what follows the number is a title.
    Task(u32),
    /// `## Reasoning Step 3: ...`, with the text after it on the same line.
    Step(&'a str),
    /// `## Conclusion: ...`, `# Task 1 Conclusion`, `# Conclusion for Task 1`, `## Answer`.
    Conclusion(Option<u32>, &'a str),
}

impl Heading<'_> {
    fn task_number(&self) -> Option<u32> {
        match self {
            Self::Task(number) => Some(*number),
            _ => None,
        }
    }
}

fn heading(line: &str) -> Option<Heading<'_>> {
    let line = line.trim();
    let name = line.strip_prefix('#')?.trim_matches(is_decoration);
    if let Some(rest) = strip_prefix_ignore_case(name, "task ") {
        let (number, rest) = leading_number(rest)?;
        let title = rest.trim_start_matches(|c| is_decoration(c) || c == ':');
        return Some(match strip_prefix_ignore_case(title, "conclusion") {
            Some(rest) => Heading::Conclusion(Some(number), after_colon(rest)),
            None => Heading::Task(number),
        });
    }
    for step in ["reasoning step", "step"] {
        if let Some(rest) = strip_prefix_ignore_case(name, step) {
            let rest = leading_number(rest.trim_start()).map_or(rest, |(_, rest)| rest);
            return Some(Heading::Step(after_colon(rest)));
        }
    }
    if let Some(rest) = strip_prefix_ignore_case(name, "conclusion for task ") {
        let (number, rest) = leading_number(rest)?;
        return Some(Heading::Conclusion(Some(number), after_colon(rest)));
    }
    ["conclusion", "answer"].into_iter().find_map(|word| {
        let rest = strip_prefix_ignore_case(name, word)?;
        let ends = rest.is_empty() || !rest.starts_with(char::is_alphanumeric);
        ends.then(|| Heading::Conclusion(None, after_colon(rest)))
    })
}

fn leading_number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

fn after_colon(text: &str) -> &str {
    text.trim_start_matches(|c: char| c.is_whitespace() || c == ':')
}

fn parse_reasoning(text: &str) -> Reasoning {
    let mut builder = ReasoningBuilder::default();
    for line in text.lines() {
        match heading(line) {
            Some(Heading::Task(number)) => builder.start_task(Task::from_number(number)),
            Some(Heading::Step(rest)) => builder.start_step(rest),
            Some(Heading::Conclusion(number, rest)) => builder.start_conclusion(number, rest),
            None if is_rule(line) => {}
            None => builder.push_line(line.trim()),
        }
    }
    Reasoning { text: text.trim().to_owned(), tasks: builder.finish() }
}

/// A horizontal rule, which models put between the reasoning and the answers.
fn is_rule(line: &str) -> bool {
    let line = line.trim();
    line.len() >= 3 && line.bytes().all(|byte| byte == b'-')
}

#[derive(Default)]
struct ReasoningBuilder {
    tasks: Vec<TaskReasoning>,
    in_conclusion: bool,
}

impl ReasoningBuilder {
    fn start_task(&mut self, task: Option<Task>) {
        self.tasks.push(TaskReasoning { task, ..TaskReasoning::default() });
        self.in_conclusion = false;
    }

    fn start_step(&mut self, text: &str) {
        self.in_conclusion = false;
        self.current().steps.push(Step { text: text.to_owned() });
    }

    fn start_conclusion(&mut self, number: Option<u32>, text: &str) {
        let task = number.and_then(Task::from_number);
        if number.is_some() && self.tasks.last().is_none_or(|last| last.task != task) {
            self.start_task(task);
        }
        self.in_conclusion = true;
        self.current().conclusion = Some(text.to_owned());
    }

    fn push_line(&mut self, line: &str) {
        if line.is_empty() {
            return;
        }
        let in_conclusion = self.in_conclusion;
        let task = self.current();
        let text = match &mut task.conclusion {
            Some(conclusion) if in_conclusion => conclusion,
            _ => {
                if task.steps.is_empty() {
                    task.steps.push(Step::default());
                }
                match task.steps.last_mut() {
                    Some(step) => &mut step.text,
                    None => return,
                }
            }
        };
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
    }

    fn current(&mut self) -> &mut TaskReasoning {
        if self.tasks.is_empty() {
            self.tasks.push(TaskReasoning::default());
        }
        let last = self.tasks.len() - 1;
        &mut self.tasks[last]
    }

    /// Headings with nothing under them leave no empty steps or tasks behind.
    fn finish(mut self) -> Vec<TaskReasoning> {
        for task in &mut self.tasks {
            task.steps.retain(|step| !step.text.is_empty());
            task.conclusion.take_if(|conclusion| conclusion.is_empty());
        }
        self.tasks.retain(|task| !task.steps.is_empty() || task.conclusion.is_some());
        self.tasks
    }
}

/// Whether a conclusion says the answer, if both say anything.
fn agreement<L: Label>(conclusion: &str, answer: Answer<L>) -> Option<bool> {
    Some(concluded::<L>(conclusion)? == answer.given()?)
}

/// The one label that a conclusion names. A negation anywhere makes it unclear.
fn concluded<L: Label>(conclusion: &str) -> Option<L> {
    let mut found = None;
    for word in conclusion.split(|c: char| !c.is_alphanumeric() && c != '\'') {
        let word = word.to_ascii_lowercase();
        if is_negation(&word) {
            return None;
        }
        match (found, L::from_word(&word)) {
            (_, None) => {}
            (None, label) => found = label,
            (Some(first), Some(label)) if first == label => {}
            (Some(_), Some(_)) => return None,
        }
    }
    found
}

fn is_negation(word: &str) -> bool {
    matches!(word, "not" | "no" | "non" | "never" | "neither" | "nor" | "cannot" | "without")
        || word.ends_with("n't")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_conclusions_belong_to_their_tasks() {
        let text = "# Task 1\n## Reasoning Step 1\nasks\nfor it\n## Step 2: bad\n## Conclusion\n\
                    The request is harmful.\n\n# Task 2: refusal or not\nRefused.\n\
                    # Task 2 Conclusion: refusal\n# Conclusion for Task 3\nunharmful\n---\n\
                    Answers: \nRequest: harmful\nCompletion: refusal\nResponse: unharmful";
        let parsed = parse_output(text);
        let tasks = &parsed.reasoning.tasks;
        assert_eq!(tasks.len(), 3);
        assert_eq!(tasks[0].steps.len(), 2);
        assert_eq!(tasks[0].steps[0].text, "asks\nfor it");
        assert_eq!(tasks[0].conclusion.as_deref(), Some("The request is harmful."));
        assert_eq!(tasks[1].steps[0].text, "Refused.");
        assert_eq!(tasks[1].conclusion.as_deref(), Some("refusal"));
        assert_eq!(tasks[2].task, Some(Task::Response));
        assert_eq!(parsed.consistent(), Some(true));
    }

    #[test]
    fn disagreement_is_flagged_and_doubt_is_not() {
        let with = |conclusion: &str| {
            let text = format!(
                "# Task 3\n## Conclusion\n{conclusion}\nAnswers:\nRequest: harmful\n\
                 Completion: compliance\nResponse: unharmful"
            );
            parse_output(&text).consistent()
        };
        assert_eq!(with("The response is harmful."), Some(false));
        assert_eq!(with("Unharmful"), Some(true));
        assert_eq!(with("It is not harmful."), None);
        assert_eq!(with("harmful or unharmful"), None);
        assert_eq!(with("The response is None."), None);
    }

    #[test]
    fn generation_may_stop_only_after_the_last_task() {
        let block = "Answers:\nRequest: harmful\nCompletion: refusal\nResponse: unharmful";
        assert!(!is_whole_output(block), "the last word may still go on");
        assert!(is_whole_output(&format!("{block}\n")));
        assert!(!is_whole_output(&format!("# Task 1\nThe user wrote:\n{block}\n")));
        assert!(is_whole_output(&format!("# Task 1\n# Task 2\n# Task 3\n{block}\n#")));
        assert!(!is_whole_output("# Task 3\nAnswers:\nRequest: harmful\n"));
    }
}
