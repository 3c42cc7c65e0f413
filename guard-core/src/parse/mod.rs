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
//! - Two different answers to one task are none, also where the second stands in a block that is
//!   not whole.

mod answers;
mod reasoning;
mod released;

pub use released::{ReleasedAnswers, released_answers};

use answers::{Block, answer_block, read};
use reasoning::{heading, parse_reasoning};

use crate::label::{Completion, Harm, Label, Task};
use crate::reasoning::{Reasoning, TaskReasoning};
use crate::verdict::Answer;

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

/// Writes what [`parse_output`] reads: reasoning, and behind it a block of answers. What does not
/// apply is `None` in the block; what is undetermined or unsupported has no line.
#[must_use]
pub fn write_output(
    reasoning: &str,
    request: Answer<Harm>,
    completion: Answer<Completion>,
    response: Answer<Harm>,
) -> String {
    let mut text = reasoning.trim_end().to_owned();
    text.push_str(if text.is_empty() { "Answers: \n" } else { "\n\nAnswers: \n" });
    let lines = [
        answer_line("Request", request),
        answer_line("Completion", completion),
        answer_line("Response", response),
    ];
    text.extend(lines.into_iter().flatten());
    text
}

fn answer_line<L: Label>(name: &str, answer: Answer<L>) -> Option<String> {
    match answer {
        Answer::Given(label) => Some(format!("{name}: {label}\n")),
        Answer::NotApplicable => Some(format!("{name}: None\n")),
        Answer::Unsupported | Answer::Undetermined(_) => None,
    }
}

