//! Asking for all rows of a source.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::accept::{Rejection, accept};
use super::journal::{Journal, JournalError, Outcome, RowKey, RowState};
use super::prompt::{Asked, MissingLabels, PROMPT_VERSION, messages};
use super::report::{Estimate, RunEnd, SynthesisProgress, SynthesisReport};
use crate::reasoned::ReasonedSample;
use crate::sample::Sample;
use crate::source::{SampleSource, Samples, SourceError};
use crate::teacher::{ChatClient, ChatError, ChatRequest, Ledger, LedgerError, Prices, TokenCount};

/// How traces are made.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SynthesisOptions {
    /// The name of the teacher's model.
    pub model: String,
    /// The most tokens of a reply. Default 2,048.
    pub max_tokens: usize,
    /// The temperature of the teacher. Default 0 (released code); `None` leaves it to the service.
    pub temperature: Option<f64>,
    /// The seed, for services that take one. Default none.
    pub seed: Option<u64>,
    /// What to do about labels that a sample lacks.
    pub missing: MissingLabels,
    /// Requests at a time, at least 1. Default 8.
    pub workers: usize,
    /// Whether rows whose reply was put aside are asked for again. Default no.
    pub retry_rejected: bool,
    /// The largest share of replies that may be put aside, once there are 100. Default 0.5.
    pub most_rejected: f64,
}

impl SynthesisOptions {
    /// The default options for this model.
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            max_tokens: 2048,
            temperature: Some(0.0),
            seed: None,
            missing: MissingLabels::default(),
            workers: 8,
            retry_rejected: false,
            most_rejected: 0.5,
        }
    }

    /// The same options with another limit for replies.
    #[must_use]
    pub fn with_max_tokens(mut self, tokens: usize) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// The same options with another temperature.
    #[must_use]
    pub fn with_temperature(mut self, temperature: Option<f64>) -> Self {
        self.temperature = temperature;
        self
    }

    /// The same options with a seed.
    #[must_use]
    pub fn with_seed(mut self, seed: Option<u64>) -> Self {
        self.seed = seed;
        self
    }

    /// The same options with another rule for missing labels.
    #[must_use]
    pub fn with_missing(mut self, missing: MissingLabels) -> Self {
        self.missing = missing;
        self
    }

    /// The same options with so many requests at a time, at least 1.
    #[must_use]
    pub fn with_workers(mut self, workers: usize) -> Self {
        self.workers = workers.max(1);
        self
    }

    /// The same options, asking again for rows whose reply was put aside.
    #[must_use]
    pub fn retrying_rejected(mut self) -> Self {
        self.retry_rejected = true;
        self
    }

    /// The same options with another share of replies that may be put aside.
    #[must_use]
    pub fn with_most_rejected(mut self, share: f64) -> Self {
        self.most_rejected = share;
        self
    }
}

/// Is told how a run goes on, and can end it.
pub trait SynthesisObserver {
    /// Called after each row. [`ControlFlow::Break`] ends the run when the requests that are under
    /// way have ended; another run goes on from there.
    fn on_row(&mut self, progress: &SynthesisProgress) -> ControlFlow<()>;
}

