//! Benchmarks in the files of their original sets: fixtures made by scripts/eval_fixtures.py, with
//! the labels that Python computes.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use guard_data::{RowFault, SourceError, TableFile};
use guard_eval::{BENCHMARKS, Dataset, EvalError, Label, Task, benchmark};
use serde::Deserialize;

fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/original").join(path)
}

#[derive(Deserialize)]
struct Expected {
    files: BTreeMap<String, ExpectedFile>,
}

#[derive(Deserialize)]
struct ExpectedFile {
    file: String,
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Row {
    prompt: String,
    response: Option<String>,
    label: String,
}

fn rows(dataset: &Dataset) -> Vec<Row> {
    let task = dataset.benchmark().unwrap().task;
    let rows = dataset.rows().iter().map(|row| {
        let labels = row.sample.labels;
        let label = match task {
            Task::Request => labels.request.unwrap().word(),
            Task::Completion => labels.completion.unwrap().word(),
            Task::Response => labels.response.unwrap().word(),
        };
        Row {
            prompt: row.sample.prompt.clone(),
            response: row.sample.response.clone(),
            label: label.to_owned(),
        }
    });
    rows.collect()
}

#[test]
fn every_benchmark_is_read_from_its_original_form() {
    let json = std::fs::read(testdata("expected.json")).unwrap();
    let expected: Expected = serde_json::from_slice(&json).unwrap();
    assert_eq!(expected.files.len(), BENCHMARKS.len());
    for (name, file) in expected.files {
        let dataset = Dataset::open(benchmark(&name).unwrap(), testdata(&file.file)).unwrap();
        assert_eq!(rows(&dataset), file.rows, "{name}");
    }
}

#[test]
fn breakdowns_come_with_the_rows() {
    let slices = |name: &str, file: &str| {
        let dataset = Dataset::open(benchmark(name).unwrap(), testdata(file)).unwrap();
        let mut dimensions: Vec<String> =
            dataset.rows().iter().flat_map(|row| &row.slices).map(|(d, _)| d.clone()).collect();
        dimensions.sort();
        dimensions.dedup();
        dimensions
    };
    assert_eq!(slices("ToxicChat", "toxic-chat_annotation_test.csv"), ["adversarial"]);
    assert_eq!(slices("BeaverTails", "beavertails_test.jsonl.gz"), ["category"]);
    let wild_guard = slices("WildGuardTestPrompt", "wildguard_test.parquet");
    assert_eq!(wild_guard, ["adversarial", "category"]);
}

/// The published rows of one set, written down in the form of its original file.
#[test]
fn the_original_form_of_a_whole_set_gives_the_rows_of_the_reference() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/benchmark");
    let path = shared.join("0_2_OpenAIModeration.json");
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return;
    }
    let moderation = benchmark("OpenAIModeration").unwrap();
    let reference = Dataset::open(moderation, &path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let original = folder.path().join("samples-1680.jsonl.gz");
    let file = std::fs::File::create(&original).unwrap();
    let mut out = flate2::write::GzEncoder::new(file, flate2::Compression::fast());
    for (index, row) in reference.rows().iter().enumerate() {
        let mut line = serde_json::json!({"prompt": row.sample.prompt, "S": 0, "H2": 0});
        if row.sample.labels.positive(Task::Request) == Some(true) {
            line[["S", "H", "V", "HR", "SH", "S3", "H2", "V2"][index % 8]] = 1.into();
        }
        writeln!(out, "{line}").unwrap();
    }
    out.finish().unwrap();
    let original = Dataset::open(moderation, &original).unwrap();
    original.check_row_count().unwrap();
    assert_eq!(rows(&original), rows(&reference));
    assert_eq!(original.rows().len(), 1680);
}

