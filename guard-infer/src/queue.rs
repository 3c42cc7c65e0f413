//! Calls of many threads on one model: whoever waits for texts works for all.
//!
//! There is no thread that belongs to the queue. The first caller takes the [`Floor`], on which the texts of
//! all callers are under way, and goes on step by step until its own are done; then the next one takes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};

use guard_core::{Completed, PackedLlama};

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
    /// Of each prompt, the samples that are done.
    texts: Vec<Vec<Option<Result<Completed, GenerateError>>>>,
    open: usize,
}

impl Ticket {
    fn new(call: Call, prompts: usize) -> Self {
        let samples = call.options.samples;
        let texts = vec![vec![None; samples]; prompts];
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
        if results.texts[prompt][sample].replace(result).is_none() {
            results.open -= 1;
        }
    }

    /// What is not done has failed.
    pub(crate) fn abandon(&self) {
        let mut results = lock(&self.results);
        results.open = 0;
        for text in results.texts.iter_mut().flatten().filter(|text| text.is_none()) {
            *text = Some(Err(GenerateError::Abandoned));
        }
        drop(results);
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
        texts.into_iter().map(|samples| samples.into_iter().flatten().collect()).collect()
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
        self.check(&lock(&self.state))
    }

    /// The same for something else that waits for the model, so many times.
    pub(crate) fn has_room_beside(&self, waiting: usize) -> Result<(), GenerateError> {
        let limit = self.limit;
        if waiting >= limit { Err(GenerateError::Busy { waiting, limit }) } else { Ok(()) }
    }

    fn check(&self, state: &State) -> Result<(), GenerateError> {
        let arrived: usize = state.arrived.iter().map(|(_, asked)| asked.len()).sum();
        self.has_room_beside(state.waiting + arrived)
    }

    /// Continues the prompts of a call, at least one, beside those of others.
    ///
    /// # Errors
    ///
    /// As [`Queue::has_room`].
    pub(crate) fn run(
        &self,
        work: &Work<'_>,
        call: Call,
        asked: Vec<Asked>,
    ) -> Result<Vec<Completions>, GenerateError> {
        let ticket = Arc::new(Ticket::new(call, asked.len()));
        let mut state = lock(&self.state);
        self.check(&state)?;
        state.arrived.push((Arc::clone(&ticket), asked));
        loop {
            if ticket.is_done() {
                return Ok(ticket.take());
            }
            let floor = state.floor.take();
            drop(state);
            match floor {
                Some(floor) => Lead::new(self, floor).until_done(work, &ticket),
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
    /// What tokens are guessed from where few texts are under way; `None` guesses none.
    pub(crate) phrases: Option<&'a PhraseTable>,
}

/// A caller that has the floor. However it ends, it gives the floor back.
struct Lead<'a> {
    queue: &'a Queue,
    floor: Floor,
    /// Whether the caller was panicking before: then it is not this work that failed.
    panicked_before: bool,
}

impl<'a> Lead<'a> {
    fn new(queue: &'a Queue, floor: Floor) -> Self {
        Self { queue, floor, panicked_before: thread::panicking() }
    }

    /// Goes on with all texts until those of this ticket are done.
    fn until_done(mut self, work: &Work<'_>, ticket: &Arc<Ticket>) {
        while !ticket.is_done() {
            for (ticket, asked) in lock(&self.queue.state).arrived.drain(..) {
                self.floor.take_in(ticket, asked);
            }
            let _turn = work.turns.take_next();
            self.floor.prepare(work);
            lock(&self.queue.state).waiting = self.floor.waiting();
            self.floor.step(work);
        }
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        if thread::panicking() && !self.panicked_before {
            self.floor.abandon();
        }
        let mut state = lock(&self.queue.state);
        state.waiting = self.floor.waiting();
        // Whoever wakes up first takes the floor; the others go on to wait.
        self.floor.next().into_iter().for_each(|ticket| ticket.wake());
        state.arrived.iter().for_each(|(ticket, _)| ticket.wake());
        state.floor = Some(std::mem::take(&mut self.floor));
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;
    use std::time::Instant;

    use guard_core::{Finish, GenerateOptions, Tokenizer};

    use super::*;

    fn ticket(prompts: usize) -> Arc<Ticket> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../guard-core/testdata/tokenizer/tokenizer.json");
        let call = Call {
            tokenizer: Arc::new(Tokenizer::from_file(path).unwrap()),
            eos: Arc::new(BTreeSet::new()),
            options: GenerateOptions::default(),
            context: 512,
            started: Instant::now(),
        };
        Arc::new(Ticket::new(call, prompts))
    }

    #[test]
    fn who_panics_gives_the_floor_back_and_leaves_what_is_done() {
        let queue = Queue::new(4);
        let ticket = ticket(3);
        let mut floor = lock(&queue.state).floor.take().unwrap();
        floor.take_in(Arc::clone(&ticket), Vec::new());
        ticket.settle(1, 0, Ok(Completed::new("done", Finish::Stopped)));
        let result = catch_unwind(AssertUnwindSafe(|| {
            let _lead = Lead::new(&queue, floor);
            panic!("on purpose");
        }));
        assert!(result.is_err() && lock(&queue.state).floor.is_some());
        assert!(ticket.is_done());
        let texts = ticket.take();
        assert_eq!(texts[1].as_ref().unwrap()[0].text, "done");
        assert!([0, 2].iter().all(|&at| matches!(texts[at], Err(GenerateError::Abandoned))));
    }

    #[test]
    fn who_works_while_it_unwinds_fails_nobody() {
        struct Works<'a>(&'a Queue, Arc<Ticket>);
        impl Drop for Works<'_> {
            fn drop(&mut self) {
                let mut floor = lock(&self.0.state).floor.take().unwrap();
                floor.take_in(Arc::clone(&self.1), Vec::new());
                drop(Lead::new(self.0, floor));
            }
        }
        let (queue, ticket) = (Queue::new(4), ticket(1));
        let result = catch_unwind(AssertUnwindSafe(|| {
            let _works = Works(&queue, Arc::clone(&ticket));
            panic!("on purpose");
        }));
        assert!(result.is_err() && !ticket.is_done());
    }
}
