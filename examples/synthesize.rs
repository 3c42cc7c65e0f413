//! Has a teacher write the reasoning behind labels; a run that was stopped goes on.
//!
//! cargo run --release --example synthesize -- --source samples --input samples.jsonl --teacher-url rules --output traces.jsonl

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use guard_data::{
    ApiKey, Budgeted, ChatClient, Cost, ExportPaths, HttpChat, HttpConfigError, Journal,
    MissingLabels, Prices, RateLimit, RateLimited, ReasoningMode, RetryPolicy, Retrying,
    RuleTeacher, RunEnd, SampleSource, SynthesisOptions, SynthesisProgress, Synthesizer,
    TokenLimitField,
};
use guard_examples::lines::{self, Outcome};
use guard_examples::{progress, sources};
use guard_infer::PromptStyle;

/// Have a teacher write the reasoning behind labels.
#[derive(Parser)]
struct Arguments {
    /// What the input holds: samples (JSON lines of id, source, prompt, response, labels), or the
    /// original file of WildGuardTrain, AegisTrain, BeaverTailsTrain or ToxicChatTrain.
    #[arg(long, default_value = "samples")]
    source: String,
    /// The file of samples.
    #[arg(long)]
    input: PathBuf,
    /// The address of a server that speaks the OpenAI chat protocol, such as
    /// http://localhost:8000/v1; or `rules`, a teacher that needs no network.
    #[arg(long)]
    teacher_url: String,
    /// The teacher's model, as the server calls it.
    #[arg(long, default_value = "rules")]
    teacher_model: String,
    /// The environment variable that holds the key. Default: OPENAI_API_KEY for api.openai.com, none
    /// for other servers, which would get to know it.
    #[arg(long)]
    key_env: Option<String>,
    /// A file that holds the key, instead.
    #[arg(long, conflicts_with = "key_env")]
    key_file: Option<PathBuf>,
    /// Let plain http leave this machine.
    #[arg(long)]
    allow_plain_http: bool,
    /// Where the traces go. Beside it are FILE.journal, which a stopped run goes on from, and
    /// FILE.quarantine, the rows without a trace and why.
    #[arg(long)]
    output: PathBuf,
    /// The most dollars that all runs with this output may spend.
    #[arg(long, requires_all = ["prompt_price", "completion_price"])]
    max_cost: Option<Cost>,
    /// Dollars for a million tokens of requests.
    #[arg(long)]
    prompt_price: Option<Cost>,
    /// Dollars for a million tokens of replies.
    #[arg(long)]
    completion_price: Option<Cost>,
    /// Requests at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512))]
    workers: u16,
    /// The most requests a minute.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    requests_per_minute: Option<u64>,
    /// The most tokens a minute.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    tokens_per_minute: Option<u64>,
    /// The most tokens of a reply.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Send the limit of tokens as max_completion_tokens, and no temperature: for models that
    /// reason by themselves.
    #[arg(long)]
    reasoning_model: bool,
    /// Leave tasks without a label out, where the teacher would decide.
    #[arg(long)]
    leave_out_unlabelled: bool,
    /// Write each trace in these forms.
    #[arg(long, value_enum, default_values_t = [Mode::Full])]
    mode: Vec<Mode>,
    /// How the model will be asked that learns from the traces: benchmark, or compact for small
    /// models.
    #[arg(long, default_value_t)]
    style: PromptStyle,
    /// The share of replies that may be of no use before the run is given up.
    #[arg(long, default_value_t = 0.5)]
    max_rejected: f64,
    /// Ask again for rows whose reply was of no use.
    #[arg(long)]
    retry_rejected: bool,
    /// The most rows of the input. Default: all.
    #[arg(long)]
    limit: Option<usize>,
    /// Say what the rows would cost, and ask nobody.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Mode {
    /// The whole reasoning.
    Full,
    /// One sentence a task.
    Sentence,
    /// The answers alone.
    LabelOnly,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(RunEnd::Finished) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => lines::fail(error.as_ref()),
    }
}

