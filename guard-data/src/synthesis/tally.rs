//! What became of the rows, and what that says about going on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use super::accept::Rejection;
use super::error::SynthesisError;
use super::journal::Journal;
use super::report::{RunEnd, SynthesisProgress, SynthesisReport};
use crate::observer::Observer;
use crate::teacher::{ChatError, Ledger};

/// Replies of a key or an account that was turned away, in a row, that end a run.
const TURNED_AWAY: u32 = 3;

/// Rows without a reply, in a row, that end a run.
const SERVICE_DOWN: u32 = 20;

/// The fewest replies whose quality says something.
const LEAST_JUDGED: u64 = 100;

/// What became of a row, for the thread that watches.
pub(super) enum Event {
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
pub(super) fn watch(
    events: Receiver<Event>,
    journal: &Journal,
    tally: &mut Tally,
    stop: &AtomicBool,
    observer: &mut dyn Observer<SynthesisProgress>,
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
        let end = end.or(observer.on_progress(progress).is_break().then_some(RunEnd::Stopped));
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
pub(super) struct Tally {
    pub(super) report: SynthesisReport,
    most_rejected: f64,
    turned_away: u32,
    without_reply: u32,
}

impl Tally {
    pub(super) fn new(most_rejected: f64) -> Self {
        let report = SynthesisReport {
            end: RunEnd::Finished,
            progress: SynthesisProgress::default(),
            rejections: BTreeMap::new(),
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
