//! The parser on cases in files: ours, and the published outputs where they are there.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::io::BufRead;

use guard_core::parse::{ParsedOutput, is_reasoned, parse_output, released_answers, write_output};
use guard_core::{Answer, Completion, Harm, Label, Reason};
use proptest::prelude::*;
use serde::Deserialize;
use support::{shared, testdata};

#[derive(Deserialize)]
struct Cases {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    text: String,
    request: String,
    completion: String,
    response: String,
    steps: Option<usize>,
    consistent: Option<bool>,
}

fn word<L: Label>(answer: Answer<L>) -> &'static str {
    match answer {
        Answer::Given(label) => label.word(),
        Answer::Undetermined(Reason::NoAnswers) => "no_answers",
        Answer::Undetermined(Reason::MissingAnswer) => "missing",
        Answer::Undetermined(Reason::AnsweredNone) => "none",
        Answer::Undetermined(Reason::UnknownLabel) => "unknown",
        Answer::Undetermined(Reason::ConflictingAnswers) => "conflicting",
        other => panic!("the parser does not say {other:?}"),
    }
}

fn words(parsed: &ParsedOutput) -> [&'static str; 3] {
    [word(parsed.request), word(parsed.completion), word(parsed.response)]
}

#[test]
fn golden_cases() {
    let file = std::fs::read_to_string(testdata("parser/cases.toml")).unwrap();
    let cases: Cases = toml::from_str(&file).unwrap();
    assert!(cases.case.len() >= 20);
    for case in cases.case {
        let parsed = parse_output(&case.text);
        let expected = [case.request, case.completion, case.response];
        assert_eq!(words(&parsed), expected.each_ref().map(String::as_str), "{}", case.name);
        if let Some(steps) = case.steps {
            assert_eq!(parsed.reasoning.step_count(), steps, "{}", case.name);
        }
        if case.consistent.is_some() {
            assert_eq!(parsed.consistent(), case.consistent, "{}", case.name);
        }
    }
}

#[derive(Deserialize)]
struct Prediction {
    predict: String,
}

/// Each published output, by its model and benchmark.
fn published() -> Option<BTreeMap<String, Vec<String>>> {
    let folder = shared("data/predictions")?;
    let labels = expected_letters();
    let read = |name: &String| {
        let path = folder.join(name).join("generated_predictions.jsonl");
        let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
        let rows = file
            .lines()
            .map(|line| serde_json::from_str::<Prediction>(&line.unwrap()).unwrap().predict);
        (name.clone(), rows.collect())
    };
    Some(labels.keys().map(read).collect())
}

fn expected_letters() -> BTreeMap<String, String> {
    let file = std::fs::read_to_string(testdata("parser/published.json")).unwrap();
    serde_json::from_str(&file).unwrap()
}

#[test]
fn published_outputs_are_read_exactly() {
    let Some(published) = published() else { return };
    let letter = |word: &str| match word {
        "unknown" | "missing" | "no_answers" | "conflicting" => '?',
        word => word.chars().next().unwrap(),
    };
    let mut outputs = 0;
    for (name, expected) in expected_letters() {
        let rows = &published[&name];
        let expected: Vec<&str> = expected.split(' ').collect();
        assert_eq!(rows.len(), expected.len(), "{name}");
        for (row, (text, expected)) in rows.iter().zip(expected).enumerate() {
            let found: String = words(&parse_output(text)).into_iter().map(letter).collect();
            assert_eq!(found, expected, "{name} row {row}");
        }
        outputs += rows.len();
    }
    assert_eq!(outputs, 4390);
}

/// The share of contradictions is known from a rough count by hand: 6 of 340 outputs of the 1B
/// model and 2 of 349 of the 8B model on XSTest, in the conclusion of task 3.
#[test]
fn published_contradictions_are_rare_and_found() {
    let Some(published) = published() else { return };
    for (model, most) in [("1B", 20), ("8B", 12)] {
        let rows =
            published.iter().filter(|(name, _)| name.starts_with(model) && name.contains("XSTest"));
        let flags: Vec<bool> = rows
            .flat_map(|(_, rows)| rows)
            .filter_map(|text| parse_output(text).consistent())
            .collect();
        let contradictions = flags.iter().filter(|consistent| !**consistent).count();
        eprintln!(
            "{model}: {contradictions} contradictions in {} outputs with conclusions",
            flags.len()
        );
        assert!(flags.len() > 200 && (1..=most).contains(&contradictions), "{model}");
    }
}

/// What a guard does not believe of the published outputs: blocks behind text without headings.
#[test]
fn nearly_all_published_outputs_are_reasoned() {
    let Some(published) = published() else { return };
    let texts: Vec<&String> = published.values().flatten().collect();
    let unreasoned = texts.iter().filter(|text| {
        let parsed = parse_output(text);
        parsed.request.given().is_some() && !is_reasoned(text)
    });
    let unreasoned = unreasoned.count();
    eprintln!("{unreasoned} of {} outputs give answers without their reasoning", texts.len());
    assert!(unreasoned * 100 < texts.len());
}

proptest! {
    /// T-25: any text is read without a panic, and no answer comes from nowhere.
    #[test]
    fn any_text_is_read(text in "\\PC{0,400}") {
        let parsed = parse_output(&text);
        let lower = text.to_lowercase();
        if parsed.request.given().is_some() {
            prop_assert!(lower.contains("request") && lower.contains("harmful"));
        }
    }

    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_output(&String::from_utf8_lossy(&bytes));
    }

    /// Pieces of the format in any order: the hardest texts for a reader of lines.
    #[test]
    fn any_mixture_of_the_formats_pieces_is_read(pieces in proptest::collection::vec(0..PIECES.len(), 0..40)) {
        let text: String = pieces.into_iter().map(|piece| PIECES[piece]).collect();
        let parsed = parse_output(&text);
        let _ = parsed.consistent();
        prop_assert!(parsed.reasoning.text.len() <= text.len());
    }

    /// T-25: what stands before a block, or after it, does not change its answers.
    #[test]
    fn noise_round_a_block_is_nothing(before in "[a-z .#\\n]{0,200}", after in "[a-z .\\n]{0,200}") {
        let block = "Answers: \nRequest: harmful\nCompletion: refusal\nResponse: unharmful";
        let parsed = parse_output(&format!("{before}\n{block}\n\n{after}"));
        prop_assert_eq!(words(&parsed), ["harmful", "refusal", "unharmful"]);
    }

    /// Render, then parse, is the identity.
    #[test]
    fn what_is_written_is_read(request in any::<bool>(), completion in any::<bool>(), response in any::<bool>(), reasoned in any::<bool>()) {
        let harm = |harmful| Answer::Given(if harmful { Harm::Harmful } else { Harm::Unharmful });
        let done = Answer::Given(if completion { Completion::Refusal } else { Completion::Compliance });
        let reasoning = if reasoned { "# Task 1\nx\n---" } else { "" };
        let text = write_output(reasoning, harm(request), done, harm(response));
        let expected = [word(harm(request)), word(done), word(harm(response))];
        prop_assert_eq!(words(&parse_output(&text)), expected);
        let released = released_answers(&text);
        prop_assert_eq!([word(released.request), word(released.completion), word(released.response)], expected);
    }
}

const PIECES: [&str; 16] = [
    "# Task 1",
    "# Task 3\n",
    "## Reasoning Step 1: ",
    "## Conclusion",
    "Answers:",
    "\n",
    " ",
    "---\n",
    "Request: harmful",
    "Completion: ",
    "Response: None",
    ", ",
    "> ",
    "é\u{301}",
    "harmful ",
    "# Task 99999999999\n",
];
