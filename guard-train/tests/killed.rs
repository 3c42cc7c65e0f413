//! T-41 and T-45: runs that are killed, that run out of memory, and whose backend panics.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use guard_train::guard_core::TensorFile;
use guard_train::{
    CheckpointOptions, Contribution, LlamaTrainer, Objective, ObjectiveError, Rsft, StepLog,
    StepReport, TargetTokens, TrainOptions, Trainer, Window,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{examples, options, tiny, weights};

const KILLS: u32 = 200;

/// R-SFT that panics as a backend would, or takes memory without end, at a step.
#[derive(Debug)]
struct Breaking(Option<Breaks>);

#[derive(Debug, Clone, Copy)]
enum Breaks {
    Panic,
    Memory,
}

impl Objective for Breaking {
    type Example = TargetTokens;

    fn target_tokens(&self, example: &TargetTokens) -> usize {
        example.count
    }

    fn contribute(
        &self,
        examples: &[TargetTokens],
        log_probs: &[f32],
        window: Window,
    ) -> Result<Contribution, ObjectiveError> {
        match self.0 {
            Some(Breaks::Panic) if log_probs.iter().sum::<f32>() > -11.0 => panic!("a backend's"),
            Some(Breaks::Memory) => {
                let hog = vec![1_u8; 8 << 30];
                assert!(hog[log_probs.len()] == 1);
            }
            _ => {}
        }
        Rsft::new().contribute(examples, log_probs, window)
    }
}

fn run_options() -> TrainOptions {
    let mut options = options();
    options.epochs = 40;
    options
}

fn train(folder: &Path, breaks: Option<Breaks>) {
    let checkpoints = CheckpointOptions::new(folder.join("run")).with_every(3).with_resume();
    let trainer = LlamaTrainer::new(tiny(), Breaking(breaks), run_options()).unwrap();
    let mut trainer = trainer.with_checkpoints(checkpoints.with_changes_allowed());
    let mut log = StepLog::resume(folder.join("steps.jsonl")).unwrap();
    trainer.train(&examples(20), &mut log).unwrap();
    log.finish().unwrap();
    std::fs::write(folder.join("done"), "").unwrap();
}

/// What the parent runs in another process.
#[test]
fn child_process() {
    let Ok(folder) = std::env::var("GUARD_TEST_FOLDER") else { return };
    let breaks = match std::env::var("GUARD_TEST_BREAKS").as_deref() {
        Ok("panic") => Some(Breaks::Panic),
        Ok("memory") => Some(Breaks::Memory),
        _ => None,
    };
    train(Path::new(&folder), breaks);
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_process", "--nocapture"]).env("GUARD_TEST_FOLDER", folder);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(folder: &Path) -> Child {
    command(folder).spawn().unwrap()
}

/// The number of checkpoints, of which each must be whole to be named `step-N`.
fn checkpoints(folder: &Path) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(folder.join("run")) else { return Vec::new() };
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut steps: Vec<u64> =
        names.filter_map(|name| name.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

/// The weights of the newest checkpoint, by name.
fn last_weights(folder: &Path) -> BTreeMap<String, Vec<f32>> {
    let step = *checkpoints(folder).last().unwrap();
    let path = folder.join(format!("run/step-{step}/weights.safetensors"));
    let file = TensorFile::open(path).unwrap();
    let device = tiny().device();
    let read = |name: &str, shape: &[usize]| {
        (name.to_owned(), support::floats(file.read(name, shape, &device).unwrap()))
    };
    file.tensors().map(|(name, shape)| read(name, shape)).collect()
}

/// What a run that nobody disturbs comes to.
fn undisturbed() -> BTreeMap<String, Vec<f32>> {
    let mut trainer = LlamaTrainer::new(tiny(), Rsft::new(), run_options()).unwrap();
    trainer.train(&examples(20), &mut |_: &StepReport| ControlFlow::Continue(())).unwrap();
    weights(trainer.model().unwrap()).into_iter().collect()
}

fn logged(folder: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join("steps.jsonl")).unwrap();
    let step =
        |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["step"].as_u64();
    text.lines().map(|line| step(line).unwrap()).collect()
}

fn finish(folder: &Path) {
    let Output { status, stdout, stderr } = command(folder).output().unwrap();
    assert!(
        status.success(),
        "{} {}",
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
}

#[test]
fn fault_t41_a_run_that_is_killed_at_any_moment_ends_as_if_it_had_not_been() {
    let folder = tempfile::tempdir().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(41);
    let (mut killed, mut newest, mut runs) = (0, 0, 0);
    while killed < KILLS {
        assert!(runs < 4 * KILLS, "only {killed} of {runs} runs were alive when they were killed");
        runs += 1;
        let mut child = start(folder.path());
        std::thread::sleep(Duration::from_millis(rng.random_range(1..60)));
        child.kill().unwrap();
        // A run that was done before the kill begins the test anew, in a folder of its own.
        killed += u32::from(!child.wait().unwrap().success());
        let steps = checkpoints(folder.path());
        let last = steps.last().copied().unwrap_or(0);
        assert!(last >= newest, "{newest}, then {steps:?}");
        newest = last;
        if folder.path().join("done").exists() {
            assert!(last_weights(folder.path()) == undisturbed(), "the weights are others");
            for name in ["run", "done", "steps.jsonl"] {
                let path = folder.path().join(name);
                let _ = std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path));
            }
            newest = 0;
        }
    }
    finish(folder.path());
    assert!(last_weights(folder.path()) == undisturbed(), "the weights are others");
    assert_eq!(logged(folder.path()), (1..=120).collect::<Vec<_>>());
}

