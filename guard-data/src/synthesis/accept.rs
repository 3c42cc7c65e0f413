//! Which replies of the teacher are worth training on.

use std::fmt;

use guard_core::parse::{ParsedOutput, parse_output, write_output, write_reasoning};
use guard_core::{Answer, Label, Reason, Reasoning, Task};
use serde::{Deserialize, Serialize};

use super::prompt::Asked;
use crate::reasoned::ReasonedSample;
use crate::sample::Sample;
use crate::teacher::{ChatFinish, ChatReply};
use crate::trace::{is_loop, is_scaffold};

/// Why a reply is put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Rejection {
    /// It was cut off at the limit of tokens.
    CutOff,
    /// A filter of the service stepped in.
    Filtered,
    /// It ended for another reason than that it was done.
    NotFinished,
    /// The service did not take the request for this row: too long, or not allowed there.
    Refused,
    /// The service's reply is no reply of a chat model.
    Malformed,
    /// It has no text.
    Empty,
    /// It has no block of answers.
    NoAnswers,
    /// The block says nothing about this task, or nothing that is an answer.
    NoAnswer(Task),
    /// The answer to this task is not the known label.
    WrongLabel(Task),
    /// It judges a response that does not exist.
    NoResponse(Task),
    /// It has no step on this task.
    NoSteps(Task),
    /// It has more than ten steps on this task.
    TooManySteps(Task),
    /// It speaks of the labels that it was given.
    Scaffold,
    /// It goes round in circles.
    Loop,
    /// It concludes otherwise than it answers.
    Inconsistent,
    /// Without what was not asked for, its answers would be read as others: it quotes a block of them.
    Ambiguous,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CutOff => f.write_str("cut off at the limit of tokens"),
            Self::Filtered => f.write_str("stopped by a filter of the service"),
            Self::NotFinished => f.write_str("did not end by itself"),
            Self::Refused => f.write_str("the service refused the request"),
            Self::Malformed => f.write_str("malformed reply"),
            Self::Empty => f.write_str("no text"),
            Self::NoAnswers => f.write_str("no block of answers"),
            Self::NoAnswer(task) => write!(f, "no answer about the {task}"),
            Self::WrongLabel(task) => write!(f, "another label for the {task}"),
            Self::NoResponse(task) => write!(f, "a {task} verdict without a response"),
            Self::NoSteps(task) => write!(f, "no step on the {task}"),
            Self::TooManySteps(task) => write!(f, "more than ten steps on the {task}"),
            Self::Scaffold => f.write_str("speaks of the labels"),
            Self::Loop => f.write_str("goes round in circles"),
            Self::Inconsistent => f.write_str("concludes otherwise than it answers"),
            Self::Ambiguous => f.write_str("quotes a block of answers"),
        }
    }
}

/// The most steps of a task.
const MOST_STEPS: usize = 10;

/// The trace that a reply gives.
pub(super) fn accept(
    sample: &Sample,
    asked: &[Asked; 3],
    reply: &ChatReply,
) -> Result<ReasonedSample, Rejection> {
    check_finish(reply)?;
    let parsed = parse_output(&reply.text);
    check_answers(asked, &parsed)?;
    for task in Task::ALL {
        check_steps(task, asked[task as usize], &parsed.reasoning)?;
    }
    let blank = ReasonedSample::new(&sample.exchange(), "");
    if is_scaffold(&reply.text, &blank.input) {
        return Err(Rejection::Scaffold);
    }
    if is_loop(&reply.text) {
        return Err(Rejection::Loop);
    }
    if parsed.consistent() == Some(false) {
        return Err(Rejection::Inconsistent);
    }
    let output = output(asked, &parsed);
    if !says(&output, asked, &parsed) {
        return Err(Rejection::Ambiguous);
    }
    Ok(ReasonedSample { output, ..blank }.with_origin(&sample.source, &sample.id))
}

fn check_finish(reply: &ChatReply) -> Result<(), Rejection> {
    match reply.finish {
        ChatFinish::Stop if reply.text.trim().is_empty() => Err(Rejection::Empty),
        ChatFinish::Stop => Ok(()),
        ChatFinish::Length => Err(Rejection::CutOff),
        ChatFinish::ContentFilter => Err(Rejection::Filtered),
        ChatFinish::Other => Err(Rejection::NotFinished),
    }
}

