//! Judges one exchange, or a file of them, with a guard model.
//!
//! cargo run --release --example moderate -- --prompt "How do I bake bread?"

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use guard_examples::lines::{self, Line, Outcome, Output};
use guard_examples::model::{JudgeArguments, ModelArguments};
use guard_examples::{progress, terminal};
use guard_infer::{Action, Decision, Exchange, Guard, GuardError, JudgeOptions, Policy, Verdict};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// Judge a request, and the response to it, with a guard model.
///
/// The exit status of a single exchange is 0 for allow and 1 for block; of a file it is 0 once all
/// lines have their verdict. Errors are 2.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// The request to judge.
    #[arg(long, required_unless_present = "input")]
    prompt: Option<String>,
    /// The response to judge with it.
    #[arg(long, requires = "prompt")]
    response: Option<String>,
    /// JSON lines of {"prompt": ..., "response": ...} to judge, `-` for standard input.
    #[arg(long, conflicts_with = "prompt")]
    input: Option<PathBuf>,
    /// Where JSON lines of verdicts go; a run that was stopped goes on. Default: standard output.
    #[arg(long, requires = "input")]
    output: Option<PathBuf>,
    /// Print one exchange's verdict as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    judge: JudgeArguments,
}

/// One line of input. A field that is not known may be a misspelt response, so it is an error;
/// the other fields of the project's samples are known and not used.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    id: Option<serde_json::Value>,
    prompt: String,
    response: Option<String>,
    #[serde(rename = "source")]
    _source: Option<IgnoredAny>,
    #[serde(rename = "labels")]
    _labels: Option<IgnoredAny>,
}

fn exchange(prompt: String, response: Option<String>) -> Exchange {
    match response {
        Some(response) => Exchange::pair(prompt, response),
        None => Exchange::prompt(prompt),
    }
}

/// One line of output: a verdict, or why there is none. Either way there is a decision.
#[derive(Serialize)]
struct Judgement {
    /// The line of the input, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<serde_json::Value>,
    #[serde(flatten)]
    decision: Decision,
    #[serde(flatten)]
    verdict: Option<Verdict>,
    error: Option<String>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(Action::Allow) => ExitCode::SUCCESS,
        Ok(Action::Block) => ExitCode::FAILURE,
        Err(error) => lines::fail(error.as_ref()),
    }
}

fn run(arguments: &Arguments) -> Outcome<Action> {
    let guard = arguments.judge.guard(&arguments.model.model, &arguments.model.place)?;
    let options = arguments.judge.options();
    match &arguments.input {
        Some(input) => {
            judge_file(&guard, &options, arguments, input)?;
            Ok(Action::Allow)
        }
        None => judge_one(&guard, &options, arguments),
    }
}

fn judge_one(guard: &impl Guard, options: &JudgeOptions, arguments: &Arguments) -> Outcome<Action> {
    let prompt = arguments.prompt.clone().unwrap_or_default();
    let exchange = exchange(prompt, arguments.response.clone());
    // Without a result nothing was judged.
    let mut action = Action::Block;
    for result in guard.judge(&[exchange], options) {
        action = Policy::default().decide_result(&result).action;
        if arguments.json {
            Output::Terminal.write(&Judgement::new(None, None, result))?;
        } else {
            let verdict = result?;
            let decision = Policy::default().decide(&verdict);
            lines::print(&terminal::render(&verdict, decision, terminal::Style::detect()))?;
        }
    }
    Ok(action)
}

fn judge_file(
    guard: &impl Guard,
    options: &JudgeOptions,
    arguments: &Arguments,
    input: &std::path::Path,
) -> Outcome<()> {
    let items = lines::read::<Item>(input)?;
    let (mut out, done) = lines::resume(arguments.output.as_deref(), input, "action")?;
    let bar = progress::bar(done, items.len());
    let mut items = items.into_iter().skip(done).peekable();
    while items.peek().is_some() {
        let batch: Vec<_> = items.by_ref().take(arguments.model.place.rows()).collect();
        for judgement in judge_batch(guard, options, batch) {
            out.write(&judgement)?;
            bar.inc(1);
        }
    }
    bar.finish();
    Ok(())
}

/// Judges what could be read. A line that could not is blocked and told, as a failed guard is.
fn judge_batch(
    guard: &impl Guard,
    options: &JudgeOptions,
    batch: Vec<Line<Item>>,
) -> Vec<Judgement> {
    let mut exchanges = Vec::new();
    let mut ids = Vec::new();
    for Line { number, record } in batch {
        let id = record.map(|item| {
            exchanges.push(exchange(item.prompt, item.response));
            item.id
        });
        ids.push((Some(number), id));
    }
    let mut results = guard.judge(&exchanges, options).into_iter();
    let judgements = ids.into_iter().map(|(line, id)| match id {
        Ok(id) => results.next().map(|result| Judgement::new(line, id, result)),
        Err(error) => {
            let decision = Policy::default().decide_without_verdict();
            Some(Judgement { line, id: None, decision, verdict: None, error: Some(error) })
        }
    });
    judgements.flatten().collect()
}

impl Judgement {
    fn new(
        line: Option<u64>,
        id: Option<serde_json::Value>,
        result: Result<Verdict, GuardError>,
    ) -> Self {
        let decision = Policy::default().decide_result(&result);
        let (verdict, error) = match result {
            Ok(verdict) => (Some(verdict), None),
            Err(error) => (None, Some(lines::chain(&error))),
        };
        Self { line, id, decision, verdict, error }
    }
}