/// Waits until there is a checkpoint, and no longer than the child lives or a minute.
fn wait_for_a_checkpoint(child: &mut Child, folder: &Path) {
    let began = Instant::now();
    while checkpoints(folder).is_empty() {
        if let Some(status) = child.try_wait().unwrap() {
            // It may have written it as its last deed.
            assert!(!checkpoints(folder).is_empty(), "no checkpoint before the end: {status}");
        }
        if began.elapsed() > Duration::from_secs(60) {
            child.kill().unwrap();
            panic!("no checkpoint in a minute");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The process dies, the checkpoint before stays, and a run without the fault ends as it should.
fn dies_and_goes_on(breaks: &str, limit: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    let mut first = command(folder.path());
    // Some steps first, so that there is something to keep.
    let mut child = first.spawn().unwrap();
    wait_for_a_checkpoint(&mut child, folder.path());
    child.kill().unwrap();
    child.wait().unwrap();
    let before = checkpoints(folder.path());
    let mut broken = match limit {
        None => command(folder.path()),
        Some(kilobytes) => {
            let own = std::env::current_exe().unwrap();
            let mut shell = Command::new("sh");
            let script =
                format!("ulimit -v {kilobytes}; exec \"$0\" --exact child_process --nocapture");
            shell.args(["-c", &script]).arg(own).env("GUARD_TEST_FOLDER", folder.path());
            shell
        }
    };
    let output = broken.env("GUARD_TEST_BREAKS", breaks).output().unwrap();
    assert!(!output.status.success());
    assert!(!folder.path().join("done").exists());
    let after = checkpoints(folder.path());
    assert!(!after.is_empty() && after.last() >= before.last(), "{before:?} {after:?}");
    finish(folder.path());
    assert!(last_weights(folder.path()) == undisturbed(), "the weights are others");
    assert_eq!(logged(folder.path()), (1..=120).collect::<Vec<_>>());
}

#[test]
fn fault_t45_a_backend_that_panics_ends_the_process_and_keeps_the_checkpoint() {
    dies_and_goes_on("panic", None);
}

#[cfg(unix)]
#[test]
fn fault_t45_no_memory_ends_the_process_and_keeps_the_checkpoint() {
    dies_and_goes_on("memory", Some("4000000"));
}