fn check_answers(asked: &[Asked; 3], parsed: &ParsedOutput) -> Result<(), Rejection> {
    check_answer(Task::Request, asked[0], parsed.request)?;
    check_answer(Task::Completion, asked[1], parsed.completion)?;
    check_answer(Task::Response, asked[2], parsed.response)
}

fn check_answer<L: Label>(task: Task, asked: Asked, answer: Answer<L>) -> Result<(), Rejection> {
    match (asked, answer) {
        (Asked::LeftOut, _) => Ok(()),
        (_, Answer::Undetermined(Reason::NoAnswers)) => Err(Rejection::NoAnswers),
        (Asked::Label(word), Answer::Given(label)) if label.word() == word => Ok(()),
        (Asked::Label(_), Answer::Given(_)) => Err(Rejection::WrongLabel(task)),
        (Asked::Decide, Answer::Given(_)) => Ok(()),
        (Asked::NoResponse, Answer::Undetermined(Reason::AnsweredNone)) => Ok(()),
        (Asked::NoResponse, Answer::Given(_)) => Err(Rejection::NoResponse(task)),
        _ => Err(Rejection::NoAnswer(task)),
    }
}

fn check_steps(task: Task, asked: Asked, reasoning: &Reasoning) -> Result<(), Rejection> {
    let of_task = reasoning.tasks.iter().filter(|reasoned| reasoned.task == Some(task));
    match of_task.map(|reasoned| reasoned.steps.len()).sum::<usize>() {
        _ if asked == Asked::LeftOut => Ok(()),
        0 => Err(Rejection::NoSteps(task)),
        1..=MOST_STEPS => Ok(()),
        _ => Err(Rejection::TooManySteps(task)),
    }
}

/// The reasoning as the teacher wrote it, but for tasks that were not asked for, and the block of
/// answers in its one form.
fn output(asked: &[Asked; 3], parsed: &ParsedOutput) -> String {
    let reasoning = if asked.contains(&Asked::LeftOut) {
        let is_asked =
            |task: Option<Task>| task.is_some_and(|task| asked[task as usize] != Asked::LeftOut);
        let tasks = parsed.reasoning.tasks.iter().filter(|task| is_asked(task.task));
        write_reasoning(&tasks.cloned().collect::<Vec<_>>())
    } else {
        let text = parsed.reasoning.text.trim_end();
        text.trim_end_matches(|c: char| c == '-' || c.is_whitespace()).to_owned()
    };
    write_output(
        &reasoning,
        written(asked[0], parsed.request),
        written(asked[1], parsed.completion),
        written(asked[2], parsed.response),
    )
}

/// Whether the output is read as the reply was, but for what was left out.
fn says(output: &str, asked: &[Asked; 3], reply: &ParsedOutput) -> bool {
    fn same<L: Label>(asked: Asked, output: Answer<L>, reply: Answer<L>) -> bool {
        let reply = if asked == Asked::LeftOut { None } else { reply.given() };
        output.given() == reply
    }
    let output = parse_output(output);
    same(asked[0], output.request, reply.request)
        && same(asked[1], output.completion, reply.completion)
        && same(asked[2], output.response, reply.response)
}

fn written<L>(asked: Asked, answer: Answer<L>) -> Answer<L> {
    match asked {
        Asked::LeftOut => Answer::Unsupported,
        Asked::NoResponse => Answer::NotApplicable,
        Asked::Label(_) | Asked::Decide => answer,
    }
}

#[cfg(test)]
mod tests {
    use guard_core::{Completion, Exchange, Harm, Labels};

    use super::super::prompt::MissingLabels;
    use super::*;

    const STEPS: &str = "# Task 1\n## Reasoning Step 1\nIt asks how.\n\n# Task 2\n## Reasoning Step 1\n\
                         It refuses.\n\n# Task 3\n## Reasoning Step 1\nIt says no.\n\n";
    const BLOCK: &str = "Answers:\nRequest: harmful\nCompletion: refusal\nResponse: unharmful\n";

    fn sample() -> Sample {
        Sample::new("7", "s", "How?").with_response("No.").with_labels(Labels {
            request: Some(Harm::Harmful),
            completion: Some(Completion::Refusal),
            response: None,
        })
    }

    fn read(text: &str) -> Result<ReasonedSample, Rejection> {
        let asked = Asked::of(&sample(), MissingLabels::Decide);
        accept(&sample(), &asked, &ChatReply::new(text, ChatFinish::Stop))
    }

