//! T-51: a run of synthesis that is killed again and again. T-52, where a child process has the key.

use std::collections::HashSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::server::{Act, Seen, Server, response};
use guard_data::{
    ApiKey, Budgeted, ChatClient, ChatRequest, Cost, ExportPaths, Harm, HttpChat, Journal,
    JsonLinesSource, Labels, Ledger, Message, Prices, ReasonedFile, ReasoningMode, RetryPolicy,
    Retrying, Role, RuleTeacher, RunEnd, Sample, SynthesisOptions, Synthesizer,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// More than all killed runs get done: four at a time, 6 ms each, 50 times up to 120 ms.
const ROWS: usize = 2500;
const KILLS: u32 = 50;
const CANARY: &str = "sk-CANARY-4712";

/// A dollar a million tokens, so a token is 1,000 billionths.
fn prices() -> Prices {
    let dollar = Cost::from_dollars(1.0).unwrap();
    Prices { prompt: dollar, completion: dollar }
}

/// What the parent runs in another process: the whole of a run, as a program would do it.
#[test]
fn child_process() {
    let Ok(folder) = std::env::var("GUARD_TEST_FOLDER") else { return };
    let folder = Path::new(&folder);
    let url = std::env::var("GUARD_TEST_URL").unwrap();
    let cap = std::env::var("GUARD_TEST_CAP").unwrap().parse().unwrap();
    let journal = Journal::open(folder.join("journal.jsonl"), Some(cap)).unwrap();
    let journal = Arc::new(journal);
    let key = ApiKey::from_env("GUARD_TEST_KEY").unwrap();
    let http = HttpChat::new(&url).unwrap().with_key(key);
    let policy = RetryPolicy::default()
        .with_attempts(20)
        .with_waits(Duration::ZERO, Duration::from_millis(1));
    let client = Retrying::new(Budgeted::new(http, prices(), Arc::clone(&journal)), policy, 1);
    let options = SynthesisOptions::new("m").with_max_tokens(400).with_workers(4);
    let synthesizer = Synthesizer::new(client, options);
    let source = JsonLinesSource::new(folder.join("samples.jsonl"));
    let report = synthesizer.run(&source, &journal, &mut ()).unwrap();
    let paths = ExportPaths::new(folder.join("traces.jsonl"), folder.join("aside.jsonl"));
    synthesizer.export(&source, &journal, &paths, &[ReasoningMode::Full]).unwrap();
    let end = if report.end == RunEnd::Finished { "finished" } else { "cap" };
    std::fs::write(folder.join("end"), end).unwrap();
}

fn start(folder: &Path, server: &Server, cap: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "killed::child_process", "--nocapture"]);
    command.env("GUARD_TEST_FOLDER", folder).env("GUARD_TEST_URL", server.url());
    command.env("GUARD_TEST_CAP", cap).env("GUARD_TEST_KEY", CANARY);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs to its end, and says what the child wrote.
fn finish(folder: &Path, server: &Server, cap: &str) -> String {
    let output = start(folder, server, cap).wait_with_output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success(), "{said:?}");
    said.concat()
}

