//! The seed sets in files with their exact columns (scripts/data_fixtures.py), and bad rows (T-54,
//! T-55).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use guard_data::{
    Labels, ReasonedFile, Sample, SampleSource, TRAINING_SETS, Task, TrainingFile, training_set,
};
use serde::Deserialize;

const FILES: [(&str, &str); 4] = [
    ("WildGuardTrain", "wildguard_train.parquet"),
    ("AegisTrain", "aegis_train.parquet"),
    ("BeaverTailsTrain", "beavertails_train.jsonl.gz"),
    ("ToxicChatTrain", "toxic-chat_annotation_train.csv"),
];

fn testdata(file: &str) -> PathBuf {
    Path::new("testdata/training").join(file)
}

#[derive(Debug, Deserialize, PartialEq)]
struct Expected {
    prompt: String,
    response: Option<String>,
    labels: [Option<String>; 3],
}

impl Expected {
    fn of(sample: &Sample) -> Self {
        let Labels { request, completion, response } = sample.labels;
        let labels = [
            request.map(|label| label.to_string()),
            completion.map(|label| label.to_string()),
            response.map(|label| label.to_string()),
        ];
        Self { prompt: sample.prompt.clone(), response: sample.response.clone(), labels }
    }
}

fn expected() -> BTreeMap<String, Vec<Expected>> {
    serde_json::from_slice(&std::fs::read(testdata("expected.json")).unwrap()).unwrap()
}

fn read(source: &dyn SampleSource) -> Vec<Sample> {
    source.samples().unwrap().map(Result::unwrap).collect()
}

#[test]
fn every_seed_set_is_read_as_python_reads_it() {
    let expected = expected();
    for (name, file) in FILES {
        let set = training_set(name).unwrap();
        let samples = read(&TrainingFile::open(set, testdata(file)).unwrap());
        assert_eq!(samples.iter().map(Expected::of).collect::<Vec<_>>(), expected[name], "{name}");
        assert!(samples.iter().all(|sample| sample.source == set.name));
    }
    // Rows keep the numbers of their lines, also behind one that the set leaves out.
    let toxic =
        TrainingFile::open(training_set("ToxicChat").unwrap(), testdata(FILES[3].1)).unwrap();
    let ids: Vec<String> = read(&toxic).into_iter().map(|sample| sample.id).collect();
    assert_eq!(ids, ["2", "3", "6"]);
    assert_eq!(TRAINING_SETS.iter().map(|set| set.samples).sum::<usize>(), 127_544);
}

#[test]
fn traces_are_read_in_all_three_forms() {
    let expected = &expected()["GuardReasonerTrain"];
    for file in ["AegisTrain-R.json", "ToxicChatTrain-R.json", "WildGuardTrain-R.parquet"] {
        let file = ReasonedFile::open(testdata(file)).unwrap();
        assert_eq!(&read(&file).iter().map(Expected::of).collect::<Vec<_>>(), expected);
        let rows: Vec<_> = file.rows().unwrap().map(|(_, row)| row.unwrap()).collect();
        assert_eq!(rows[0].parsed().reasoning.step_count(), 3);
        assert_eq!(rows[2].output, "");
    }
}

/// The messages of the rows that cannot be read, and the number of those that can.
fn faults(set: &str, file: &str, bytes: &[u8]) -> (usize, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file);
    std::fs::write(&path, bytes).unwrap();
    let source = TrainingFile::open(training_set(set).unwrap(), &path).unwrap();
    let mut good = 0;
    let mut bad = Vec::new();
    let samples = match source.samples() {
        Ok(samples) => samples,
        Err(error) => return (0, vec![error.to_string()]),
    };
    for sample in samples {
        match sample {
            Ok(_) => good += 1,
            Err(error) => bad.push(error.to_string().split(file).nth(1).unwrap().to_owned()),
        }
    }
    assert!(bad.iter().all(|error| !error.contains("SECRET")), "{bad:?}");
    (good, bad)
}