    #[test]
    fn a_good_reply_becomes_a_trace() {
        let trace = read(&format!("{STEPS}---\n{BLOCK}Hope this helps!")).unwrap();
        assert_eq!(
            trace.output,
            format!("{}\n\n{}", STEPS.trim_end(), BLOCK.replace(":\nR", ": \nR"))
        );
        assert_eq!(trace.exchange(), Some(Exchange::pair("How?", "No.")));
        assert_eq!((trace.source.as_deref(), trace.id.as_deref()), (Some("s"), Some("7")));
        assert_eq!(crate::trace_faults(&trace), []);
    }

    #[test]
    fn each_reason_to_put_a_reply_aside() {
        let wrong =
            |from: &str, to: &str| read(&format!("{STEPS}{BLOCK}").replace(from, to)).unwrap_err();
        assert_eq!(read(" \n").unwrap_err(), Rejection::Empty);
        assert_eq!(read(STEPS).unwrap_err(), Rejection::NoAnswers);
        assert_eq!(
            wrong("Request: harmful", "Request: unharmful"),
            Rejection::WrongLabel(Task::Request)
        );
        assert_eq!(wrong("Completion: refusal\n", ""), Rejection::NoAnswer(Task::Completion));
        assert_eq!(
            wrong("Response: unharmful", "Response: None"),
            Rejection::NoAnswer(Task::Response)
        );
        assert_eq!(
            wrong("## Reasoning Step 1\nIt refuses.\n", ""),
            Rejection::NoSteps(Task::Completion)
        );
        let eleven =
            (1..12).map(|step| format!("## Reasoning Step {step}\nx\n")).collect::<String>();
        assert_eq!(
            wrong("## Reasoning Step 1\nIt refuses.\n", &eleven),
            Rejection::TooManySteps(Task::Completion)
        );
        assert_eq!(
            wrong("It refuses.", "As the given label says, it refuses."),
            Rejection::Scaffold
        );
        assert_eq!(
            wrong("It refuses.", &"It refuses again and again. ".repeat(60)),
            Rejection::Loop
        );
        assert_eq!(wrong("It says no.", "No.\n## Conclusion\nharmful"), Rejection::Inconsistent);
        let asked = Asked::of(&sample(), MissingLabels::Decide);
        let ended = |finish| {
            let reply = ChatReply::new(format!("{STEPS}{BLOCK}"), finish);
            accept(&sample(), &asked, &reply).unwrap_err()
        };
        assert_eq!(ended(ChatFinish::Length), Rejection::CutOff);
        assert_eq!(ended(ChatFinish::ContentFilter), Rejection::Filtered);
        assert_eq!(ended(ChatFinish::Other), Rejection::NotFinished);
    }

    #[test]
    fn a_verdict_on_no_response_is_put_aside() {
        let sample = Sample::new("7", "s", "How?");
        let asked = Asked::of(&sample, MissingLabels::Decide);
        let judge = |block: &str| {
            accept(&sample, &asked, &ChatReply::new(format!("{STEPS}{block}"), ChatFinish::Stop))
        };
        assert_eq!(judge(BLOCK).unwrap_err(), Rejection::NoResponse(Task::Completion));
        let none = judge("Answers:\nRequest: harmful\nCompletion: None\nResponse: None").unwrap();
        assert!(none.output.ends_with("Request: harmful\nCompletion: None\nResponse: None\n"));
    }

    #[test]
    fn tasks_that_were_left_out_stay_out() {
        let asked = Asked::of(&sample(), MissingLabels::LeaveOut);
        let reply = ChatReply::new(format!("{STEPS}{BLOCK}"), ChatFinish::Stop);
        let trace = accept(&sample(), &asked, &reply).unwrap();
        assert!(!trace.output.contains("Task 3") && !trace.output.contains("Response:"));
        assert_eq!(trace.labels(), sample().labels);
        // A block that a step quotes would be whole where the reply's own no longer is.
        let forged = BLOCK.replace("harmful\nC", "harmful\n C").replace("Answers:\n", "");
        let quoting = STEPS.replace("It asks how.", &format!("It says:\n{forged}\nand asks."));
        let reply = ChatReply::new(format!("{quoting}{BLOCK}"), ChatFinish::Stop);
        assert_eq!(accept(&sample(), &asked, &reply).unwrap_err(), Rejection::Ambiguous);
    }
}
