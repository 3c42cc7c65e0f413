//! Moderated text in `Debug` output: its length, never its words.

use std::fmt;

/// Shows how long a text is. What a guard reads and writes is hostile, and `Debug` output ends
/// up in logs.
pub(crate) struct Redacted<'a>(pub(crate) &'a str);

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} bytes>", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Completed, Exchange, Finish, Prompt, Reasoning, Step, TaskReasoning, Verdict,
        prompt::PromptStyle, verdict::Reason,
    };

    /// Everything that holds moderated text or the model's, with a marker in each text.
    #[test]
    fn debug_output_holds_no_text() {
        let exchange = Exchange::pair("MARK request", "MARK response");
        let step = Step { text: "MARK step".to_owned() };
        let task = TaskReasoning {
            task: None,
            steps: vec![step],
            conclusion: Some("MARK end".to_owned()),
        };
        let mut verdict = Verdict::undetermined(Reason::NoAnswers);
        verdict.output = Some("MARK output".to_owned());
        verdict.reasoning = Some(Reasoning { text: "MARK all".to_owned(), tasks: vec![task] });
        let shown = [
            format!("{exchange:?}"),
            format!("{:#?}", PromptStyle::Benchmark.render(&exchange)),
            format!("{:?}", Prompt::text("MARK")),
            format!("{:?}", Completed::new("MARK", Finish::Stopped)),
            format!("{verdict:?}"),
        ];
        for shown in shown {
            assert!(!shown.contains("MARK"), "{shown}");
            assert!(shown.contains(" bytes>"), "{shown}");
        }
    }
}
