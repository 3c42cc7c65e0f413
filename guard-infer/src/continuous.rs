//! Continuous batching on packed weights: texts begin where others have ended, prompts are read beside texts
//! that are written, and what prompts begin with is read once.

use std::collections::VecDeque;
use std::sync::Arc;

use guard_core::{Finish, PackedCache, PackedLlama, PackedPiece};

use crate::call::Row;
use crate::draft::Drafter;
use crate::error::GenerateError;
use crate::queue::{Ticket, Work};
use crate::sampler::{Draws, NotFinite};

/// The most tokens of prompts that a step reads beside texts that are being written: they wait for it.
const BESIDE: usize = 256;

/// A prompt to be continued.
pub(crate) struct Asked {
    /// Its number in the call.
    pub(crate) number: usize,
    pub(crate) ids: Vec<u32>,
    /// What has been read of it already, at most all tokens but one.
    pub(crate) cache: PackedCache,
}

/// The texts of all calls that are under way.
#[derive(Default)]
pub(crate) struct Floor {
    /// The calls that are not done.
    tickets: Vec<Arc<Ticket>>,
    /// Prompts that have not begun, call by call.
    waiting: Vec<Waiting>,
    reading: Vec<Reading>,
    /// Prompts that are read and whose samples have not all begun.
    forking: Vec<Forking>,
    writing: Vec<Writing>,
    /// Memory that each step uses again.
    logits: Vec<f32>,
    draws: Vec<Draws>,
    /// Whether some text is done since callers were last woken.
    settled: bool,
}

struct Waiting {
    ticket: Arc<Ticket>,
    prompts: VecDeque<(usize, Asked)>,
}

/// A prompt of a call: its place among the call's results.
#[derive(Clone)]
struct Place {
    ticket: Arc<Ticket>,
    prompt: usize,
}

struct Reading {
    place: Place,
    number: usize,
    ids: Arc<[u32]>,
    cache: PackedCache,
}

struct Forking {
    read: Reading,
    logits: Vec<f32>,
    begun: usize,
}

struct Writing {
    place: Place,
    sample: usize,
    row: Row,
    cache: PackedCache,
    prompt: Arc<[u32]>,
    /// Once there is something to guess.
    drafter: Option<Drafter>,
    /// The newest token, and what may follow it.
    tokens: Vec<u32>,
    /// What was chosen to follow.
    chosen: Vec<Result<u32, NotFinite>>,
}

impl Floor {
    /// The prompts of another call.
    pub(crate) fn take_in(&mut self, ticket: Arc<Ticket>, asked: Vec<Asked>) {
        self.tickets.push(Arc::clone(&ticket));
        self.waiting.push(Waiting { ticket, prompts: asked.into_iter().enumerate().collect() });
    }

