//! Measures a model on this machine: reading, writing, verdicts a second, latency and memory.
//!
//! cargo run --release --example bench -- --requests 200

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::read_to_string;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use guard_examples::lines::{self, Outcome};
use guard_examples::model::{JudgeArguments, ModelArguments};
use guard_examples::{progress, sources};
use guard_infer::{
    Exchange, GenerateOptions, Guard, GuardError, GuardFormat, JudgeOptions, LlamaGuard,
    ReasoningMode, Sampling, TextGenerator, Usage,
};
use indicatif::ProgressBar;
use serde::Serialize;

/// Measure the speed of a model on this machine.
///
/// Reading (prefill) and writing (decode) are medians over all repetitions, one text at a time and without
/// guesses ahead. Verdicts are those of the guard as it is used, asked by so many callers at once. The
/// number of threads is that of the processor, or what RAYON_NUM_THREADS says.
#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    judge: JudgeArguments,
    /// Lengths of the prompts that are read; 0 measures no reading.
    #[arg(long, value_delimiter = ',', default_value = "128,602,2000")]
    prompt_tokens: Vec<usize>,
    /// Depths behind which tokens are written.
    #[arg(long, value_delimiter = ',', default_value = "1,600,2000")]
    depths: Vec<usize>,
    /// How many tokens are written at each depth; 0 measures no writing.
    #[arg(long, default_value_t = 64)]
    decode_tokens: usize,
    /// How often each is repeated, at least once.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
    /// How many exchanges are judged; 0 judges none.
    #[arg(long, default_value_t = 50)]
    requests: usize,
    /// In the place of verdicts, texts of exactly so many tokens behind the guard's prompts, whatever the
    /// model wants to say: for comparisons with other engines. Guesses ahead are made as ever.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    fixed_tokens: Option<u16>,
    /// How many callers ask at once; 0 asks nothing.
    #[arg(long, value_delimiter = ',', default_value = "1,4,16")]
    concurrency: Vec<usize>,
    /// How many samples are drawn from a prompt (temperature 1, top-p 0.95), of as many tokens each as
    /// --fixed-tokens says: what they cost a prompt, one caller asking.
    #[arg(long, value_delimiter = ',', requires = "fixed_tokens", value_parser = clap::value_parser!(u8).range(1..=64))]
    samples: Vec<u8>,
    /// JSON lines of {"prompt": ..., "response": ...} to judge. Default: some of a made-up bank.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

