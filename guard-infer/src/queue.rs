//! Calls of many threads on one model: whoever waits for texts works for all.
//!
//! There is no thread that belongs to the queue. The first caller takes the [`Floor`], on which the texts of
//! all callers are under way, and goes on step by step until its own are done; then the next one takes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use guard_core::{Completed, Finish, PackedLlama};

use crate::call::{Call, Completions};
use crate::continuous::{Asked, Floor};
use crate::draft::PhraseTable;
use crate::error::GenerateError;
use crate::turn::Turns;

/// The calls that wait for a model, and the place where it is run.
pub(crate) struct Queue {
    state: Mutex<State>,
    limit: usize,
}

struct State {
    /// Calls that are not on the floor yet.
    arrived: Vec<(Arc<Ticket>, Vec<Asked>)>,
    /// Prompts on the floor that have not begun.
    waiting: usize,
    /// `None` while a caller has it.
    floor: Option<Floor>,
}

/// A call, and what has come of it.
pub(crate) struct Ticket {
    pub(crate) call: Call,
    /// Who waits for it.
    caller: Thread,
    results: Mutex<Results>,
}

struct Results {
    /// Of each prompt, the samples.
    texts: Vec<Vec<Result<Completed, GenerateError>>>,
    open: usize,
}

impl Ticket {
    fn new(call: Call, prompts: usize) -> Self {
        let samples = call.options.samples;
        let not_run = Ok(Completed::new("", Finish::NotRun));
        let texts = vec![vec![not_run; samples]; prompts];
        let results = Mutex::new(Results { texts, open: prompts * samples });
        Self { call, caller: thread::current(), results }
    }

    /// One of the texts is done.
    pub(crate) fn settle(
        &self,
        prompt: usize,
        sample: usize,
        result: Result<Completed, GenerateError>,
    ) {
        let mut results = lock(&self.results);
        results.texts[prompt][sample] = result;
        results.open -= 1;
    }

    /// What is not done has failed.
    pub(crate) fn abandon(&self) {
        let mut results = lock(&self.results);
        if std::mem::take(&mut results.open) > 0 {
            results.texts.iter_mut().for_each(|texts| texts.fill(Err(GenerateError::Abandoned)));
        }
        self.wake();
    }

    /// Has the caller look what has become of its call, and whether the floor is free.
    pub(crate) fn wake(&self) {
        self.caller.unpark();
    }

    pub(crate) fn is_done(&self) -> bool {
        lock(&self.results).open == 0
    }

    fn take(&self) -> Vec<Completions> {
        let texts = std::mem::take(&mut lock(&self.results).texts);
        texts.into_iter().map(|samples| samples.into_iter().collect()).collect()
    }
}

impl Queue {
    /// The most prompts that wait unless told otherwise.
    pub(crate) const LIMIT: usize = 4096;

    pub(crate) fn new(limit: usize) -> Self {
        let state = State { arrived: Vec::new(), waiting: 0, floor: Some(Floor::default()) };
        Self { state: Mutex::new(state), limit }
    }

    /// Whether there is room for another call. Said at once, whatever is under way.
    ///
    /// # Errors
    ///
    /// [`GenerateError::Busy`] when the prompts of calls that have not begun fill the queue.
    pub(crate) fn has_room(&self) -> Result<(), GenerateError> {
        let state = lock(&self.state);
        let arrived: usize = state.arrived.iter().map(|(_, asked)| asked.len()).sum();
        let (waiting, limit) = (state.waiting + arrived, self.limit);
        if waiting >= limit { Err(GenerateError::Busy { waiting, limit }) } else { Ok(()) }
    }

    /// Continues the prompts of a call, beside those of others.
    pub(crate) fn run(&self, work: &Work<'_>, call: Call, asked: Vec<Asked>) -> Vec<Completions> {
        let ticket = Arc::new(Ticket::new(call, asked.len()));
        let mut state = lock(&self.state);
        state.arrived.push((Arc::clone(&ticket), asked));
        loop {
            if ticket.is_done() {
                return ticket.take();
            }
            let floor = state.floor.take();
            drop(state);
            match floor {
                Some(floor) => Lead { queue: self, floor }.until_done(work, &ticket),
                None => thread::park(),
            }
            state = lock(&self.state);
        }
    }
}

/// What is needed to go on with texts.
pub(crate) struct Work<'a> {
    pub(crate) model: &'a PackedLlama,
    /// A step for each turn.
    pub(crate) turns: &'a Turns,
    /// The most texts side by side.
    pub(crate) max_rows: usize,
    /// The most tokens of texts side by side, but for a single longer one.
    pub(crate) max_tokens: usize,
    /// The most tokens of prompts that one step reads.
    pub(crate) prefill_tokens: usize,
    /// Whether tokens are guessed ahead where few texts are under way.
    pub(crate) drafts: bool,
    pub(crate) phrases: &'a PhraseTable,
}

/// A caller that has the floor. However it ends, it gives the floor back.
struct Lead<'a> {
    queue: &'a Queue,
    floor: Floor,
}

impl Lead<'_> {
    /// Goes on with all texts until those of this ticket are done.
    fn until_done(mut self, work: &Work<'_>, ticket: &Arc<Ticket>) {
        while !ticket.is_done() {
            let mut state = lock(&self.queue.state);
            for (ticket, asked) in state.arrived.drain(..) {
                self.floor.take_in(ticket, asked);
            }
            state.waiting = self.floor.waiting();
            drop(state);
            let _turn = work.turns.take();
            self.floor.step(work);
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.floor.abandon();
        }
        let mut state = lock(&self.queue.state);
        state.waiting = self.floor.waiting();
        let arrived = state.arrived.first().map(|(ticket, _)| ticket);
        if let Some(next) = self.floor.next().or(arrived) {
            next.wake();
        }
        state.floor = Some(std::mem::take(&mut self.floor));
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