/// Watches nothing.
impl SynthesisObserver for () {
    fn on_row(&mut self, _: &SynthesisProgress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Any function of the progress.
impl<F: FnMut(&SynthesisProgress) -> ControlFlow<()>> SynthesisObserver for F {
    fn on_row(&mut self, progress: &SynthesisProgress) -> ControlFlow<()> {
        self(progress)
    }
}

/// Why a run could not be made, or its results not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SynthesisError {
    /// The source cannot be opened.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal cannot take what is spent.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The journal has a cap, and the client asks without reserving from it.
    #[error("the journal has a cost cap that the client does not keep to: put `Budgeted` round it")]
    Unpaid,
    /// Two of the files of an export are one.
    #[error("{} is named twice", path.display())]
    SamePath {
        /// The file.
        path: std::path::PathBuf,
    },
    /// A result cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Asks a teacher for the reasoning behind the labels of samples.
///
/// A reply becomes a trace only if it ended by itself, has from 1 to 10 steps a task, answers with
/// the known labels, and speaks of no label. All others are put aside with their reason.
///
/// ```
/// use guard_data::{
///     ExportPaths, Harm, InMemorySource, Journal, Labels, ReasonedFile, ReasoningMode, RuleTeacher,
///     RunEnd, Sample, SynthesisOptions, Synthesizer,
/// };
///
/// let folder = tempfile::tempdir()?;
/// let labels = Labels { request: Some(Harm::Unharmful), ..Labels::default() };
/// let sample = Sample::new("1", "mine", "How is bread baked?").with_labels(labels);
/// let source = InMemorySource::new("mine", vec![sample]);
///
/// let journal = Journal::open(folder.path().join("journal.jsonl"), None)?;
/// let synthesizer = Synthesizer::new(RuleTeacher, SynthesisOptions::new("rules"));
/// let report = synthesizer.run(&source, &journal, &mut ())?;
/// assert_eq!((report.end, report.progress.accepted), (RunEnd::Finished, 1));
///
/// let paths = ExportPaths::new(folder.path().join("traces.jsonl"), folder.path().join("aside.jsonl"));
/// synthesizer.export(&source, &journal, &paths, &[ReasoningMode::Full])?;
/// let (_, trace) = ReasonedFile::open(&paths.traces)?.rows()?.next().unwrap();
/// assert_eq!(trace?.labels(), labels);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Synthesizer<C> {
    client: C,
    options: SynthesisOptions,
}

/// Replies of a key or an account that was turned away, in a row, that end a run.
const TURNED_AWAY: u32 = 3;

/// Rows without a reply, in a row, that end a run.
const SERVICE_DOWN: u32 = 20;

/// The fewest replies whose quality says something.
const LEAST_JUDGED: u64 = 100;

impl<C: ChatClient> Synthesizer<C> {
    /// Asks this teacher.
    pub fn new(client: C, options: SynthesisOptions) -> Self {
        Self { client, options }
    }

    /// The options.
    pub fn options(&self) -> &SynthesisOptions {
        &self.options
    }

    /// The teacher.
    pub fn client(&self) -> &C {
        &self.client
    }

    /// What a sample is called in the journal: whatever changes its trace changes the key. The limit of
    /// tokens is no part of it: a reply that ended by itself would have ended so under another.
    pub(super) fn key(&self, sample: &Sample) -> RowKey {
        let SynthesisOptions { model, temperature, seed, missing, .. } = &self.options;
        let missing = match missing {
            MissingLabels::Decide => "decide",
            MissingLabels::LeaveOut => "leave_out",
        };
        // An array: the order of an object's fields is up to the features of serde_json.
        let parts = (PROMPT_VERSION, model, temperature, seed, missing, sample);
        let parts = serde_json::to_string(&parts).unwrap_or_default();
        let digest = Sha256::digest(parts);
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        RowKey(key)
    }

    fn request(&self, sample: &Sample, asked: &[Asked; 3], key: RowKey) -> ChatRequest {
        // Half of the key: the texts go into it, so no text can hold its own number.
        let number = &key.to_string()[..16];
        let mut request = ChatRequest::new(&self.options.model, messages(sample, asked, number));
        request.max_tokens = Some(self.options.max_tokens);
        request.temperature = self.options.temperature;
        request.seed = self.options.seed;
        request
    }

    /// What the rows that the journal does not have would cost.
    ///
    /// # Errors
    ///
    /// [`SourceError`] when the source cannot be opened, or read to its end.
    pub fn estimate(
        &self,
        source: &dyn SampleSource,
        journal: &Journal,
        prices: Prices,
    ) -> Result<Estimate, SourceError> {
        let mut estimate = Estimate::default();
        let mut seen = HashSet::new();
        for sample in source.samples()? {
            let sample = match sample {
                Ok(sample) => sample,
                Err(error) if error.is_of_row() => continue,
                Err(error) => return Err(error),
            };
            let key = self.key(&sample);
            if !seen.insert(key) || self.is_done(journal, key) {
                continue;
            }
            let request = self.request(&sample, &Asked::of(&sample, self.options.missing), key);
            let completion = self.options.max_tokens as u64;
            estimate.rows += 1;
            estimate.likely_prompt_tokens += request.most_prompt_tokens() / 4;
            estimate.most_completion_tokens =
                estimate.most_completion_tokens.saturating_add(completion);
            let most = TokenCount { prompt: request.most_prompt_tokens(), completion };
            estimate.most = estimate.most + prices.cost(most);
        }
        Ok(estimate)
    }

