use guard_core::Exchange;

use super::*;

/// A text of so many characters before its block of answers.
fn text(length: usize, words: [&str; 3]) -> String {
    let [request, completion, response] = words;
    format!(
        "{}\n\nAnswers: \nRequest: {request}\nCompletion: {completion}\nResponse: {response}",
        "x".repeat(length)
    )
}

const TRUTH: [&str; 3] = ["harmful", "refusal", "unharmful"];
const REQUEST_WRONG: [&str; 3] = ["unharmful", "refusal", "unharmful"];
const RESPONSE_WRONG: [&str; 3] = ["harmful", "refusal", "harmful"];
const COMPLETION_WRONG: [&str; 3] = ["harmful", "compliance", "unharmful"];

fn sample(request: &str, texts: &[(usize, [&str; 3])]) -> Generations {
    let sample = ReasonedSample::new(&Exchange::pair(request, "no"), text(0, TRUTH));
    Generations::new(sample, texts.iter().map(|(length, words)| text(*length, *words)).collect())
}

/// The lengths of the chosen and the rejected text, and the weight.
fn lengths(mined: &Mined) -> Vec<(usize, usize, f64)> {
    let length = |text: &str| text.bytes().take_while(|byte| *byte == b'x').count();
    let pair = |pair: &PreferencePair| {
        (length(&pair.chosen), length(&pair.rejected), (pair.sample_weight * 1e9).round() / 1e9)
    };
    mined.pairs.iter().map(pair).collect()
}

/// Worked by hand. Wrong minus right: 1 - 3 = -2 for a, 3 - 1 = 2 for b, 2 - 2 = 0 for c, whose
/// request is always right and whose response is not. d is always right, e always wrong.
fn worked() -> [Generations; 5] {
    [
        sample("a", &[(5, TRUTH), (9, TRUTH), (7, REQUEST_WRONG), (1, TRUTH)]),
        sample("b", &[(5, REQUEST_WRONG), (9, REQUEST_WRONG), (7, TRUTH), (1, REQUEST_WRONG)]),
        sample("c", &[(4, RESPONSE_WRONG), (3, TRUTH), (2, RESPONSE_WRONG), (6, COMPLETION_WRONG)]),
        sample("d", &[(5, TRUTH), (9, TRUTH)]),
        sample("e", &[(5, REQUEST_WRONG), (9, REQUEST_WRONG)]),
    ]
}

#[test]
fn each_selection_gives_the_pairs_worked_out_by_hand() {
    let mined = |selection| Mining::released().with_selection(selection).mine(worked());
    assert_eq!(lengths(&mined(Selection::Longest)), [(9, 7, 0.8), (7, 9, 1.2), (6, 4, 1.0)]);
    assert_eq!(lengths(&mined(Selection::Shortest)), [(1, 7, 0.8), (7, 1, 1.2), (3, 2, 1.0)]);
    let random = mined(Selection::Random);
    assert_eq!(lengths(&random), lengths(&mined(Selection::Random)), "the same seed");
    let seeds: Vec<_> = (0..64).map(|seed| lengths(&Mining::paper(seed).mine(worked()))).collect();
    for place in 0..3 {
        let drawn: std::collections::BTreeSet<_> =
            seeds.iter().map(|pairs| (pairs[place].0, pairs[place].1)).collect();
        let expected = [
            vec![(1, 7), (5, 7), (9, 7)],
            vec![(7, 1), (7, 5), (7, 9)],
            vec![(3, 2), (3, 4), (6, 2), (6, 4)],
        ];
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), expected[place]);
    }
    let report = random.report;
    assert_eq!((report.samples, report.texts, report.unparsed), (5, 16, 0));
    assert_eq!((report.ambiguous, report.pairs), ([2, 0, 1], [2, 0, 1]));
    // The requests of c and d are right; of d and e, which have no pair, also the other two tasks.
    assert_eq!((report.all_right, report.all_wrong), ([2, 2, 2], [1, 0, 0]));
}

#[test]
fn pairs_carry_what_is_known() {
    let mut generations = worked()[0].clone();
    generations.sample = generations.sample.with_origin("AegisTrain", "7");
    let pair = Mining::released().mine([generations]).pairs.remove(0);
    assert_eq!(
        (pair.task, pair.votes),
        (Some(Task::Request), Some(Votes { correct: 3, incorrect: 1 }))
    );
    assert_eq!((pair.source.as_deref(), pair.id.as_deref()), (Some("AegisTrain"), Some("7")));
}

#[test]
fn fault_t44_weights_are_defined_when_all_are_equal_and_when_there_are_none() {
    let alike = || sample("a", &[(1, TRUTH), (2, REQUEST_WRONG)]);
    let mined = Mining::released().mine([alike(), alike()]);
    assert_eq!(lengths(&mined), [(1, 2, 1.0), (1, 2, 1.0)]);
    assert!(Mining::released().mine([]).pairs.is_empty());
    for gamma in [-0.1, 1.0, f64::NAN] {
        assert!(Mining::released().with_gamma(gamma).is_err());
    }
    let flat = Mining::released().with_gamma(0.0).unwrap().mine(worked());
    assert!(flat.pairs.iter().all(|pair| pair.sample_weight == 1.0));
}