#[test]
fn fault_t54_a_bad_row_is_named_and_no_benchmark_is_made_of_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let error = Dataset::open(benchmark("SimpleSafetyTests").unwrap(), path).unwrap_err();
        let text = error.to_string();
        text[text.find(name).unwrap_or(0)..].to_owned()
    };
    assert_eq!(open("a.csv", b"id,prompt\n1,a\n2\n"), "a.csv:3: 1 columns, the header has 2");
    assert_eq!(open("b.csv", b"id,text\n1,a\n"), "b.csv:2: field `prompts_final` is missing");
    assert_eq!(open("c.csv", b"id,prompt\n1,\xff\n"), "c.csv:2: not UTF-8 from byte 1 on");
    assert_eq!(open("d.csv", b""), "`SimpleSafetyTests` has no rows");
    assert_eq!(
        open("e.jsonl", b"{\"prompt\":1}\n"),
        "e.jsonl:1: field `prompt` must be a string, found a number"
    );
    assert_eq!(open("m.csv", b"id,prompt,prompt\n1,a,b\n"), "m.csv:1: two columns have one name");
    let twice = open("n.jsonl", b"{\"prompt\":\"a\",\"prompt\":\"b\"}\n");
    assert!(twice.starts_with("n.jsonl:1: repeated field"), "{twice}");
    let deep = format!("{{\"prompt\":{}", "[".repeat(100_000));
    assert!(open("f.jsonl", deep.as_bytes()).starts_with("f.jsonl:1: bad JSON"));
    assert_eq!(open("g.json", b"[{\"prompt\":\"a\"}"), "g.json:2: the JSON is cut off");
    assert!(open("h.txt", b"x").starts_with("h.txt: expected .csv"));
    assert_eq!(open("i.jsonl.gz", b"not gzip"), "i.jsonl.gz");
    let mut long = b"{\"prompt\":\"".to_vec();
    long.resize(17 << 20, b'x');
    assert_eq!(open("j.jsonl", &long), "j.jsonl:1: longer than 16777216 bytes");
    let field = [b"id,prompt\n1,\"".as_slice(), &vec![b'x'; 17 << 20]].concat();
    assert_eq!(open("l.csv", &field), "l.csv:2: longer than 16777216 bytes");
    let marked = "\u{feff}id,prompt\r\n1,\"a\r\nb\"\r\n";
    let path = folder.path().join("k.csv");
    std::fs::write(&path, marked).unwrap();
    let dataset = Dataset::open(benchmark("SimpleSafetyTests").unwrap(), path).unwrap();
    assert_eq!(dataset.rows()[0].sample.prompt, "a\r\nb");
}

#[test]
fn an_unknown_label_is_an_error_and_not_a_guess() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    std::fs::write(&path, "{\"prompt\":\"a\",\"response\":\"b\",\"label\":\"maybe\"}\n").unwrap();
    let error = Dataset::open(benchmark("XSTestResponseRefusal").unwrap(), path).unwrap_err();
    let EvalError::Source(SourceError::Row { line: 1, fault, .. }) = error else {
        panic!("{error}")
    };
    let expected = "refusal or compliance";
    assert_eq!(fault, RowFault::Field { field: "label", expected });
}

/// A few kilobytes that unfold to 200 rows of one text of 20 MiB.
#[test]
fn fault_t55_a_parquet_file_that_unfolds_too_far_is_refused() {
    let path = testdata("bomb.parquet");
    assert!(std::fs::metadata(&path).unwrap().len() < 20_000);
    let error = Dataset::open(benchmark("SimpleSafetyTests").unwrap(), path).unwrap_err();
    assert!(error.to_string().ends_with("bomb.parquet:1: longer than 16777216 bytes"), "{error}");
}

/// Whatever is done to a Parquet file, reading ends with rows or an error.
#[test]
fn fault_t55_damaged_parquet_files_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.parquet");
    let read = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let table = TableFile::open(&path).unwrap();
        let rows = table.rows().map(|rows| rows.take(1000).filter(|(_, row)| row.is_ok()).count());
        rows.is_err()
    };
    let mut refused = 0;
    for name in ["aegis_test.parquet", "wildguard_test.parquet"] {
        let whole = std::fs::read(testdata(name)).unwrap();
        for length in (0..whole.len()).step_by(61) {
            refused += usize::from(read(&whole[..length]));
        }
        let mut bytes = whole.clone();
        for place in (0..bytes.len()).step_by(3) {
            for flip in [0x01, 0x80, 0xff] {
                bytes[place] ^= flip;
                refused += usize::from(read(&bytes));
                bytes[place] ^= flip;
            }
        }
        assert!(!read(&whole));
    }
    assert!(refused > 100, "{refused}");
}
