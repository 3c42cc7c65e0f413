//! The trainers as commands: both stages on a tiny model, signals (T-46), and what they refuse.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// An example's program, which cargo builds beside the tests.
fn example(name: &str) -> Command {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().unwrap().parent().unwrap().join("examples");
    Command::new(folder.join(name))
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guard-core/testdata/models/tied-gqa-llama3")
}

const CONFIG: &str = "[train]\nexamples_per_step = 2\nlearning_rate = 1e-3\n[encoding]\ncutoff = 48\n\
                      [checkpoints]\nevery = 5\n";

/// A folder with a few traces and pairs, and a file of options.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let trace =
        |n: usize| format!(r#"{{"instruction":"judge","input":"text {n}","output":"reason {n}"}}"#);
    let pair = |n: usize| {
        format!(
            r#"{{"instruction":"judge","input":"text {n}","chosen":"right","rejected":"wrong {n}","sample_weight":1.1}}"#
        )
    };
    let lines = |line: &dyn Fn(usize) -> String| (0..6).map(|n| line(n) + "\n").collect::<String>();
    std::fs::write(folder.path().join("traces.jsonl"), lines(&trace)).unwrap();
    std::fs::write(folder.path().join("pairs.jsonl"), lines(&pair)).unwrap();
    std::fs::write(folder.path().join("run.toml"), CONFIG).unwrap();
    folder
}

fn train(name: &str, folder: &Path, data: &str, output: &str, more: &[&str]) -> Command {
    let mut command = example(name);
    command.arg("--model").arg(tiny()).args(["--device", "cpu"]);
    command.arg("--data").arg(folder.join(data)).arg("--output").arg(folder.join(output));
    command.arg("--config").arg(folder.join("run.toml")).args(more);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn told(output: &Output) -> String {
    let text =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    text.concat()
}

fn succeeds(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    told(&output)
}

fn steps(folder: &Path, run: &str) -> usize {
    std::fs::read_to_string(folder.join(run).join("steps.jsonl"))
        .map_or(0, |text| text.lines().count())
}

#[test]
fn both_stages_leave_a_model_a_log_and_a_picture() {
    let folder = folder();
    let path = folder.path();
    let text = succeeds(&mut train("train_rsft", path, "traces.jsonl", "one", &["--lora", "2"]));
    assert!(text.contains("6 rows, 0 dropped") && text.contains("memory on paper"), "{text}");
    assert_eq!(steps(path, "one"), 9);
    for file in [
        "model/model.safetensors",
        "model/tokenizer.json",
        "adapter/adapter_config.json",
        "training.svg",
    ] {
        assert!(path.join("one").join(file).is_file(), "{file}");
    }
    // The second stage begins with the model of the first.
    let mut second = train("train_hsdpo", path, "pairs.jsonl", "two", &["--epochs", "2"]);
    second.arg("--validation").arg(path.join("pairs.jsonl"));
    let mut arguments: Vec<_> = second.get_args().map(ToOwned::to_owned).collect();
    arguments[1] = path.join("one/model").into_os_string();
    let text = succeeds(example("train_hsdpo").args(arguments));
    assert!(text.contains("trained 6 steps"), "{text}");
    let log = std::fs::read_to_string(path.join("two/steps.jsonl")).unwrap();
    assert!(log.contains("rewards/margins") && log.contains("validation_loss"), "{log}");
    assert_eq!(std::fs::read_dir(path.join("two/reference")).unwrap().count(), 1);
}

fn wait_for_steps(child: &mut Child, folder: &Path, count: usize) {
    let began = Instant::now();
    while steps(folder, "run") < count {
        assert!(child.try_wait().unwrap().is_none() && began.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn fault_t46_a_signal_ends_the_run_after_the_step_and_two_end_it_at_once() {
    let folder = folder();
    let path = folder.path();
    let long = ["--epochs", "100000"];
    let mut child = train("train_rsft", path, "traces.jsonl", "run", &long).spawn().unwrap();
    wait_for_steps(&mut child, path, 3);
    signal(&child);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", told(&output));
    assert!(told(&output).contains("stopped after step"), "{}", told(&output));
    let done = steps(path, "run");
    assert!(path.join(format!("run/checkpoints/step-{done}/manifest.json")).is_file());

    let resumed = [long.as_slice(), &["--resume"]].concat();
    let mut child = train("train_rsft", path, "traces.jsonl", "run", &resumed).spawn().unwrap();
    wait_for_steps(&mut child, path, done + 3);
    // Signals of one kind that wait are one: the second is sent until it is met.
    while child.try_wait().unwrap().is_none() {
        signal_again(&child);
    }
    let output = child.wait_with_output().unwrap();
    let code = output.status.code();
    assert!(code == Some(130) || code == Some(0), "{code:?} {}", told(&output));
    // Whatever the moment, the run goes on.
    let mut child = train("train_rsft", path, "traces.jsonl", "run", &resumed).spawn().unwrap();
    wait_for_steps(&mut child, path, done + 8);
    signal(&child);
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && told(&output).contains("going on from"),
        "{}",
        told(&output)
    );
}

/// As [`signal`], for a process that may be gone.
fn signal_again(child: &Child) {
    let _ =
        Command::new("kill").args(["-INT", &child.id().to_string()]).stderr(Stdio::null()).status();
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_written() {
    let folder = folder();
    let path = folder.path();
    let refused = |command: &mut Command, what: &str| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", told(&output));
        assert!(told(&output).contains(what), "{}", told(&output));
    };
    refused(&mut train("train_rsft", path, "none.jsonl", "run", &[]), "none.jsonl");
    refused(&mut train("train_rsft", path, "pairs.jsonl", "run", &[]), "pairs.jsonl");
    refused(
        &mut train("train_rsft", path, "traces.jsonl", "run", &["--learning-rate", "nan"]),
        "learning_rate",
    );
    refused(&mut train("train_rsft", path, "traces.jsonl", "run", &["--lora", "0"]), "rank");
    refused(&mut train("train_hsdpo", path, "traces.jsonl", "run", &[]), "preference pair");
    std::fs::write(path.join("run.toml"), "[train]\nepoch = 3\n").unwrap();
    refused(&mut train("train_rsft", path, "traces.jsonl", "run", &[]), "epoch");
    assert!(!path.join("run/steps.jsonl").exists());
    // A second run does not write over the first.
    std::fs::write(path.join("run.toml"), CONFIG).unwrap();
    succeeds(&mut train("train_rsft", path, "traces.jsonl", "run", &["--max-steps", "1"]));
    refused(&mut train("train_rsft", path, "traces.jsonl", "run", &[]), "resume");
}
