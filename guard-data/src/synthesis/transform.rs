//! Shorter traces from whole ones, so that one model can learn to answer with and without
//! reasoning.

use guard_core::parse::{ParsedOutput, write_output, write_reasoning};
use guard_core::{Answer, Label, PromptStyle, Reason, ReasoningMode, Step, TaskReasoning};

use crate::reasoned::ReasonedSample;

/// The same sample in another mode: its instruction asks for that mode, and its output has no more
/// than that.
///
/// One sentence a task is the conclusion of the task where it has one that is a sentence, or else
/// the first sentence of its last step. NVIDIA's "Safety Through Reasoning" (arXiv 2505.20087) found
/// sentences as good as whole traces, and models that learned both modes better than either.
///
/// ```
/// use guard_data::{Exchange, ReasonedSample, ReasoningMode, with_mode};
///
/// let block = "Answers: \nRequest: unharmful\nCompletion: None\nResponse: None\n";
/// let steps = "# Task 1\n\n## Reasoning Step 1\nIt is about bread. Bread is food.";
/// let whole = ReasonedSample::new(&Exchange::prompt("Bread?"), format!("{steps}\n\n{block}"));
/// assert_eq!(with_mode(&whole, ReasoningMode::LabelOnly).output, block);
/// let short = with_mode(&whole, ReasoningMode::Sentence);
/// assert!(short.output.starts_with("# Task 1\n\n## Reasoning Step 1\nIt is about bread.\n\n"));
/// ```
#[must_use]
pub fn with_mode(sample: &ReasonedSample, mode: ReasoningMode) -> ReasonedSample {
    with_style(sample, PromptStyle::default(), mode)
}

/// The same sample in another mode, with the instruction of a prompt style: what a model that is
/// asked in this style is to learn from.
#[must_use]
pub fn with_style(
    sample: &ReasonedSample,
    style: PromptStyle,
    mode: ReasoningMode,
) -> ReasonedSample {
    let mut short = sample.clone();
    short.instruction = style.instruction(mode).into_owned();
    let parsed = sample.parsed();
    let reasoning = match mode {
        ReasoningMode::Full => return short,
        ReasoningMode::LabelOnly => String::new(),
        ReasoningMode::Sentence => {
            let tasks = parsed.reasoning.tasks.iter().filter_map(sentence_of);
            write_reasoning(&tasks.collect::<Vec<_>>())
        }
    };
    let ParsedOutput { request, completion, response, .. } = parsed;
    short.output = write_output(&reasoning, kept(request), kept(completion), kept(response));
    short
}

/// `None` in a block stays there.
fn kept<L: Label>(answer: Answer<L>) -> Answer<L> {
    match answer {
        Answer::Undetermined(Reason::AnsweredNone) => Answer::NotApplicable,
        answer => answer,
    }
}

fn sentence_of(task: &TaskReasoning) -> Option<TaskReasoning> {
    let conclusion = task.conclusion.as_deref().map(first_sentence);
    let is_sentence = |text: &&str| text.split_whitespace().count() > 3;
    let last_step = task.steps.last().map(|step| first_sentence(&step.text));
    let text = conclusion.filter(is_sentence).or(last_step)?.to_owned();
    Some(TaskReasoning { task: Some(task.task?), steps: vec![Step { text }], conclusion: None })
}

/// The text up to the first mark that ends a sentence and is followed by white space.
fn first_sentence(text: &str) -> &str {
    let text = text.trim();
    let ends = |(place, c): (usize, char)| {
        let after = &text[place + c.len_utf8()..];
        if !(matches!(c, '.' | '!' | '?' | '\n') && after.starts_with(char::is_whitespace)) {
            return None;
        }
        // A dot behind one letter or a number is an abbreviation or a numeral.
        let word = text[..place].rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let is_short =
            c == '.' && (word.chars().count() < 2 || word.bytes().all(|b| b.is_ascii_digit()));
        (!is_short).then(|| place + c.len_utf8())
    };
    let end = text.char_indices().find_map(ends).unwrap_or(text.len());
    text[..end].trim_end()
}

#[cfg(test)]
mod tests {
    use guard_core::{Exchange, Labels};

    use super::*;

    const WHOLE: &str = "# Task 1\n\n## Reasoning Step 1\nIt asks. It is e.g. fine?\n\n## Reasoning Step 2\n\
        The U.S. law of 1998. allows it! Always.\n\n# Task 2\n\n## Reasoning Step 1\nIt helps.\n\n\
        ## Conclusion\nThe assistant complies with the request. So be it.\n\n# Task 3\n\n\
        ## Reasoning Step 1\nNo harm\nis seen here\n\n## Conclusion\nunharmful\n\nAnswers: \n\
        Request: unharmful\nCompletion: compliance\nResponse: unharmful\n";

    #[test]
    fn each_task_keeps_one_sentence_and_the_answers_stay() {
        let whole = ReasonedSample::new(&Exchange::pair("a", "b"), WHOLE).with_origin("s", "1");
        let short = with_mode(&whole, ReasoningMode::Sentence);
        let parsed = short.parsed();
        let steps: Vec<&str> = parsed.reasoning.steps().map(|step| step.text.as_str()).collect();
        let expected = [
            "The U.S. law of 1998. allows it!",
            "The assistant complies with the request.",
            "No harm\nis seen here",
        ];
        assert_eq!(steps, expected);
        for mode in [ReasoningMode::Full, ReasoningMode::Sentence, ReasoningMode::LabelOnly] {
            let other = with_mode(&whole, mode);
            assert_eq!(other.labels(), whole.labels());
            assert_ne!(other.labels(), Labels::default());
            assert_eq!((other.input, other.id), (whole.input.clone(), whole.id.clone()));
            assert_eq!(other.instruction, mode.instruction());
        }
        assert_eq!(with_mode(&whole, ReasoningMode::Full), whole);
        let compact = with_style(&whole, PromptStyle::Compact, ReasoningMode::LabelOnly);
        assert_eq!(compact.instruction, "Judge this exchange.\n");
        assert_eq!(compact.output, with_mode(&whole, ReasoningMode::LabelOnly).output);
    }

    #[test]
    fn odd_traces_do_no_harm() {
        for output in ["", "Answers:", "# Task 1", "# Task 9\n## Step 1\nx. y", "...", "é. ü! ?"]
        {
            let whole = ReasonedSample::new(&Exchange::prompt("a"), output);
            let _ = with_mode(&whole, ReasoningMode::Sentence);
        }
    }
}