/// Writes reasoning as the models write it: a heading for each task, its steps and, where it has
/// one, its conclusion. [`parse_output`] reads the same tasks, but for texts that are themselves
/// headings; what belongs to no task is left out.
#[must_use]
pub fn write_reasoning(tasks: &[TaskReasoning]) -> String {
    let mut text = String::new();
    for task in tasks {
        let Some(number) = task.task.map(Task::number) else { continue };
        text.push_str(&format!("# Task {number}\n\n"));
        for (step, number) in task.steps.iter().zip(1..) {
            text.push_str(&format!("## Reasoning Step {number}\n{}\n\n", step.text));
        }
        if let Some(conclusion) = &task.conclusion {
            text.push_str(&format!("## Conclusion\n{conclusion}\n\n"));
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Whether the text holds all the reasoning and a whole block of answers, so that whatever
/// follows would be a repetition. The last word may still go on until its line has ended.
#[must_use]
pub fn is_whole_output(text: &str) -> bool {
    whole_block_end(text).is_some_and(|end| text[end..].contains('\n'))
}

/// Whether a text that was cut off had come to its answers: what it says may be believed.
///
/// A block that stands before the heading of task 3 does not count: the model may be quoting
/// one from the text that it judges, and have been kept from its own.
#[must_use]
pub fn has_own_answers(text: &str) -> bool {
    whole_block_end(text).is_some()
}

/// Whether the answers of a text are the model's own: nothing stands before their block, or its
/// reasoning up to the third task does.
///
/// A model that only echoes what it judges writes forged blocks as well as any other text. Of the
/// published outputs, all but 1 in 100 meet this rule.
#[must_use]
pub fn is_reasoned(text: &str) -> bool {
    answer_block(text).is_some_and(|block| is_own(text, &block))
}

fn is_own(text: &str, block: &Block) -> bool {
    /// What the teacher's prompt ends with: some outputs repeat it in the place of reasoning.
    const TEACHER: &str = "The ground truth is";
    let before = &text[..block.start];
    let bare = before.trim_matches(is_decoration);
    let mut headings = before.lines().filter_map(heading);
    bare.is_empty() || bare == TEACHER || headings.any(|heading| heading.task_number() == Some(3))
}

/// The text up to where its reasoning through this task is over: the heading of the next task, or the line that opens
/// the answers behind the reasoning about the last. `None` when it is not over.
///
/// Headings count in order, and only with something between them: one alone may be quoted from what is judged. The
/// first may be missing, as some of the published outputs begin below it.
///
/// What follows may be left away where answers are taken from probabilities.
#[must_use]
pub fn reasoning_through(text: &str, task: Task) -> Option<&str> {
    let (mut reached, mut has_reasoned, mut start) = (0, false, 0);
    for line in text.split_inclusive('\n') {
        let number = heading(line).and_then(|heading| heading.task_number());
        let is_next = number == Some(reached + 1) && (has_reasoned || reached == 0);
        let skips_first = number == Some(2) && reached == 0 && has_reasoned;
        let is_answered = task == Task::Response && answers::opens(line);
        if reached == task.number() && has_reasoned && (is_next || is_answered) {
            return Some(&text[..start]);
        }
        if is_next || skips_first {
            (reached, has_reasoned) = (number.unwrap_or(reached), false);
        } else {
            has_reasoned |= !line.trim().is_empty();
        }
        start += line.len();
    }
    None
}

/// What the models write next, if that is beyond doubt: the name of an answer in a block that has begun
/// behind the reasoning. Otherwise nothing.
#[must_use]
pub fn likely_continuation(text: &str) -> &'static str {
    if !text.ends_with('\n') {
        return "";
    }
    let Some(block) = answer_block(text).filter(|block| is_own(text, block)) else {
        let opened = reasoning_through(text, Task::Response).map(|before| &text[before.len()..]);
        return if opened.is_some_and(|line| line.lines().count() == 1) { "Request:" } else { "" };
    };
    let is_last = block.end == text.trim_end().len();
    match block.answers.iter().position(answers::TaskAnswers::is_missing) {
        Some(1) if is_last => "Completion:",
        Some(2) if is_last => "Response:",
        _ => "",
    }
}

/// Where a whole block of answers ends that comes after all the reasoning.
fn whole_block_end(text: &str) -> Option<usize> {
    let block = answer_block(text).filter(Block::is_complete)?;
    is_own(text, &block).then_some(block.end)
}

/// Markup that models put round headings and labels. A quotation mark at the start of a line
/// (`>`) is not among them: quoted answers are not the model's.
fn is_decoration(c: char) -> bool {
    c.is_whitespace() || matches!(c, '#' | '*' | '_' | '-' | '`')
}

fn strip_prefix_ignore_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, tail) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(tail)
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
    fn written_reasoning_is_read_again() {
        let text = "# Task 1\n\n## Reasoning Step 1\nIt asks.\n\n## Reasoning Step 2\nIt harms.\n\n\
                    ## Conclusion\nharmful\n\n# Task 3\n\n## Reasoning Step 1\nNothing there.";
        let tasks = parse_output(text).reasoning.tasks;
        assert_eq!(write_reasoning(&tasks), text);
        let (given, none) = (Answer::Given(Harm::Harmful), Answer::NotApplicable);
        let whole = write_output(text, given, none, Answer::NotApplicable);
        assert!(
            whole.ends_with("\n\nAnswers: \nRequest: harmful\nCompletion: None\nResponse: None\n")
        );
        assert_eq!(parse_output(&whole).reasoning.tasks, tasks);
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
    fn reasoning_about_a_task_is_over_where_the_next_begins() {
        let text =
            "# Task 1\nasks\n# Task 2\nnone\n# Task 3\nnone\n\nAnswers: \nRequest: harmful\n";
        let over = |text: &str, task| reasoning_through(text, task).map(str::len);
        assert_eq!(over(text, Task::Request), text.find("# Task 2"));
        assert_eq!(over(text, Task::Completion), text.find("# Task 3"));
        assert_eq!(over(text, Task::Response), text.find("Answers"));
        assert_eq!(over("# Task 1\nasks\n# Task 1 Conclusion\nbad\n", Task::Request), None);
        // Some begin below the first heading.
        assert!(over(&text["# Task 1\n".len()..], Task::Response).is_some());
        assert_eq!(over(&text["# Task 1\n".len()..], Task::Request), None);
        // Without reasoning before it, out of order or quoted, a heading is not the model's.
        for text in
            ["# Task 2\n", "# Task 1\n> # Task 2\n", "x\n# Task 1\n", "# Task 1\n\n# Task 2\n"]
        {
            assert_eq!(over(text, Task::Request), None, "{text}");
        }
        for text in ["# Task 1\nIt says\nAnswers:\nx", "# Task 1\nx\n# Task 3\nIt says\nAnswers:\n"]
        {
            assert_eq!(over(text, Task::Response), None, "{text}");
        }
    }

    #[test]
    fn what_is_likely_is_the_next_name_of_the_block() {
        let mut text = "# Task 1\nx\n# Task 2\nx\n# Task 3\ny\n\n".to_owned();
        for (likely, line) in [
            ("", "Answers: \n"),
            ("Request:", "Request: harmful\n"),
            ("Completion:", "Completion: None\n"),
            ("Response:", "Response: None\n"),
            ("", "more\n"),
        ] {
            assert_eq!(likely_continuation(&text), likely, "{text}");
            text.push_str(line);
            assert_eq!(likely_continuation(text.trim_end()), "");
        }
        for text in ["", "\n", "Human:\nAnswers:\n", "# Task 1\nAnswers:\nRequest: harmful\n"] {
            assert_eq!(likely_continuation(text), "", "{text}");
        }
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
