//! The trainers as commands: both stages on a tiny model, signals (T-46), and what they refuse.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guard_infer::guard_core::burn::tensor::Device;
use guard_infer::{LlamaGenerator, LoadOptions};
use serde_json::{Value, json};
use support::{example, succeeds, tiny, told};

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

fn steps(folder: &Path, run: &str) -> usize {
    std::fs::read_to_string(folder.join(run).join("steps.jsonl"))
        .map_or(0, |text| text.lines().count())
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn both_stages_leave_a_model_a_log_and_a_picture() {
    let folder = folder();
    let path = folder.path();
    let text = succeeds(&mut train("train_rsft", path, "traces.jsonl", "one", &["--lora", "2"]));
    assert!(text.contains("6 rows, 0 dropped") && text.contains("memory on paper"), "{text}");
    assert_eq!(steps(path, "one"), 9);
    for file in ["model/model.safetensors", "model/tokenizer.json", "training.svg"] {
        assert!(path.join("one").join(file).is_file(), "{file}");
    }
    // PEFT finds the model beneath by the name that it was given.
    let adapter = read_json(&path.join("one/adapter/adapter_config.json"));
    assert_eq!(adapter["base_model_name_or_path"], tiny().to_str().unwrap());
    // The second stage begins with the model of the first.
    let mut second = train("train_hsdpo", path, "pairs.jsonl", "two", &["--epochs", "2"]);
    second.args(["--limit", "4"]).arg("--validation").arg(path.join("pairs.jsonl"));
    let mut arguments: Vec<_> = second.get_args().map(ToOwned::to_owned).collect();
    arguments[1] = path.join("one/model").into_os_string();
    let text = succeeds(example("train_hsdpo").args(arguments));
    assert!(text.contains("trained 4 steps"), "{text}");
    // The limit is the data's.
    assert!(text.contains("pairs.jsonl: 4 rows") && text.contains("pairs.jsonl: 6 rows"), "{text}");
    let log = std::fs::read_to_string(path.join("two/steps.jsonl")).unwrap();
    assert!(log.contains("rewards/margins") && log.contains("validation_loss"), "{log}");
    assert_eq!(std::fs::read_dir(path.join("two/reference")).unwrap().count(), 2);
}

/// A copy of the tiny model in `start/`, as a base model that is to learn ChatML: it has the
/// tokens of the turns, and names another one as the end of a text.
fn base_model(folder: &Path) -> PathBuf {
    let start = folder.join("start");
    std::fs::create_dir(&start).unwrap();
    std::fs::copy(tiny().join("model.safetensors"), start.join("model.safetensors")).unwrap();
    let tokenizer = std::fs::read_to_string(tiny().join("tokenizer.json")).unwrap();
    let tokenizer = tokenizer.replace("<|eot_id|>", "<|im_end|>");
    let tokenizer = tokenizer.replace("<|start_header_id|>", "<|im_start|>");
    std::fs::write(start.join("tokenizer.json"), tokenizer).unwrap();
    let mut config = read_json(&tiny().join("config.json"));
    config["eos_token_id"] = 380.into();
    std::fs::write(start.join("config.json"), config.to_string()).unwrap();
    let generation = r#"{"bos_token_id": 379, "eos_token_id": 380, "temperature": 0.6}"#;
    std::fs::write(start.join("generation_config.json"), generation).unwrap();
    start
}

#[test]
fn the_model_names_the_token_that_it_learnt_to_end_with() {
    let folder = folder();
    let path = folder.path();
    let start = base_model(path);
    let asked = json!({"style": "compact", "knows_modes": true, "scores": {}});
    std::fs::write(start.join("guard.json"), asked.to_string()).unwrap();
    let mut command = train("train_rsft", path, "traces.jsonl", "run", &["--max-steps", "1"]);
    let mut arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    arguments[1] = start.clone().into_os_string();
    command = example("train_rsft");
    succeeds(command.args(arguments));
    let both = serde_json::json!([380, 383]);
    assert_eq!(read_json(&path.join("run/model/config.json"))["eos_token_id"], both);
    let generation = read_json(&path.join("run/model/generation_config.json"));
    assert_eq!((&generation["eos_token_id"], &generation["temperature"]), (&both, &0.6.into()));
    // It is asked as the model that it began as; that one's calibration is not its own.
    let asked = json!({"style": "compact", "knows_modes": true});
    assert_eq!(read_json(&path.join("run/model/guard.json")), asked);
    // And a generator knows ChatML's by its name.
    let open = |path: &Path| LlamaGenerator::open(path, LoadOptions::default(), &Device::flex());
    assert!(open(&start).unwrap().end_tokens().contains(&383));
}

#[test]
fn the_best_model_on_the_validation_rows_is_written_as_well() {
    let folder = folder();
    let path = folder.path();
    let config = CONFIG.replace("every = 5", "every = 1");
    let config = config.replace("[train]", "[train]\nschedule = \"constant\"");
    std::fs::write(path.join("run.toml"), config).unwrap();
    // A rate at which the model soon gets worse.
    let more = ["--learning-rate", "0.1", "--max-steps", "3"];
    let mut command = train("train_rsft", path, "traces.jsonl", "run", &more);
    std::fs::write(path.join("others.jsonl"), OTHERS).unwrap();
    let text = succeeds(command.arg("--validation").arg(path.join("others.jsonl")));
    let log = std::fs::read_to_string(path.join("run/steps.jsonl")).unwrap();
    let loss = |line: &str| {
        serde_json::from_str::<Value>(line).unwrap()["validation_loss"].as_f64().unwrap()
    };
    let losses: Vec<f64> = log.lines().map(loss).collect();
    let best = (0..losses.len()).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).unwrap() + 1;
    assert!(best < losses.len(), "{losses:?}");
    assert!(text.contains(&format!("the best one, of step {best} ")), "{text}");
    let weights = |file: String| std::fs::read(path.join("run").join(file)).unwrap();
    for (name, step) in [("best", best), ("model", losses.len())] {
        let checkpoint = weights(format!("checkpoints/step-{step}/weights.safetensors"));
        assert!(weights(format!("{name}/model.safetensors")) == checkpoint, "{name}");
    }
    assert_eq!(
        read_json(&path.join("run/best/config.json")),
        read_json(&path.join("run/model/config.json"))
    );
}

