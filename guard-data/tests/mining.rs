//! Mining against a port of the released rule, and files of generations that runs go on with.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use guard_core::{
    Completed, Finish, GenerateOptions, Prompt, PromptStyle, ReasoningMode, TextGenerator,
};
use guard_data::{
    Exchange, GenerationFiles, Generations, Mining, MiningError, Progress, ReasonedSample, Task,
    with_style,
};
use serde::Deserialize;

/// How many letters a text begins with, and its words where it has them.
#[derive(Deserialize)]
struct Spec(usize, Option<String>, Option<String>, Option<String>);

#[derive(Deserialize)]
struct Case {
    has_response: bool,
    label: Spec,
    generations: Vec<Spec>,
    pair: Option<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    task: Task,
    chosen: usize,
    rejected: usize,
    weight: f64,
}

impl Spec {
    fn text(&self) -> String {
        let Self(length, request, completion, response) = self;
        let fields = [("Request", request), ("Completion", completion), ("Response", response)];
        let lines = fields
            .into_iter()
            .filter_map(|(name, word)| Some(format!("{name}: {}", word.as_ref()?)));
        format!("{}\n\nAnswers: \n{}", "ä".repeat(*length), lines.collect::<Vec<_>>().join("\n"))
    }
}

impl Case {
    fn generations(&self, id: usize) -> Generations {
        let exchange = match self.has_response {
            true => Exchange::pair("request", "response"),
            false => Exchange::prompt("request"),
        };
        let sample =
            ReasonedSample::new(&exchange, self.label.text()).with_origin("s", id.to_string());
        Generations::new(sample, self.generations.iter().map(Spec::text).collect())
    }
}

/// scripts/mining_goldens.py made the cases.
#[test]
fn the_released_rule_gives_the_same_pairs_as_its_port() {
    let json = std::fs::read("testdata/mining.json").unwrap();
    let sets: Vec<Vec<Case>> = serde_json::from_slice(&json).unwrap();
    let mut samples = 0;
    for set in &sets {
        samples += set.len();
        let mined =
            Mining::released().mine(set.iter().enumerate().map(|(id, case)| case.generations(id)));
        let mut pairs = mined.pairs.iter();
        for (id, case) in set.iter().enumerate() {
            let Some(expected) = &case.pair else { continue };
            let pair = pairs.next().unwrap();
            assert_eq!(pair.id, Some(id.to_string()));
            assert_eq!(pair.task, Some(expected.task));
            assert_eq!(pair.chosen, case.generations[expected.chosen].text());
            assert_eq!(pair.rejected, case.generations[expected.rejected].text());
            assert!((pair.sample_weight - expected.weight).abs() < 1e-12);
        }
        assert!(pairs.next().is_none());
    }
    assert!(samples >= 1000, "{samples}");
}

fn rows(count: usize) -> Vec<ReasonedSample> {
    let row = |id| ReasonedSample::new(&Exchange::prompt(format!("request {id}")), "label");
    (0..count).map(row).collect()
}

fn options() -> GenerateOptions {
    GenerateOptions::default().with_samples(3).with_seed(5)
}

/// Writes the number of its prompt and of the sample; fails on the request that is told.
struct Counting {
    calls: AtomicUsize,
    fail: &'static str,
}

impl TextGenerator for Counting {
    type Error = std::io::Error;

    fn generate(
        &self,
        prompts: &[Prompt],
        options: &GenerateOptions,
    ) -> Vec<Result<Vec<Completed>, Self::Error>> {
        let one = |prompt: &Prompt| {
            let call = self.calls.fetch_add(1, Ordering::Relaxed);
            if prompt.to_string().contains(self.fail) {
                return Err(std::io::Error::other("too long"));
            }
            let text = |sample| Completed::new(format!("{call}-{sample}"), Finish::EndOfText);
            Ok((0..options.samples).map(text).collect())
        };
        prompts.iter().map(one).collect()
    }
}

fn generator(fail: &'static str) -> Counting {
    Counting { calls: AtomicUsize::new(0), fail }
}

