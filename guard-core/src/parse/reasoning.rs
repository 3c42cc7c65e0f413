//! The reasoning before the answers: tasks, steps and conclusions.

use super::{is_decoration, strip_prefix_ignore_case};
use crate::label::Task;
use crate::reasoning::{Reasoning, Step, TaskReasoning};

/// The headings that give the reasoning its shape.
pub(super) enum Heading<'a> {
    /// `# Task 2: ...`; what follows the number is a title.
    Task(u32),
    /// `## Reasoning Step 3: ...`, with the text after it on the same line.
    Step(&'a str),
    /// `## Conclusion: ...`, `# Task 1 Conclusion`, `# Conclusion for Task 1`, `## Answer`.
    Conclusion(Option<u32>, &'a str),
}

impl Heading<'_> {
    pub(super) fn task_number(&self) -> Option<u32> {
        match self {
            Self::Task(number) => Some(*number),
            _ => None,
        }
    }
}

pub(super) fn heading(line: &str) -> Option<Heading<'_>> {
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

pub(super) fn parse_reasoning(text: &str) -> Reasoning {
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