#[test]
fn fault_t54_each_bad_row_is_named_and_the_others_are_read() {
    let csv = "user_input,human_annotation,toxicity\nfine,True,0\nSECRET,perhaps,0\nSECRET,True,7\n\
               SECRET\n\u{feff}fine,False,\n";
    let (good, bad) = faults("ToxicChat", "t.csv", csv.as_bytes());
    assert_eq!(good, 1);
    assert_eq!(
        bad,
        [
            ":3: field `human_annotation` must be a boolean, found a string",
            ":4: field `toxicity` must be a boolean, found a string",
            ":5: 1 columns, the header has 3",
        ]
    );
    let mut lines = br#"{"prompt":"p","response":"r","is_safe":true}
{"prompt":"p","response":"r","is_safe":null}
{"prompt":["SECRET"],"response":"r","is_safe":true}
{"prompt":"p","is_safe":false}
{"prompt":"SECRET"
{"prompt":"p","prompt":"SECRET","response":"r","is_safe":true}
"#
    .to_vec();
    lines.extend_from_slice(b"{\"prompt\":\"\xff\"}\n");
    let deep = format!("{{\"prompt\":{}{}}}\n", "[".repeat(100_000), "]".repeat(100_000));
    lines.extend_from_slice(deep.as_bytes());
    let long = format!("{{\"prompt\":\"{}\"}}\r\n", "x".repeat(20 << 20));
    lines.extend_from_slice(long.as_bytes());
    lines.extend_from_slice(br#"{"prompt":"p","response":"r","is_safe":false}"#);
    let (good, bad) = faults("BeaverTails", "b.jsonl", &lines);
    assert_eq!(good, 2, "the first and the last");
    let starts = [
        ":2: field `is_safe` is missing",
        ":3: field `prompt` must be a string, found an array",
        ":4: field `response` is missing",
        ":5: the JSON is cut off",
        ":6: repeated field",
        ":7: not UTF-8 from byte 12 on",
        ":8: bad JSON",
        ":9: longer than 16777216 bytes",
    ];
    assert_eq!(bad.len(), starts.len(), "{bad:?}");
    for (error, start) in bad.iter().zip(starts) {
        assert!(error.starts_with(start), "{error}");
    }
    let wild = r#"{"prompt":"p","prompt_harm_label":"SECRET"}
{"prompt":"p","prompt_harm_label":"harmful","response_harm_label":"harmful"}
{"prompt":"p","response":"r","response_refusal_label":"unharmful"}
{"prompt":"p","prompt_harm_label":" Harmful "}
"#;
    let (good, bad) = faults("WildGuard", "w.jsonl", wild.as_bytes());
    assert_eq!(good, 1);
    assert_eq!(
        bad,
        [
            ":1: the request label must be `harmful` or `unharmful`",
            ":2: a response label without a response",
            ":3: the completion label must be `refusal` or `compliance`",
        ]
    );
    assert_eq!(
        faults("Aegis", "a.jsonl", b"{\"text\":\"SECRET\"}").1,
        [":1: field `labels_0` is missing"]
    );
    assert_eq!(faults("Aegis", "e.jsonl", b""), (0, vec![]));
}

/// Whatever is done to a Parquet file, reading ends with samples or errors.
#[test]
fn fault_t55_damaged_parquet_files_are_read_or_refused() {
    let mut refused = 0;
    for (set, file) in &FILES[..2] {
        let whole = std::fs::read(testdata(file)).unwrap();
        let mut read =
            |bytes: &[u8]| refused += usize::from(!faults(set, "x.parquet", bytes).1.is_empty());
        for length in (0..whole.len()).step_by(97) {
            read(&whole[..length]);
        }
        let mut bytes = whole.clone();
        for place in (0..bytes.len()).step_by(7) {
            for flip in [0x01, 0x80, 0xff] {
                bytes[place] ^= flip;
                read(&bytes);
                bytes[place] ^= flip;
            }
        }
    }
    assert!(refused > 100, "{refused}");
}

/// The rows that are beside the project, where it has them.
#[test]
#[allow(clippy::print_stderr)]
fn the_published_rows_parse_into_steps_and_answers() {
    let path = Path::new("../../shared/data/train/guardreasonertrain_sample.json");
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return;
    }
    let rows: Vec<_> =
        ReasonedFile::open(path).unwrap().rows().unwrap().map(|(_, row)| row.unwrap()).collect();
    assert_eq!(rows.len(), 5);
    for row in &rows {
        let parsed = row.parsed();
        assert!(row.labels().request.is_some() && row.labels().response.is_none());
        let tasks: Vec<_> = parsed.reasoning.tasks.iter().filter_map(|task| task.task).collect();
        assert_eq!(tasks.iter().filter(|task| Task::ALL.contains(task)).count(), tasks.len());
        assert!(parsed.reasoning.step_count() >= 5);
        assert!(guard_data::trace_faults(row).is_empty());
    }
}