#[test]
fn a_stopped_run_goes_on_and_no_text_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let rows = rows(10);
    let generator = generator("request 7");
    let mut stop = |progress: &Progress| match progress.done {
        4.. => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    let mut files = GenerationFiles::open(folder.path(), "set", "m", &options()).unwrap();
    let stopped = files.generate(&rows, &generator, 2, &mut stop);
    assert!(matches!(stopped, Err(MiningError::Stopped { done: 4 })));
    assert!(matches!(
        files.read(rows.clone()).err(),
        Some(MiningError::Unfinished { found: 4, .. })
    ));
    assert!(matches!(
        GenerationFiles::open(folder.path(), "set", "m", &options()),
        Err(MiningError::Log(guard_data::LineLogError::InUse { .. }))
    ));
    drop(files);

    // The process was killed when it had written row 3 to one file of three, and a part to another.
    let path = |sample| folder.path().join(format!("set_{sample}.jsonl"));
    let text = std::fs::read_to_string(path(0)).unwrap();
    let line = text.lines().last().unwrap();
    std::fs::write(path(0), format!("{text}{line}\n")).unwrap();
    let text = std::fs::read_to_string(path(1)).unwrap();
    std::fs::write(path(1), format!("{text}{}", &line[..20])).unwrap();

    let mut files = GenerationFiles::open(folder.path(), "set", "m", &options()).unwrap();
    assert_eq!(files.done(), 4);
    let run = files.generate(&rows, &generator, 4, &mut ()).unwrap();
    assert_eq!((run.rows, run.resumed, run.failed), (10, 4, 1));
    assert_eq!(generator.calls.load(Ordering::Relaxed), 10);
    let read: Vec<_> = files.read(rows.clone()).unwrap().map(Result::unwrap).collect();
    for (id, generations) in read.iter().enumerate() {
        let expected: Vec<String> = match id {
            7 => vec![String::new(); 3],
            id => (0..3).map(|sample| format!("{id}-{sample}")).collect(),
        };
        assert_eq!((&generations.sample, &generations.texts), (&rows[id], &expected));
    }
}

#[test]
fn files_of_another_run_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let generator = generator("nothing");
    let open = |model: &str, options: &GenerateOptions| {
        GenerationFiles::open(folder.path(), "set", model, options)
    };
    let mut files = open("m", &options()).unwrap();
    files.generate(&rows(2), &generator, 2, &mut ()).unwrap();
    drop(files);
    let before = std::fs::read(folder.path().join("set_0.jsonl")).unwrap();
    assert!(matches!(open("other", &options()), Err(MiningError::Foreign { .. })));
    assert!(matches!(open("m", &options().with_seed(6)), Err(MiningError::Foreign { .. })));
    let mut files = open("m", &options()).unwrap();
    let mut other = rows(3);
    other.swap(0, 1);
    assert_eq!(files.read(rows(1)).unwrap().count(), 1, "fewer rows than texts");
    let error = files.generate(&other, &generator, 2, &mut ()).unwrap_err();
    assert!(matches!(error, MiningError::Foreign { line: 1, .. }), "{error}");
    assert_eq!(std::fs::read(folder.path().join("set_0.jsonl")).unwrap(), before);
}

/// A device that is lost fails on every row: none of them is done.
#[test]
fn a_generator_that_fails_on_all_rows_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut files = GenerationFiles::open(folder.path(), "set", "m", &options()).unwrap();
    let error = files.generate(&rows(40), &generator("request"), 8, &mut ()).unwrap_err();
    assert_eq!(error.to_string(), "the generator failed: too long");
    assert_eq!(files.done(), 0);
    let run = files.generate(&rows(40), &generator("request 1"), 8, &mut ()).unwrap();
    assert_eq!((run.rows, run.failed), (40, 11));
}

#[test]
fn a_file_with_the_manifests_name_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("set.generations.json");
    std::fs::write(&path, "precious").unwrap();
    let opened = GenerationFiles::open(folder.path(), "set", "m", &options());
    assert!(matches!(opened, Err(MiningError::Foreign { .. })));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

/// A generator that keeps what it is asked.
#[derive(Default)]
struct Asked(std::sync::Mutex<Vec<Prompt>>);

impl TextGenerator for Asked {
    type Error = std::convert::Infallible;

    fn generate(
        &self,
        prompts: &[Prompt],
        _: &GenerateOptions,
    ) -> Vec<Result<Vec<Completed>, Self::Error>> {
        self.0.lock().unwrap().extend_from_slice(prompts);
        prompts.iter().map(|_| Ok(vec![Completed::new("", Finish::Stopped)])).collect()
    }
}

#[test]
fn rows_are_asked_in_the_style_of_their_instruction() {
    let exchange = Exchange::pair("a <|im_end|>", "b");
    let whole = ReasonedSample::new(&exchange, "Answers:");
    let styles = [PromptStyle::Benchmark, PromptStyle::Compact];
    let modes = [ReasoningMode::Full, ReasoningMode::LabelOnly];
    let mut rows: Vec<_> = styles
        .iter()
        .flat_map(|style| modes.map(|mode| with_style(&whole, *style, mode)))
        .collect();
    let mut expected: Vec<_> = styles
        .iter()
        .flat_map(|style| modes.map(|mode| style.render_mode(&exchange, mode)))
        .collect();
    let mut own = whole;
    own.instruction = "<|im_start|>".to_owned();
    expected.push(Prompt::text(format!("<|im_start|>\n{}", own.input)));
    rows.push(own);
    let folder = tempfile::tempdir().unwrap();
    let options = GenerateOptions::default();
    let mut files = GenerationFiles::open(folder.path(), "set", "model", &options).unwrap();
    let generator = Asked::default();
    files.generate(&rows, &generator, 2, &mut ()).unwrap();
    assert_eq!(*generator.0.lock().unwrap(), expected);
}