    /// Asks for all rows of the source that the journal does not have.
    ///
    /// # Errors
    ///
    /// [`SynthesisError`] when the source cannot be opened or read to its end, the journal cannot be
    /// written, or the client does not keep to its cap. All else is told in the report: see [`RunEnd`].
    pub fn run(
        &self,
        source: &dyn SampleSource,
        journal: &Journal,
        observer: &mut dyn SynthesisObserver,
    ) -> Result<SynthesisReport, SynthesisError> {
        let work = Work {
            rows: Mutex::new(source.samples()?),
            claimed: Mutex::default(),
            stop: AtomicBool::new(false),
        };
        let work = &work;
        let mut tally = Tally::new(self.options.most_rejected);
        let result = std::thread::scope(|scope| {
            // Without room for events: a worker is at most one row ahead of what is counted.
            let (sender, events) = sync_channel(0);
            for _ in 0..self.options.workers.max(1) {
                let sender = sender.clone();
                scope.spawn(move || self.work(work, journal, &sender));
            }
            drop(sender);
            let result = watch(events, journal, &mut tally, &work.stop, observer);
            work.stop.store(true, Ordering::Relaxed);
            result
        });
        result?;
        journal.sync()?;
        Ok(tally.report)
    }

    /// One worker: takes rows until there are none, or the run is to end.
    fn work(&self, work: &Work<'_>, journal: &Journal, sender: &SyncSender<Event>) {
        while !work.stop.load(Ordering::Relaxed) {
            let row = work.rows.lock().unwrap_or_else(PoisonError::into_inner).next();
            let event = match row {
                None => return,
                Some(Err(error)) if error.is_of_row() => Event::Undecodable,
                Some(Err(error)) => Event::Broken(error.into()),
                Some(Ok(sample)) => self.ask(&sample, work, journal),
            };
            if sender.send(event).is_err() {
                return;
            }
        }
    }

    fn ask(&self, sample: &Sample, work: &Work<'_>, journal: &Journal) -> Event {
        let key = self.key(sample);
        if !work.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(key) {
            return Event::Repeated;
        }
        if self.is_done(journal, key) {
            return Event::Resumed;
        }
        let asked = Asked::of(sample, self.options.missing);
        let reply = self.client.chat(&self.request(sample, &asked, key));
        if journal.is_passed_over() {
            return Event::Broken(SynthesisError::Unpaid);
        }
        let blank = Outcome::of(key, sample);
        let (outcome, event) = match reply {
            Ok(reply) => judged(blank, accept(sample, &asked, &reply), reply.text),
            Err(ChatError::Budget(LedgerError::CapReached)) => return Event::CapReached,
            Err(ChatError::Budget(error @ LedgerError::Unwritten(_))) => {
                return Event::Broken(error.into());
            }
            Err(error) => without_reply(blank, error),
        };
        match journal.record(key, outcome) {
            Ok(()) => event,
            Err(error) => Event::Broken(error.into()),
        }
    }

    fn is_done(&self, journal: &Journal, key: RowKey) -> bool {
        match journal.state(key) {
            Some(RowState::Accepted) => true,
            Some(RowState::Rejected(_)) => !self.options.retry_rejected,
            Some(RowState::Failed) | None => false,
        }
    }
}

/// What a reply makes of a row.
fn judged(
    blank: Outcome,
    trace: Result<ReasonedSample, Rejection>,
    reply: String,
) -> (Outcome, Event) {
    match trace {
        Ok(trace) => (Outcome { output: Some(trace.output), ..blank }, Event::Accepted),
        Err(why) => {
            let outcome = Outcome { rejection: Some(why), reply: Some(reply), ..blank };
            (outcome, Event::Rejected(why, None))
        }
    }
}

/// What an error makes of a row. Where the next request would end as this one did, and be paid for as
/// well, the row is put aside; else another run asks again.
fn without_reply(blank: Outcome, error: ChatError) -> (Outcome, Event) {
    let rejection = match error {
        ChatError::Refused { status: 400 | 413 | 422 } => Some(Rejection::Refused),
        ChatError::Malformed(_) => Some(Rejection::Malformed),
        _ => None,
    };
    let outcome = Outcome { rejection, error: Some(error.to_string()), ..blank };
    let event = match rejection {
        Some(why) => Event::Rejected(why, Some(error)),
        None => Event::Failed(error),
    };
    (outcome, event)
}

/// What the workers share.
struct Work<'a> {
    rows: Mutex<Samples<'a>>,
    /// The rows of this run so far.
    claimed: Mutex<HashSet<RowKey>>,
    stop: AtomicBool,
}