    /// How many prompts have not begun.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.iter().map(|waiting| waiting.prompts.len()).sum()
    }

    /// A call that is not done.
    pub(crate) fn next(&self) -> Option<&Arc<Ticket>> {
        self.tickets.first()
    }

    /// Ends what is over, and lets prompts and samples begin.
    pub(crate) fn prepare(&mut self, work: &Work<'_>) {
        self.sweep();
        self.fork(work);
        self.admit(work);
    }

    /// Goes on with all texts by a step, and wakes the callers whose texts are done.
    pub(crate) fn step(&mut self, work: &Work<'_>) {
        if self.rows() > 0 {
            self.forward(work);
        }
        if std::mem::take(&mut self.settled) {
            let (done, others) = self.tickets.drain(..).partition(|ticket| ticket.is_done());
            self.tickets = others;
            let done: Vec<Arc<Ticket>> = done;
            done.iter().for_each(|ticket| ticket.wake());
        }
    }

    /// Leaves all texts as failed, because the caller that went on with them panicked.
    pub(crate) fn abandon(&mut self) {
        let Self { tickets, .. } = std::mem::take(self);
        tickets.iter().for_each(|ticket| ticket.abandon());
    }

    fn rows(&self) -> usize {
        self.reading.len() + self.writing.len()
    }

    /// The samples of a prompt from this one on.
    fn settle_all(
        &mut self,
        Place { ticket, prompt }: &Place,
        from: usize,
        result: &Result<guard_core::Completed, GenerateError>,
    ) {
        for sample in from..ticket.call.options.samples {
            ticket.settle(*prompt, sample, result.clone());
        }
        self.settled = true;
    }

    /// Ends what has not begun of calls that are over. Texts that are being written see to it themselves.
    fn sweep(&mut self) {
        let over = |ticket: &Ticket| ticket.call.over();
        let mut ended: Vec<(Place, usize, usize, Finish)> = Vec::new();
        for Waiting { ticket, prompts } in &mut self.waiting {
            let Some(finish) = over(ticket) else { continue };
            for (prompt, asked) in prompts.drain(..) {
                let place = Place { ticket: Arc::clone(ticket), prompt };
                ended.push((place, 0, asked.ids.len(), finish));
            }
        }
        self.waiting.retain(|waiting| !waiting.prompts.is_empty());
        self.reading.retain(|Reading { place, ids, .. }| {
            let finish = over(&place.ticket);
            ended.extend(finish.map(|finish| (place.clone(), 0, ids.len(), finish)));
            finish.is_none()
        });
        self.forking.retain(|Forking { read, begun, .. }| {
            let finish = over(&read.place.ticket);
            ended.extend(finish.map(|finish| (read.place.clone(), *begun, read.ids.len(), finish)));
            finish.is_none()
        });
        for (place, from, tokens, finish) in ended {
            let completed = place.ticket.call.not_begun(tokens, finish);
            self.settle_all(&place, from, &Ok(completed));
        }
    }

    /// Begins samples of prompts that are read, as long as there is room.
    fn fork(&mut self, work: &Work<'_>) {
        while self.rows() < work.max_rows {
            let Some(forking) = self.forking.first_mut() else { return };
            let Reading { place, number, ids, cache } = &forking.read;
            let (call, sample) = (&place.ticket.call, forking.begun);
            let mut writing = Writing {
                place: place.clone(),
                sample,
                row: call.row(*number, ids, sample),
                cache: cache.clone(),
                prompt: Arc::clone(ids),
                drafter: None,
                tokens: Vec::new(),
                chosen: Vec::new(),
            };
            self.draws.resize_with(self.draws.len().max(1), Draws::default);
            writing.choose(&forking.logits, &mut self.draws[0]);
            forking.begun += 1;
            if forking.begun == call.options.samples {
                self.forking.remove(0);
            }
            self.advance(writing);
        }
    }

    /// Goes on with a text by the tokens that were chosen, or ends it.
    fn advance(&mut self, mut writing: Writing) {
        let (chosen, advanced) = writing.push();
        if let Ok(None) = advanced {
            writing.keep(chosen);
            return self.writing.push(writing);
        }
        let Writing { place: Place { ticket, prompt }, sample, row, .. } = writing;
        let complete =
            |finish: Option<Finish>| ticket.call.complete(row, finish.unwrap_or(Finish::NotRun));
        ticket.settle(prompt, sample, advanced.and_then(complete));
        self.settled = true;
    }

    /// Begins to read prompts, as long as there is room for them and nobody waits to be forked. The call
    /// that has the fewest texts under way comes first.
    fn admit(&mut self, work: &Work<'_>) {
        while self.forking.is_empty() && self.rows() < work.max_rows {
            let under_way = |waiting: &Waiting| {
                let reading = self.reading.iter().map(|reading| &reading.place);
                let places = reading.chain(self.writing.iter().map(|writing| &writing.place));
                places.filter(|place| Arc::ptr_eq(&place.ticket, &waiting.ticket)).count()
            };
            let Some(next) = (0..self.waiting.len()).min_by_key(|&at| under_way(&self.waiting[at]))
            else {
                return;
            };
            let Waiting { ticket, prompts } = &mut self.waiting[next];
            let Some((_, asked)) = prompts.front() else {
                self.waiting.remove(next);
                continue;
            };
            let reading: usize = self.reading.iter().map(|reading| reading.ids.len()).sum();
            let held: usize = self.writing.iter().map(|writing| writing.cache.len()).sum();
            let is_full = reading + held + asked.ids.len() > work.max_tokens;
            if is_full && !(self.reading.is_empty() && self.writing.is_empty()) {
                return;
            }
            if let Some((prompt, Asked { number, ids, cache })) = prompts.pop_front() {
                let place = Place { ticket: Arc::clone(ticket), prompt };
                self.reading.push(Reading { place, number, ids: ids.into(), cache });
            }
        }
    }

    /// Reads the newest token of each text and what may follow it, and a piece of the prompts.
    fn forward(&mut self, work: &Work<'_>) {
        let rows = self.rows();
        let mut budget = match self.writing.is_empty() {
            true => work.prefill_tokens,
            false => work.prefill_tokens.min(BESIDE),
        };
        let mut wanted = Vec::new();
        let mut places = 0;
        let mut pieces = Vec::new();
        for writing in &mut self.writing {
            writing.propose(rows, work);
            let Writing { tokens, cache, .. } = writing;
            wanted.extend(places..places + tokens.len());
            places += tokens.len();
            pieces.push(PackedPiece::new(tokens, cache));
        }
        let mut whole = 0;
        for Reading { ids, cache, .. } in &mut self.reading {
            let start = cache.len();
            let count = (ids.len() - start).min(budget);
            if count == 0 {
                break;
            }
            budget -= count;
            places += count;
            if start + count == ids.len() {
                wanted.push(places - 1);
                whole += 1;
            }
            pieces.push(PackedPiece::new(&ids[start..start + count], cache));
        }
        let mut logits = std::mem::take(&mut self.logits);
        let done = work.model.forward_into(&mut pieces, &wanted, &mut logits);
        drop(pieces);
        match done {
            Ok(()) => self.go_on(&logits, whole, work.model.config().vocab_size),
            Err(error) => self.fail(&error.into()),
        }
        self.logits = logits;
    }

    /// Chooses the next tokens of each text; prompts that are read, the first ones, are forked next.
    fn go_on(&mut self, logits: &[f32], whole: usize, vocab_size: usize) {
        let mut writing = std::mem::take(&mut self.writing);
        let count = self.draws.len().max(writing.len());
        self.draws.resize_with(count, Draws::default);
        let mut rest = logits;
        let mut texts = Vec::new();
        for (writing, draws) in writing.iter_mut().zip(&mut self.draws) {
            let (own, others) = rest.split_at(writing.tokens.len() * vocab_size);
            rest = others;
            texts.push((writing, own, draws));
        }
        PackedLlama::for_each(&mut texts, logits.len(), |(writing, logits, draws)| {
            writing.choose(logits, draws);
        });
        writing.into_iter().for_each(|writing| self.advance(writing));
        for (read, logits) in self.reading.drain(..whole).zip(rest.chunks_exact(vocab_size)) {
            self.forking.push(Forking { read, logits: logits.to_vec(), begun: 0 });
        }
    }

    /// All that took part in a step that failed.
    fn fail(&mut self, error: &GenerateError) {
        for Writing { place: Place { ticket, prompt }, sample, .. } in self.writing.drain(..) {
            ticket.settle(prompt, sample, Err(error.clone()));
        }
        for reading in std::mem::take(&mut self.reading) {
            self.settle_all(&reading.place, 0, &Err(error.clone()));
        }
        self.settled = true;
    }
}