fn run(arguments: &Arguments) -> Outcome<RunEnd> {
    if let (Ok(input), Ok(output)) =
        (arguments.input.canonicalize(), arguments.output.canonicalize())
        && input == output
    {
        return Err(format!("{} is both input and output", input.display()).into());
    }
    let source = sources::open(&arguments.source, &arguments.input)?;
    let source = sources::Limited::new(source, arguments.limit);
    let journal = Arc::new(Journal::open(beside(arguments, "journal"), arguments.max_cost)?);
    let synthesizer = Synthesizer::new(teacher(arguments, &journal)?, options(arguments));
    if arguments.dry_run {
        let estimate = synthesizer.estimate(&source, &journal, prices(arguments))?;
        lines::print(&format!(
            "{} rows, about {} tokens to send, at most {} to get; at most {}\n",
            estimate.rows,
            estimate.likely_prompt_tokens,
            estimate.most_completion_tokens,
            estimate.most
        ))?;
        return Ok(RunEnd::Finished);
    }
    let bar = progress::bar(0, source.samples()?.count());
    let mut observer = |progress: &SynthesisProgress| {
        bar.set_position(progress.done);
        let SynthesisProgress { accepted, rejected, failed, spent, .. } = progress;
        bar.set_message(format!("{accepted} good, {rejected} aside, {failed} failed, {spent}"));
        ControlFlow::Continue(())
    };
    let report = synthesizer.run(&source, &journal, &mut observer)?;
    bar.finish_and_clear();
    let paths = ExportPaths::new(&arguments.output, beside(arguments, "quarantine"))
        .with_style(arguments.style);
    let modes: Vec<ReasoningMode> = arguments.mode.iter().map(|mode| mode.reasoning()).collect();
    let exported = synthesizer.export(&source, &journal, &paths, &modes)?;
    if exported.traces > 0 {
        lines::print(&format!("{}\n", exported.statistics))?;
    }
    lines::print(&format!(
        "{report}\n{} traces in {}, {} rows in {}, {} not asked for yet\n",
        exported.traces,
        paths.traces.display(),
        exported.quarantined,
        paths.quarantine.display(),
        exported.missing
    ))?;
    Ok(report.end)
}

/// OUTPUT.NAME
fn beside(arguments: &Arguments, name: &str) -> PathBuf {
    let mut path = arguments.output.clone().into_os_string();
    path.push(format!(".{name}"));
    path.into()
}

fn options(arguments: &Arguments) -> SynthesisOptions {
    let mut options = SynthesisOptions::new(&arguments.teacher_model)
        .with_max_tokens(arguments.max_tokens as usize)
        .with_workers(arguments.workers.into())
        .with_most_rejected(arguments.max_rejected);
    if arguments.reasoning_model {
        options = options.with_temperature(None);
    }
    if arguments.leave_out_unlabelled {
        options = options.with_missing(MissingLabels::LeaveOut);
    }
    match arguments.retry_rejected {
        true => options.retrying_rejected(),
        false => options,
    }
}

fn prices(arguments: &Arguments) -> Prices {
    Prices {
        prompt: arguments.prompt_price.unwrap_or_default(),
        completion: arguments.completion_price.unwrap_or_default(),
    }
}

/// The teacher within its limits: every attempt waits for its turn and is paid for.
fn teacher(arguments: &Arguments, journal: &Arc<Journal>) -> Outcome<Box<dyn ChatClient>> {
    if arguments.teacher_url == "rules" {
        let paid = Budgeted::new(RuleTeacher, prices(arguments), Arc::clone(journal));
        return Ok(Box::new(paid));
    }
    let mut http = match arguments.allow_plain_http {
        true => HttpChat::new_unencrypted(&arguments.teacher_url)?,
        false => HttpChat::new(&arguments.teacher_url).map_err(|error| match error {
            HttpConfigError::PlainHttp => format!("{error} (--allow-plain-http)"),
            error => error.to_string(),
        })?,
    };
    if let Some(key) = key(arguments)? {
        http = http.with_key(key);
    }
    if arguments.reasoning_model {
        http = http.with_token_limit_field(TokenLimitField::MaxCompletionTokens);
    }
    let limit = RateLimit {
        requests_per_minute: arguments.requests_per_minute,
        tokens_per_minute: arguments.tokens_per_minute,
    };
    let paid = Budgeted::new(http, prices(arguments), Arc::clone(journal));
    let seed = std::process::id().into();
    Ok(Box::new(Retrying::new(RateLimited::new(paid, limit), RetryPolicy::default(), seed)))
}

/// A key goes only where it was meant for; a local server needs none.
fn key(arguments: &Arguments) -> Outcome<Option<ApiKey>> {
    if let Some(path) = &arguments.key_file {
        return Ok(Some(ApiKey::from_file(path)?));
    }
    match &arguments.key_env {
        Some(variable) => Ok(Some(ApiKey::from_env(variable)?)),
        None if arguments.teacher_url.starts_with("https://api.openai.com/") => {
            Ok(Some(ApiKey::from_env("OPENAI_API_KEY")?))
        }
        None => Ok(None),
    }
}

impl Mode {
    fn reasoning(self) -> ReasoningMode {
        match self {
            Self::Full => ReasoningMode::Full,
            Self::Sentence => ReasoningMode::Sentence,
            Self::LabelOnly => ReasoningMode::LabelOnly,
        }
    }
}
