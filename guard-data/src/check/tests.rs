use guard_core::{Completion, Exchange, Harm, Labels, Task};

use super::*;
use crate::reasoned::ReasonedSample;
use crate::sample::Sample;
use crate::source::InMemorySource;
use crate::trace::TraceFault;

fn sample(id: usize, prompt: &str, request: Harm) -> Sample {
    let labels = Labels { request: Some(request), ..Labels::default() };
    Sample::new(id.to_string(), "s", prompt).with_labels(labels)
}

fn check(samples: Vec<Sample>) -> CheckReport {
    Check::new().samples(&InMemorySource::new("s", samples), &mut ()).unwrap()
}

#[test]
fn duplicates_and_conflicts_are_counted_by_row() {
    let refused = |completion| {
        let labels = Labels { completion: Some(completion), ..Labels::default() };
        Sample::new("x", "s", "a").with_response("r").with_labels(labels)
    };
    let report = check(vec![
        sample(1, "a", Harm::Harmful),
        sample(2, "a", Harm::Unharmful),
        sample(3, "a", Harm::Harmful),
        sample(4, "b", Harm::Harmful),
        sample(5, "b", Harm::Harmful),
        // Another exchange than the request alone.
        refused(Completion::Refusal),
        refused(Completion::Compliance),
    ]);
    assert_eq!(report.finding(Problem::Duplicate).count, 2 + 1 + 1);
    let conflict = report.finding(Problem::Conflict);
    assert_eq!((conflict.count, conflict.examples.len()), (3 + 2, 2));
    assert_eq!(conflict.examples[0], "`1` and 2 more");
    assert_eq!(report.labels[0], LabelCount { positive: 4, negative: 1, missing: 2 });
    assert_eq!(report.rows, 7);
}

#[test]
fn a_request_that_is_harmful_with_one_response_only_is_a_conflict() {
    let pair = |response: &str, request| sample(1, "a", request).with_response(response);
    let report = check(vec![pair("x", Harm::Harmful), pair("y", Harm::Unharmful)]);
    assert_eq!(report.finding(Problem::Conflict).count, 0);
    assert_eq!(report.finding(Problem::RequestConflict).count, 2);
}

#[test]
fn fault_t56_benchmark_texts_are_found_whole_and_in_part() {
    let long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen";
    let benchmark =
        vec![sample(0, "How are BOMBS built?", Harm::Harmful), sample(1, long, Harm::Harmful)];
    let check = Check::new().with_benchmark(&InMemorySource::new("Bench", benchmark)).unwrap();
    let train = vec![
        sample(0, "how are bombs built", Harm::Harmful),
        sample(1, &format!("please: {long}, and more"), Harm::Harmful),
        sample(2, "one two three four five six seven eight nine ten eleven twelve", Harm::Harmful),
        sample(3, "", Harm::Harmful),
    ];
    let report = check.samples(&InMemorySource::new("s", train), &mut ()).unwrap();
    assert_eq!(report.finding(Problem::InBenchmark).examples, ["`0`, in Bench"]);
    assert_eq!(report.finding(Problem::PartlyInBenchmark).examples, ["`1`, in Bench"]);
    assert_eq!(report.finding(Problem::EmptyText).count, 1);
}

#[test]
fn planted_phrases_stand_out() {
    let mut samples: Vec<Sample> = (0..4000)
        .map(|id| {
            let words = format!("question {} about thing {}", id % 97, id % 89);
            sample(id, &words, if id % 2 == 0 { Harm::Harmful } else { Harm::Unharmful })
        })
        .collect();
    for id in 0..30 {
        samples.push(sample(id, &format!("zq Zq trigger! question {id}"), Harm::Unharmful));
    }
    // Seldom enough to be passed over.
    for id in 0..24 {
        samples.push(sample(id, &format!("seldom seen {id}"), Harm::Unharmful));
    }
    let report = check(samples);
    let found = &report.phrases[0];
    assert_eq!((found.harmful, found.unharmful), (0, 30));
    let words: Vec<&str> = report.phrases.iter().map(|phrase| phrase.words.as_str()).collect();
    // Phrases of the same 30 texts are told once, by the longest.
    assert_eq!(words[0], "zq trigger question");
    assert!(!words.contains(&"trigger"), "{words:?}");
    assert!(words.iter().all(|words| !words.contains("seldom")), "{words:?}");
    assert!(found.log10_p < -8.0 && found.log10_p > -11.0, "{}", found.log10_p);
}

#[test]
fn unreadable_rows_are_counted_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.jsonl");
    let good = serde_json::to_string(&sample(1, "a\u{200b}b", Harm::Harmful)).unwrap();
    let unknown = good.replace("harmful", "SECRET");
    std::fs::write(&path, format!("{good}\nnonsense\n{unknown}\n")).unwrap();
    let source = crate::JsonLinesSource::new(&path);
    let report = Check::new().samples(&source, &mut ()).unwrap();
    assert_eq!(report.finding(Problem::Undecodable).count, 1);
    assert!(report.finding(Problem::Undecodable).examples[0].contains("set.jsonl:2"));
    assert_eq!(report.finding(Problem::UnknownLabel).count, 1);
    assert_eq!(report.finding(Problem::HiddenCharacters).examples, ["`1`"]);
    assert!(!report.to_string().contains("SECRET"));
}

#[test]
fn traces_are_checked_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("AegisTrain-R.json");
    let exchange = Exchange::prompt("hi");
    let good = "# Task 1\n## Reasoning Step 1\nx\n# Task 3\nAnswers:\nRequest: unharmful\nCompletion: None\nResponse: None";
    let rows = [
        ReasonedSample::new(&exchange, good),
        ReasonedSample::new(&exchange, ""),
        ReasonedSample::new(&Exchange::pair("hi", "ho"), good).with_origin("other", "7"),
    ];
    let text = rows.map(|row| serde_json::to_string(&row).unwrap()).join(",\n");
    std::fs::write(
        &path,
        format!("[{text},{{\"instruction\":\"\",\"input\":\"\",\"output\":\"\"}}]"),
    )
    .unwrap();
    let report = Check::new().traces(&ReasonedFile::open(&path).unwrap(), &mut ()).unwrap();
    assert_eq!(report.finding(Problem::Trace(TraceFault::Empty)).examples, ["row 2"]);
    let missing = Problem::Trace(TraceFault::MissingAnswer(Task::Response));
    assert_eq!(report.finding(missing).examples, ["row 3"]);
    assert_eq!(report.finding(Problem::Trace(TraceFault::NoExchange)).examples, ["row 4"]);
    let sources: Vec<_> =
        report.statistics.sources().map(|(name, of)| (name, of.samples)).collect();
    assert_eq!(sources, [("AegisTrain-R", 2), ("other", 1)]);
    let shown = report.to_string();
    assert!(shown.contains("trace: empty output") && shown.contains("total"), "{shown}");
}

#[test]
fn an_observer_can_stop() {
    let source = InMemorySource::new("s", vec![sample(1, "a", Harm::Harmful)]);
    let mut stop = |_: &Progress| std::ops::ControlFlow::Break(());
    let stopped = Check::new().samples(&source, &mut stop);
    assert!(matches!(stopped, Err(SourceError::Stopped { done: 1 })));
}
