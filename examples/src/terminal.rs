//! Showing verdicts to people. Model text is hostile: it never reaches the terminal as control
//! characters.

use std::fmt::Write;

use guard_infer::guard_core::visible;
use guard_infer::{Action, Answer, Decision, Harm, Judged, Label, Reasoning, Task, Verdict};

/// How verdicts are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// The columns of the terminal.
    pub width: usize,
    /// Whether colours are understood and wanted.
    pub colour: bool,
}

impl Style {
    /// The style for standard output: colours on a terminal, unless `NO_COLOR` is set.
    #[must_use]
    pub fn detect() -> Self {
        use std::io::IsTerminal;
        let terminal = std::io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none();
        Self { width: textwrap::termwidth().clamp(40, 100), colour }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

const BOLD: &str = "1";
const RED: &str = "1;31";
const GREEN: &str = "1;32";
const YELLOW: &str = "1;33";

/// A verdict with its reasoning, its answers and the decision, ready to print.
#[must_use]
pub fn render(verdict: &Verdict, decision: Decision, style: Style) -> String {
    let mut out = String::new();
    if let Some(reasoning) = &verdict.reasoning {
        render_reasoning(&mut out, reasoning, style);
    }
    let _ = writeln!(out, "{}", style.paint(BOLD, "Verdict"));
    line(&mut out, "request", &harm(verdict.request, style));
    let completion = verdict.completion;
    let refusal = probability("of refusal", completion.score);
    line(&mut out, "completion", &format!("{}{refusal}", completion.answer));
    line(&mut out, "response", &harm(verdict.response, style));
    if verdict.consistent == Some(false) {
        line(&mut out, "note", &style.paint(YELLOW, "the reasoning concludes otherwise"));
    }
    let (code, word) = match decision.action {
        Action::Allow => (GREEN, "ALLOW"),
        Action::Block => (RED, "BLOCK"),
    };
    line(&mut out, "decision", &format!("{} ({})", style.paint(code, word), decision.cause));
    let usage = verdict.usage;
    let seconds = usage.latency_ms as f64 / 1000.0;
    let cost = format!(
        "{} + {} tokens in {seconds:.1} s, ended by {}",
        usage.prompt_tokens, usage.completion_tokens, verdict.finish
    );
    line(&mut out, "cost", &cost);
    out
}

fn line(out: &mut String, name: &str, value: &str) {
    let _ = writeln!(out, "  {name:<11}{value}");
}

fn harm(judged: Judged<Harm>, style: Style) -> String {
    let code = match judged.answer {
        Answer::Given(label) if label.is_positive() => RED,
        Answer::Given(_) => GREEN,
        Answer::Undetermined(_) => YELLOW,
        _ => BOLD,
    };
    let answer = style.paint(code, &judged.answer.to_string());
    format!("{answer}{}", probability("of harm", judged.score))
}

/// What a score says, if there is one.
fn probability(what: &str, score: Option<f64>) -> String {
    score.map_or_else(String::new, |score| format!(" (probability {what}: {score:.2})"))
}

fn render_reasoning(out: &mut String, reasoning: &Reasoning, style: Style) {
    if reasoning.tasks.is_empty() {
        return;
    }
    let _ = writeln!(out, "{}", style.paint(BOLD, "Reasoning"));
    for task in &reasoning.tasks {
        let title = match task.task {
            Some(Task::Request) => "Is the request harmful?",
            Some(Task::Completion) => "Did the assistant refuse?",
            Some(Task::Response) => "Is the response harmful?",
            None => "Outside the three tasks",
        };
        let _ = writeln!(out, "  {}", style.paint(BOLD, title));
        for (number, step) in task.steps.iter().enumerate() {
            paragraph(out, &format!("    {}. ", number + 1), &step.text, style);
        }
        if let Some(conclusion) = &task.conclusion {
            paragraph(out, "    => ", conclusion, style);
        }
    }
    out.push('\n');
}

/// Wrapped text behind a mark, the following lines indented as far.
fn paragraph(out: &mut String, mark: &str, text: &str, style: Style) {
    let indent = " ".repeat(mark.len());
    let text = visible(text);
    let options =
        textwrap::Options::new(style.width).initial_indent(mark).subsequent_indent(&indent);
    let _ = writeln!(out, "{}", textwrap::fill(text.trim(), options));
}

#[cfg(test)]
mod tests {
    use guard_infer::guard_core::testing::ScriptedGenerator;
    use guard_infer::{Exchange, Guard, GuardReasonerFormat};
    use guard_infer::{Finish, Policy, Reason, ReasoningGuard};

    use super::*;

    const PLAIN: Style = Style { width: 60, colour: false };

    #[test]
    fn model_text_cannot_steer_the_terminal() {
        let model = ScriptedGenerator::new(|_| {
            "# Task 1\n\x1b[2J\x1b]0;owned\x07safe\u{202e}txt\r\n# Task 3\nNone.\nAnswers:\nRequest: unharmful\nCompletion: None\nResponse: None".to_owned()
        });
        let guard = ReasoningGuard::new("x", model, GuardReasonerFormat::default());
        let verdict = guard.judge_one(&Exchange::prompt("hi")).unwrap();
        let shown = render(&verdict, Policy::default().decide(&verdict), PLAIN);
        assert!(shown.contains("\\u{1b}[2J"), "{shown}");
        assert!(!shown.contains(['\x1b', '\x07', '\r', '\u{202e}']));
        assert!(shown.contains("request    unharmful") && shown.contains("ALLOW"));
    }

    #[test]
    fn what_was_not_judged_is_shown_as_such() {
        let mut verdict = Verdict::undetermined(Reason::CutOff(Finish::TokenBudget));
        verdict.finish = Finish::TokenBudget;
        let shown = render(&verdict, Policy::default().decide(&verdict), PLAIN);
        assert!(shown.contains("undetermined (cut off: token budget)"), "{shown}");
        assert!(shown.contains("BLOCK"));
    }
}