/// Answers like the teacher of rules, but for about every fourth request, and counts what it charges.
/// Cut replies are charged as well: their work was done.
fn answer(seen: &Seen, billed: &AtomicU64) -> Vec<Act> {
    let messages = seen.body["messages"].as_array().unwrap();
    let message = |message: &Value| {
        let role = if message["role"] == "system" { Role::System } else { Role::User };
        Message::new(role, message["content"].as_str().unwrap())
    };
    let request = ChatRequest::new("m", messages.iter().map(message).collect());
    let reply = RuleTeacher.chat(&request).unwrap();
    let usage = reply.usage.unwrap();
    let body = json!({
        "choices": [{"message": {"content": reply.text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": usage.prompt, "completion_tokens": usage.completion},
    });
    if seen.number.is_multiple_of(8) {
        return response("503 Busy", "", "{}");
    }
    billed.fetch_add((usage.prompt + usage.completion) * 1000, Ordering::SeqCst);
    let mut acts = response("200 OK", "", &body.to_string());
    acts.insert(0, Act::Pause(Duration::from_millis(6)));
    if seen.number % 8 == 3 {
        let Some(Act::Send(bytes)) = acts.last_mut() else { panic!() };
        bytes.truncate(bytes.len() - 40);
    }
    acts
}

#[test]
fn fault_t51_no_kill_loses_or_doubles_a_row_or_spends_above_the_cap() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let labels = Labels { request: Some(Harm::Harmful), ..Labels::default() };
    let sample =
        |id: usize| Sample::new(id.to_string(), "s", format!("request {id}")).with_labels(labels);
    let lines = (0..ROWS).map(|id| serde_json::to_string(&sample(id)).unwrap() + "\n");
    std::fs::write(folder.join("samples.jsonl"), lines.collect::<String>() + "no sample\n")
        .unwrap();
    let billed = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&billed);
    let server = Server::start(move |seen| answer(seen, &counter));

    // A cap that is reached on the way.
    let (low, high) = ("0.30", "6");
    let mut rng = ChaCha8Rng::seed_from_u64(51);
    let mut killed = 0;
    let mut before = String::new();
    // A run that came to its end by itself does not count as killed.
    for _ in 0..4 * KILLS {
        if killed == KILLS {
            break;
        }
        let cap = if killed < KILLS / 4 { low } else { high };
        let mut child = start(folder, &server, cap);
        std::thread::sleep(Duration::from_millis(rng.random_range(5..120)));
        if cfg!(target_os = "linux") {
            let arguments = std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap();
            assert!(!String::from_utf8_lossy(&arguments).contains("CANARY"));
        }
        killed += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        let journal = std::fs::read_to_string(folder.join("journal.jsonl")).unwrap_or_default();
        let whole = &before[..before.rfind('\n').map_or(0, |end| end + 1)];
        assert!(journal.starts_with(whole), "what was written stays");
        before = journal;
        let cap: Cost = cap.parse().unwrap();
        assert!(billed.load(Ordering::SeqCst) <= cap.nanos);
    }
    assert_eq!(killed, KILLS, "runs that were killed");
    assert!(before.matches("\"output\"").count() > 300, "and that had done something");
    let said = finish(folder, &server, high);
    assert_eq!(std::fs::read_to_string(folder.join("end")).unwrap(), "finished");

    let traces = ReasonedFile::open(folder.join("traces.jsonl")).unwrap();
    let ids: Vec<String> =
        traces.rows().unwrap().map(|(_, row)| row.unwrap().id.unwrap()).collect();
    let expected: Vec<String> = (0..ROWS).map(|id| id.to_string()).collect();
    let aside = std::fs::read_to_string(folder.join("aside.jsonl")).unwrap();
    assert_eq!(ids, expected, "all rows, once, in their order");
    assert_eq!(aside.lines().count(), 1, "the line that is no sample");
    let journal = Journal::open(folder.join("journal.jsonl"), None).unwrap();
    let spent = journal.spent().nanos;
    let billed = billed.load(Ordering::SeqCst);
    assert!(billed <= spent && spent <= high.parse::<Cost>().unwrap().nanos, "{billed} {spent}");
    // A row was asked for again only if its reply was lost.
    let text = std::fs::read_to_string(journal.path()).unwrap();
    let accepted: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let accepted: Vec<&str> = accepted
        .iter()
        .filter(|line| line.get("output").is_some())
        .map(|line| line["key"].as_str().unwrap())
        .collect();
    assert_eq!(accepted.iter().collect::<HashSet<_>>().len(), accepted.len());
    for (name, text) in [("output", said), ("journal", text), ("quarantine", aside)] {
        assert!(!text.contains("CANARY"), "the key is in the {name}");
    }
}

#[test]
fn a_run_stops_at_its_cap_and_goes_on_with_a_higher_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lines = (0..40).map(|id| {
        serde_json::to_string(&Sample::new(id.to_string(), "s", format!("{id}"))).unwrap() + "\n"
    });
    std::fs::write(folder.join("samples.jsonl"), lines.collect::<String>()).unwrap();
    let billed = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&billed);
    let server = Server::start(move |seen| answer(seen, &counter));
    let count = || std::fs::read_to_string(folder.join("traces.jsonl")).unwrap().lines().count();
    finish(folder, &server, "0.015");
    assert_eq!(std::fs::read_to_string(folder.join("end")).unwrap(), "cap");
    let first = count();
    assert!((1..40).contains(&first), "{first}");
    assert!(billed.load(Ordering::SeqCst) <= 15_000_000);
    finish(folder, &server, "1");
    assert_eq!(
        (std::fs::read_to_string(folder.join("end")).unwrap().as_str(), count()),
        ("finished", 40)
    );
}
