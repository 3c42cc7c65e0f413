//! Asking for all rows of a source.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use super::accept::{Rejection, accept};
use super::error::SynthesisError;
use super::journal::{Journal, Outcome, RowKey, RowState};
use super::options::SynthesisOptions;
use super::prompt::{Asked, MissingLabels, PROMPT_VERSION, messages};
use super::report::{Estimate, SynthesisProgress, SynthesisReport};
use super::tally::{Event, Tally, watch};
use crate::observer::Observer;
use crate::reasoned::ReasonedSample;
use crate::sample::Sample;
use crate::source::{SampleSource, Samples, SourceError};
use crate::teacher::{ChatClient, ChatError, ChatRequest, LedgerError, Prices};

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
            // The request has a limit of tokens, so its cost has one.
            estimate.most = estimate.most + prices.most(&request).unwrap_or_default();
        }
        Ok(estimate)
    }

    /// Asks for all rows of the source that the journal does not have. The observer is told after each
    /// row; a run that it ends waits for the requests that are under way, and another goes on from there.
    ///
    /// # Errors
    ///
    /// [`SynthesisError`] when the source cannot be opened or read to its end, the journal cannot be
    /// written, or the client does not keep to its cap. All else is told in the report: see [`RunEnd`](super::report::RunEnd).
    pub fn run(
        &self,
        source: &dyn SampleSource,
        journal: &Journal,
        observer: &mut dyn Observer<SynthesisProgress>,
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