#[test]
fn all_axes_can_be_asked_for() {
    // Right on the request, but wrong on the completion.
    let generations = || sample("a", &[(9, COMPLETION_WRONG), (3, TRUTH), (5, REQUEST_WRONG)]);
    let rules = Mining::released().with_chosen(Chosen::RightOnAll);
    assert_eq!(lengths(&rules.mine([generations()])), [(3, 5, 1.0)]);
    assert_eq!(lengths(&Mining::released().mine([generations()])), [(9, 5, 1.0)]);
    let none = sample("a", &[(9, COMPLETION_WRONG), (5, REQUEST_WRONG)]);
    let mined = rules.mine([none]);
    assert_eq!((mined.pairs.len(), mined.report.unpaired), (0, 1));
}

#[test]
fn texts_without_answers_are_dropped_or_wrong() {
    let mut generations = sample("a", &[(3, TRUTH), (4, TRUTH)]);
    generations.texts.push("# Task 1 and on and on".to_owned());
    // One field is missing: dropped from the count of every task.
    generations.texts.push("Answers:\nRequest: unharmful\nResponse: harmful".to_owned());
    let mined = Mining::released().mine([generations.clone()]);
    assert_eq!((mined.pairs.len(), mined.report.unparsed), (0, 2));
    let mined = Mining::released().with_unparsed(Unparsed::Wrong).mine([generations.clone()]);
    assert_eq!(mined.pairs[0].votes, Some(Votes { correct: 2, incorrect: 2 }));
    assert_eq!(mined.pairs[0].rejected, generations.texts[3]);
}

#[test]
fn what_is_said_of_no_response_does_not_count() {
    let answer = ["harmful", "None", "None"];
    let row = ReasonedSample::new(&Exchange::prompt("a"), text(0, TRUTH));
    let texts = vec![text(1, answer), text(2, TRUTH)];
    assert!(Mining::released().mine([Generations::new(row, texts)]).pairs.is_empty());
}

fn pair(source: &str, input: &str, chosen: &str) -> PreferencePair {
    let mut sample = ReasonedSample::new(&Exchange::prompt(input), "").with_origin(source, "1");
    sample.input = input.to_owned();
    PreferencePair::new(&sample, chosen, "no")
}

#[test]
fn ensembles_follow_the_paper_or_the_released_code() {
    let own = vec![pair("Wild", "w", "own"), pair("Aegis", "a", "own"), pair("Wild", "w", "again")];
    let member = |left_out, name: &str| {
        let sets = ["Wild", "Aegis", "Beaver"].into_iter().filter(|set| *set != left_out);
        let pairs = sets.flat_map(|set| [pair(set, set, name), pair(set, name, name)]).collect();
        EnsembleMember::new(&[left_out], pairs)
    };
    let members = || vec![member("Aegis", "m1"), member("Beaver", "m2")];
    let chosen = |merged: &Merged| -> Vec<(String, String)> {
        let of = |pair: &PreferencePair| (pair.input.clone(), pair.chosen.clone());
        merged.pairs.iter().map(of).collect()
    };
    let released = merge_ensemble(own.clone(), members(), MergeRule::Released);
    let expected = [("w", "own"), ("Aegis", "m2"), ("m2", "m2"), ("Beaver", "m1"), ("m1", "m1")];
    let owned = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    };
    assert_eq!(chosen(&released), owned(&expected));
    assert_eq!((released.duplicates, released.unknown_sets), (1, vec![]));
    let misspelt = vec![EnsembleMember::new(&["Aegys"], vec![])];
    let merged = merge_ensemble(own.clone(), misspelt, MergeRule::Released);
    assert_eq!(merged.unknown_sets, ["Aegys"]);
    let paper = merge_ensemble(own, members(), MergeRule::Paper);
    let expected = [
        ("w", "own"),
        ("a", "own"),
        ("Wild", "m1"),
        ("m1", "m1"),
        ("Beaver", "m1"),
        ("m2", "m2"),
        ("Aegis", "m2"),
    ];
    assert_eq!(chosen(&paper), owned(&expected));
}

#[test]
fn pairs_are_written_for_llama_factory_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hard.jsonl");
    let pairs = vec![pair("Wild", "w", "ünï\n"), pair("Aegis", "a", "x")];
    let info = folder.path().join("dataset_info.json");
    std::fs::write(&info, r#"{"other": {"file_name": "x.json"}}"#).unwrap();
    write_pairs(&path, &pairs).unwrap();
    assert_eq!(read_pairs(&path).unwrap(), pairs);
    let info: serde_json::Value = serde_json::from_slice(&std::fs::read(&info).unwrap()).unwrap();
    assert_eq!(info["hard"]["ranking"], true);
    assert_eq!(info["other"]["file_name"], "x.json");
    assert!(matches!(
        write_pairs(folder.path().join("x.parquet"), &pairs),
        Err(MiningError::PairFormat { .. })
    ));
    // Without our fields, and with a weight that is none.
    let plain = r#"{"instruction":"i","input":"x","chosen":"c","rejected":"r"}"#;
    std::fs::write(&path, plain).unwrap();
    assert_eq!(read_pairs(&path).unwrap()[0].sample_weight, 1.0);
    for bad in [r#"{"instruction":"SECRET"}"#, &plain.replace('}', r#","sample_weight":-1}"#)] {
        std::fs::write(&path, format!("{plain}\n{bad}\n")).unwrap();
        let error = read_pairs(&path).unwrap_err().to_string();
        assert!(error.contains("hard.jsonl:2") && !error.contains("SECRET"), "{error}");
    }
    std::fs::write(folder.path().join("dataset_info.json"), "[]").unwrap();
    assert!(write_pairs(&path, &pairs).is_err());
}