/// What was measured. Rates are by the number of tokens or callers.
#[derive(Serialize)]
struct Report {
    model: String,
    packed: String,
    threads: usize,
    prefill_tokens_per_second: BTreeMap<usize, f64>,
    decode_tokens_per_second: BTreeMap<usize, f64>,
    verdicts: BTreeMap<usize, Verdicts>,
    /// By the number of samples.
    sampling_seconds_per_prompt: BTreeMap<usize, f64>,
    /// The most memory that the program held at once, where the system tells.
    peak_memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Verdicts {
    mode: String,
    requests: usize,
    verdicts_per_second: f64,
    tokens_read: usize,
    tokens_written: usize,
    latency_p50_ms: f64,
    latency_p95_ms: f64,
    latency_p99_ms: f64,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let exchanges = sources::exchanges(arguments.input.as_deref(), arguments.requests)?;
    let guard = arguments.judge.guard(&arguments.model.model, &arguments.model.place)?;
    let steps = arguments.prompt_tokens.len() + arguments.depths.len();
    let asked = arguments.concurrency.len() + arguments.samples.len();
    let bar =
        progress::bar(0, steps * usize::from(arguments.repetitions) + asked * exchanges.len());
    let (prefill, decode) = speeds(&guard, arguments, &bar)?;
    let asked = Asked::new(guard, arguments);
    let mut verdicts = BTreeMap::new();
    for &callers in arguments.concurrency.iter().filter(|&&callers| callers > 0) {
        if !exchanges.is_empty() {
            verdicts.insert(callers, ask(&asked, &exchanges, callers, &bar)?);
        }
    }
    let report = Report {
        model: arguments.model.model.to_string(),
        packed: arguments.model.place.packed.to_string(),
        threads: threads(),
        prefill_tokens_per_second: prefill,
        decode_tokens_per_second: decode,
        verdicts,
        sampling_seconds_per_prompt: sample(&asked, &exchanges, &arguments.samples, &bar)?,
        peak_memory_bytes: peak_memory(),
    };
    bar.finish_and_clear();
    let text = match arguments.json {
        true => serde_json::to_string(&report)? + "\n",
        false => show(&report)?,
    };
    lines::print(&text)
}

/// Tokens a second, by the number of tokens read or before.
type Speeds = BTreeMap<usize, f64>;

/// How fast one text is read, and how fast it is written.
fn speeds(
    guard: &LlamaGuard,
    arguments: &Arguments,
    bar: &ProgressBar,
) -> Outcome<(Speeds, Speeds)> {
    let speed = |prompt: usize, written: usize| -> Outcome<Option<f64>> {
        let context = guard.generator().config().max_positions;
        if prompt + written > context {
            bar.inc(arguments.repetitions.into());
            bar.println(format!("{prompt} tokens are left out: the context has {context}"));
            return Ok(None);
        }
        let mut seconds = Vec::new();
        for _ in 0..arguments.repetitions {
            let timing = guard.generator().time(prompt, written)?;
            seconds.push(if written > 0 { timing.decode } else { timing.prefill }.as_secs_f64());
            bar.inc(1);
        }
        let tokens = if written > 0 { written } else { prompt } as f64;
        Ok(percentile(&mut seconds, 0.5).map(|seconds| tokens / seconds))
    };
    let (mut prefill, mut decode) = (Speeds::new(), Speeds::new());
    for &length in arguments.prompt_tokens.iter().filter(|&&length| length > 0) {
        prefill.extend(speed(length, 0)?.map(|speed| (length, speed)));
    }
    for &depth in arguments.depths.iter().filter(|_| arguments.decode_tokens > 0) {
        let found = speed(depth.max(1), arguments.decode_tokens)?;
        decode.extend(found.map(|speed| (depth, speed)));
    }
    Ok((prefill, decode))
}

/// What samples of a prompt cost, by their number: seconds, the numbers taking turns.
fn sample(
    asked: &Asked,
    exchanges: &[Exchange],
    counts: &[u8],
    bar: &ProgressBar,
) -> Outcome<BTreeMap<usize, f64>> {
    let asked_for = counts.iter().filter(|_| !exchanges.is_empty());
    let mut seconds: BTreeMap<usize, f64> = asked_for.map(|&count| (count.into(), 0.0)).collect();
    for exchange in exchanges {
        for (&count, seconds) in &mut seconds {
            let started = Instant::now();
            asked.sample(exchange, count)?;
            *seconds += started.elapsed().as_secs_f64();
            bar.inc(1);
        }
    }
    seconds.values_mut().for_each(|seconds| *seconds /= exchanges.len() as f64);
    Ok(seconds)
}

/// What answers a caller.
struct Asked {
    guard: LlamaGuard,
    judge: JudgeOptions,
    /// Texts of this kind, and no verdicts.
    fixed: Option<GenerateOptions>,
}

impl Asked {
    fn new(guard: LlamaGuard, arguments: &Arguments) -> Self {
        let judge = arguments.judge.options();
        let Some(tokens) = arguments.fixed_tokens else {
            return Self { guard, judge, fixed: None };
        };
        let options = GenerateOptions::default().with_max_tokens(tokens.into());
        let (generator, format) = guard.into_inner();
        let guard = LlamaGuard::new("bench", generator.with_end_tokens([]), format);
        Self { guard, judge, fixed: Some(options.with_repetition(None)) }
    }

    /// What one exchange cost.
    fn ask(&self, exchange: &Exchange) -> Result<Usage, GuardError> {
        let Some(options) = &self.fixed else {
            let mut verdicts = self.guard.judge(std::slice::from_ref(exchange), &self.judge);
            return Ok(verdicts.remove(0)?.usage);
        };
        self.generate(exchange, options)
    }

    /// Draws so many samples behind the guard's prompts.
    fn sample(&self, exchange: &Exchange, count: usize) -> Result<Usage, GuardError> {
        let sampling = Sampling::TopP { temperature: 1.0, top_p: 0.95 };
        let options = self.fixed.clone().unwrap_or_default().with_samples(count);
        self.generate(exchange, &options.with_sampling(sampling))
    }