/// What became of a row, for the thread that watches.
enum Event {
    Resumed,
    Repeated,
    Undecodable,
    Accepted,
    /// With the error, where there is no reply at all.
    Rejected(Rejection, Option<ChatError>),
    Failed(ChatError),
    CapReached,
    Broken(SynthesisError),
}

/// Counts events until the workers are done, and tells them when to stop.
fn watch(
    events: Receiver<Event>,
    journal: &Journal,
    tally: &mut Tally,
    stop: &AtomicBool,
    observer: &mut dyn SynthesisObserver,
) -> Result<(), SynthesisError> {
    let mut broken = None;
    for event in events {
        if let Event::Broken(error) = event {
            broken = Some(error);
            stop.store(true, Ordering::Relaxed);
            continue;
        }
        let end = tally.count(&event);
        let progress = &mut tally.report.progress;
        progress.spent = journal.spent();
        let end = end.or(observer.on_row(progress).is_break().then_some(RunEnd::Stopped));
        if let Some(end) = end
            && !stop.swap(true, Ordering::Relaxed)
        {
            tally.report.end = end;
        }
    }
    tally.report.progress.spent = journal.spent();
    broken.map_or(Ok(()), Err)
}

/// The counts of a run, and what they say about going on.
struct Tally {
    report: SynthesisReport,
    most_rejected: f64,
    turned_away: u32,
    without_reply: u32,
}

impl Tally {
    fn new(most_rejected: f64) -> Self {
        let report = SynthesisReport {
            end: RunEnd::Finished,
            progress: SynthesisProgress::default(),
            rejections: Default::default(),
            repeated: 0,
        };
        Self { report, most_rejected, turned_away: 0, without_reply: 0 }
    }

    fn count(&mut self, event: &Event) -> Option<RunEnd> {
        let progress = &mut self.report.progress;
        progress.done += 1;
        match event {
            Event::Resumed => {
                progress.resumed += 1;
                // Rows that fail in every run stand between others that do not.
                self.without_reply = 0;
            }
            Event::Repeated => self.report.repeated += 1,
            Event::Undecodable => progress.undecodable += 1,
            Event::Accepted => {
                progress.accepted += 1;
                self.replied();
            }
            Event::Rejected(rejection, error) => {
                progress.rejected += 1;
                *self.report.rejections.entry(*rejection).or_default() += 1;
                let down = match error {
                    Some(error) => self.failed(error),
                    None => {
                        self.replied();
                        None
                    }
                };
                return down.or_else(|| self.too_many_rejected());
            }
            Event::Failed(error) => {
                progress.failed += 1;
                return self.failed(error);
            }
            Event::CapReached => {
                progress.done -= 1;
                return Some(RunEnd::CapReached);
            }
            Event::Broken(_) => {}
        }
        None
    }

    fn replied(&mut self) {
        self.turned_away = 0;
        self.without_reply = 0;
    }

    fn failed(&mut self, error: &ChatError) -> Option<RunEnd> {
        self.without_reply += 1;
        if !matches!(error, ChatError::Unauthorised { .. } | ChatError::QuotaExhausted) {
            self.turned_away = 0;
        } else {
            self.turned_away += 1;
            if self.turned_away >= TURNED_AWAY {
                return Some(RunEnd::TurnedAway(error.clone()));
            }
        }
        (self.without_reply >= SERVICE_DOWN).then(|| RunEnd::ServiceDown(error.clone()))
    }

    fn too_many_rejected(&self) -> Option<RunEnd> {
        let SynthesisProgress { accepted, rejected, .. } = self.report.progress;
        let judged = accepted + rejected;
        let too_many = rejected as f64 > self.most_rejected * judged as f64;
        (judged >= LEAST_JUDGED && too_many).then_some(RunEnd::TooManyRejected { rejected, judged })
    }
}