impl Writing {
    /// Chooses the next tokens, as long as those that were guessed come true.
    fn choose(&mut self, logits: &[f32], draws: &mut Draws) {
        self.chosen.clear();
        for logits in logits.chunks_exact(logits.len() / self.tokens.len().max(1)) {
            let chosen = self.row.choose(logits, draws);
            self.chosen.push(chosen);
            let guessed = self.tokens.get(self.chosen.len());
            if guessed.is_none() || chosen.ok() != guessed.copied() {
                return;
            }
        }
    }

    /// Goes on with the text by what was chosen: by how many tokens, and whether it ends with them.
    fn push(&mut self) -> (usize, Result<Option<Finish>, GenerateError>) {
        for (before, chosen) in self.chosen.iter().enumerate() {
            let advanced = self.place.ticket.call.push(&mut self.row, *chosen);
            if !matches!(advanced, Ok(None)) {
                return (before + 1, advanced);
            }
        }
        (self.chosen.len(), Ok(None))
    }

    /// Forgets what was read of guesses that did not come true.
    fn keep(&mut self, chosen: usize) {
        if let Some(drafter) = &mut self.drafter {
            let ids = self.row.ids();
            drafter.learn(&ids[ids.len() - chosen..]);
            drafter.judge(self.tokens.len().saturating_sub(1), chosen - 1);
        }
        if !self.tokens.is_empty() {
            self.cache.truncate(self.cache.len() - self.tokens.len() + chosen);
        }
    }

    /// Sets the tokens that the next step reads, beside so many rows in all.
    fn propose(&mut self, rows: usize, work: &Work<'_>) {
        self.tokens.clear();
        self.tokens.extend(self.row.newest());
        let Some(phrases) = work.phrases.filter(|_| rows <= Drafter::MAX_ROWS) else { return };
        let (call, row) = (&self.place.ticket.call, &self.row);
        let drafter = self.drafter.get_or_insert_with(|| {
            let mut drafter = Drafter::new(&self.prompt);
            drafter.learn(row.ids());
            drafter
        });
        // Of the tokens that have room, the last one need not be read.
        let most = drafter.most(rows).min(call.room(row).saturating_sub(1));
        if most > 0 {
            self.tokens.extend(drafter.guess(&call.likely(row), phrases, most));
        }
    }
}