    fn generate(
        &self,
        exchange: &Exchange,
        options: &GenerateOptions,
    ) -> Result<Usage, GuardError> {
        let calls = self.guard.format().plan(exchange, ReasoningMode::Full)?;
        let prompts: Vec<_> = calls.into_iter().map(|call| call.prompt).collect();
        let texts = self.guard.generator().generate(&prompts, options);
        let mut usage = Usage::default();
        for text in texts {
            usage = text?.iter().fold(usage, |usage, text| usage.then(text.usage));
        }
        Ok(usage)
    }
}

/// Has callers ask about the exchanges one by one, each about the next one that nobody has.
fn ask(
    asked: &Asked,
    exchanges: &[Exchange],
    callers: usize,
    bar: &ProgressBar,
) -> Outcome<Verdicts> {
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let caller = || -> Result<Vec<(Duration, Usage)>, String> {
        let mut costs = Vec::new();
        while let Some(exchange) = exchanges.get(next.fetch_add(1, Ordering::Relaxed)) {
            let started = Instant::now();
            let usage = asked.ask(exchange).map_err(|error| lines::chain(&error))?;
            costs.push((started.elapsed(), usage));
            bar.inc(1);
        }
        Ok(costs)
    };
    let costs: Result<Vec<_>, String> = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..callers).map(|_| scope.spawn(caller)).collect();
        let panicked = |_| Err("a caller panicked".to_owned());
        callers.into_iter().map(|caller| caller.join().unwrap_or_else(panicked)).collect()
    });
    let (costs, seconds) = (costs?.concat(), started.elapsed().as_secs_f64());
    let mut latency: Vec<f64> = costs.iter().map(|cost| cost.0.as_secs_f64() * 1e3).collect();
    let mut at = |share| percentile(&mut latency, share).unwrap_or(0.0);
    Ok(Verdicts {
        mode: match asked.fixed {
            Some(_) => "fixed".to_owned(),
            None => asked.judge.mode.to_string(),
        },
        requests: costs.len(),
        verdicts_per_second: costs.len() as f64 / seconds,
        tokens_read: costs.iter().map(|cost| cost.1.prompt_tokens).sum(),
        tokens_written: costs.iter().map(|cost| cost.1.completion_tokens).sum(),
        latency_p50_ms: at(0.5),
        latency_p95_ms: at(0.95),
        latency_p99_ms: at(0.99),
    })
}

/// The least of the values that a share of them does not exceed.
fn percentile(values: &mut [f64], share: f64) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share).ceil() as usize;
    values.get(at.saturating_sub(1)).copied()
}

/// The threads that compute on the CPU; for other devices one gives the orders.
fn threads() -> usize {
    #[cfg(feature = "flex")]
    return guard_infer::PackedLlama::threads();
    #[cfg(not(feature = "flex"))]
    1
}

fn peak_memory() -> Option<u64> {
    let status = read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

fn show(report: &Report) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(text, "{}, packed {}, {} threads", report.model, report.packed, report.threads)?;
    for (length, speed) in &report.prefill_tokens_per_second {
        writeln!(text, "  read {length:>6} tokens     {speed:>9.1} tokens / s")?;
    }
    for (depth, speed) in &report.decode_tokens_per_second {
        writeln!(text, "  write behind {depth:>6}   {speed:>9.1} tokens / s")?;
    }
    for (callers, verdicts) in &report.verdicts {
        let Verdicts { mode, requests, verdicts_per_second: rate, tokens_written, .. } = verdicts;
        let [p50, p95, p99] =
            [verdicts.latency_p50_ms, verdicts.latency_p95_ms, verdicts.latency_p99_ms];
        writeln!(
            text,
            "  {callers:>3} callers, {mode}: {rate:.2} verdicts / s; p50 {p50:.1}, p95 {p95:.1}, p99 \
             {p99:.1} ms; {requests} verdicts, {tokens_written} tokens written"
        )?;
    }
    for (count, seconds) in &report.sampling_seconds_per_prompt {
        writeln!(text, "  {count:>3} samples: {:.1} ms a prompt", seconds * 1e3)?;
    }
    if let Some(bytes) = report.peak_memory_bytes {
        writeln!(text, "  peak memory {:.1} MB", bytes as f64 / 1e6)?;
    }
    Ok(text)
}