const OTHERS: &str = r#"{"instruction":"judge","input":"text 9","output":"reason 9"}
{"instruction":"judge","input":"text 8","output":"reason 8"}
"#;

#[test]
fn a_picture_that_cannot_be_written_costs_no_model() {
    let folder = folder();
    let path = folder.path();
    std::fs::create_dir_all(path.join("run/training.svg")).unwrap();
    let one = ["--max-steps", "1"];
    let text = succeeds(&mut train("train_rsft", path, "traces.jsonl", "run", &one));
    assert!(text.contains("warning: ") && text.contains("training.svg"), "{text}");
    assert!(path.join("run/model/model.safetensors").is_file());
}

fn wait_for_steps(child: &mut Child, folder: &Path, count: usize) {
    wait_until(child, || steps(folder, "run") >= count);
}

fn wait_until(child: &mut Child, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
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
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert!(told(&output).contains("stopped after step"), "{}", told(&output));
    let done = steps(path, "run");
    assert!(path.join(format!("run/checkpoints/step-{done}/manifest.json")).is_file());

    // A step that is far from its end when both signals have come.
    let resumed = [long.as_slice(), &["--resume", "--allow-changes"]].concat();
    let trace = |n| json!({"instruction": "judge", "input": n, "output": n}).to_string() + "\n";
    let many: String = (0..20_000).map(|n: u32| trace(n.to_string())).collect();
    std::fs::write(path.join("many.jsonl"), many).unwrap();
    let errors = path.join("errors.txt");
    let mut child = train("train_rsft", path, "many.jsonl", "run", &resumed)
        .args(["--examples-per-step", "20000"])
        .stderr(std::fs::File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let says = |text: &str| std::fs::read_to_string(&errors).unwrap().contains(text);
    wait_until(&mut child, || says("going on from"));
    signal(&child);
    wait_until(&mut child, || says("stopping after this step; once more ends at once"));
    signal(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", told(&output));
    assert_eq!(steps(path, "run"), done);

    // The run goes on from where it was stopped first.
    let resumed = [long.as_slice(), &["--resume"]].concat();
    let mut child = train("train_rsft", path, "traces.jsonl", "run", &resumed).spawn().unwrap();
    wait_for_steps(&mut child, path, done + 3);
    signal(&child);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", told(&output));
    assert!(told(&output).contains(&format!("after step {done}")), "{}", told(&output));
}

fn refused(command: &mut Command, what: &str) {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", told(&output));
    assert!(told(&output).contains(what), "{}", told(&output));
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_written() {
    let folder = folder();
    let path = folder.path();
    refused(&mut train("train_rsft", path, "none.jsonl", "run", &[]), "none.jsonl");
    refused(&mut train("train_rsft", path, "pairs.jsonl", "run", &[]), "pairs.jsonl");
    refused(
        &mut train("train_rsft", path, "traces.jsonl", "run", &["--learning-rate", "nan"]),
        "learning_rate",
    );
    refused(&mut train("train_rsft", path, "traces.jsonl", "run", &["--lora", "0"]), "rank");
    refused(&mut train("train_hsdpo", path, "traces.jsonl", "run", &[]), "preference pair");
    for (table, what) in [("[train]\nepoch = 3\n", "epoch"), ("[hs_dpo]\n", "[hs_dpo]")] {
        std::fs::write(path.join("run.toml"), table).unwrap();
        refused(&mut train("train_rsft", path, "traces.jsonl", "run", &[]), what);
    }
    assert!(!path.join("run/steps.jsonl").exists());
}

/// A trainer whose model is not there: what is refused was refused before a model was loaded.
fn without_model(name: &str, folder: &Path, data: &str, more: &[&str]) -> Command {
    let mut command = example(name);
    command.arg("--model").arg(folder.join("no model"));
    command.arg("--data").arg(folder.join(data)).arg("--output").arg(folder.join("run"));
    command.args(more);
    command
}

#[test]
fn what_can_be_known_is_refused_before_a_model_is_loaded() {
    let folder = folder();
    let path = folder.path();
    refused(&mut without_model("train_rsft", path, "traces.jsonl", &[]), "no model");
    refused(&mut without_model("train_rsft", path, "none.jsonl", &[]), "none.jsonl");
    #[cfg(not(feature = "dashboard"))]
    refused(&mut without_model("train_rsft", path, "traces.jsonl", &["--dashboard"]), "feature");
    // A second run does not write over the first: neither its log nor its checkpoints.
    succeeds(&mut train("train_rsft", path, "traces.jsonl", "run", &["--max-steps", "1"]));
    refused(&mut without_model("train_rsft", path, "traces.jsonl", &[]), "steps.jsonl is of a run");
    std::fs::remove_file(path.join("run/steps.jsonl")).unwrap();
    refused(&mut without_model("train_hsdpo", path, "pairs.jsonl", &[]), "checkpoints is of a run");
    refused(&mut without_model("train_hsdpo", path, "pairs.jsonl", &["--resume"]), "no model");
}

#[test]
fn the_model_at_the_start_is_not_written_over() {
    let folder = folder();
    let path = folder.path();
    let start = base_model(path);
    let work = path.join("work");
    std::fs::create_dir(&work).unwrap();
    for name in ["model", "best"] {
        let own = work.join(name);
        std::fs::rename(&start, &own).unwrap();
        let mut command = example("train_rsft");
        command.arg("--model").arg(work.join(".").join(name)).arg("--output").arg(&work);
        command.arg("--data").arg(path.join("traces.jsonl"));
        refused(&mut command, "which this run writes over");
        assert!(!work.join("steps.jsonl").exists());
        std::fs::rename(&own, &start).unwrap();
    }
}
