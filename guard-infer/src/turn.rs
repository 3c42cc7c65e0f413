//! Taking turns, in the order in which callers come.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::call::Call;
use crate::queue::lock;

/// One caller at a time, with all threads, or some side by side where as many want to work as there are threads:
/// then each has one, and need not wait for the others in the middle of a step. Texts that are under way come
/// first, then who waits the longest: a mutex would let in who has just given its turn back, as long as the others
/// have to wake up.
///
/// More threads at work than the processor runs would wait for each other in the middle of a step.
#[derive(Debug)]
pub(crate) struct Turns {
    threads: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// How many have a turn.
    active: usize,
    /// Whether one of them has all threads.
    is_whole: bool,
    waiting: VecDeque<Arc<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    thread: Thread,
    /// Whether one thread would not do.
    needs_all: bool,
    share: OnceLock<Share>,
}

/// What a turn gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Share {
    AllThreads,
    OneThread,
}

/// A caller's turn, until it is dropped.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    share: Share,
}

impl Turns {
    /// How long a caller that can be over waits until it looks whether it is.
    const PATIENCE: Duration = Duration::from_millis(10);

    /// Turns on so many threads.
    pub(crate) fn new(threads: usize) -> Self {
        Self { threads, state: Mutex::default() }
    }

    /// Waits for the call's turn to do a little, or until the call is over.
    pub(crate) fn take(&self, call: &Call) -> Option<Turn<'_>> {
        self.take_unless(false, call.can_be_over(), || call.over().is_some())
    }

    /// The same with all threads.
    pub(crate) fn take_all(&self, call: &Call) -> Option<Turn<'_>> {
        self.take_unless(true, call.can_be_over(), || call.over().is_some())
    }

    fn take_unless(
        &self,
        needs_all: bool,
        can_be_over: bool,
        over: impl Fn() -> bool,
    ) -> Option<Turn<'_>> {
        let waiter = self.stand(needs_all, VecDeque::push_back);
        loop {
            if let Some(&share) = waiter.share.get() {
                return Some(Turn { turns: self, share });
            }
            if !can_be_over {
                // Who need not look is not woken up, and keeps no processor from those at work.
                thread::park();
                continue;
            }
            thread::park_timeout(Self::PATIENCE);
            if over() {
                let mut state = lock(&self.state);
                let place = state.waiting.iter().position(|other| Arc::ptr_eq(other, &waiter));
                // Who is not in line any more has the turn.
                if place.and_then(|place| state.waiting.remove(place)).is_some() {
                    state.let_in(self.threads, 0);
                    return None;
                }
            }
        }
    }

    /// Waits for the next turn with all threads, before all others that wait.
    pub(crate) fn take_next(&self) -> Turn<'_> {
        let waiter = self.stand(true, VecDeque::push_front);
        loop {
            match waiter.share.get() {
                Some(&share) => return Turn { turns: self, share },
                None => thread::park(),
            }
        }
    }

    /// How many callers wait.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// Takes a place in line.
    fn stand(
        &self,
        needs_all: bool,
        place: impl FnOnce(&mut VecDeque<Arc<Waiter>>, Arc<Waiter>),
    ) -> Arc<Waiter> {
        let waiter = Waiter { thread: thread::current(), needs_all, share: OnceLock::new() };
        let waiter = Arc::new(waiter);
        let mut state = lock(&self.state);
        place(&mut state.waiting, Arc::clone(&waiter));
        state.let_in(self.threads, 0);
        waiter
    }
}

impl State {
    /// Gives turns to those at the head of the line for whom there are threads. So many have just given theirs
    /// back, and may soon come again.
    fn let_in(&mut self, threads: usize, leaving: usize) {
        while let Some(next) = self.waiting.front() {
            let crowd = self.active + self.waiting.len() + leaving;
            // Those who are side by side stay so while they are half as many.
            let most =
                if self.active > 0 && !self.is_whole { threads.div_ceil(2) } else { threads };
            let is_crowded = threads > 1 && crowd >= most;
            let share = match is_crowded && !next.needs_all {
                true => Share::OneThread,
                false => Share::AllThreads,
            };
            let is_free = match share {
                Share::OneThread => !self.is_whole && self.active < threads,
                Share::AllThreads => self.active == 0,
            };
            if !is_free {
                return;
            }
            self.active += 1;
            self.is_whole = share == Share::AllThreads;
            // The next in line are the only ones that wake up.
            if let Some(next) = self.waiting.pop_front() {
                let _ = next.share.set(share);
                next.thread.unpark();
            }
        }
    }
}

impl Turn<'_> {
    /// Whether the caller is to work on its own thread only.
    pub(crate) fn is_of_one_thread(&self) -> bool {
        self.share == Share::OneThread
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.turns.state);
        state.active -= 1;
        state.is_whole = false;
        state.let_in(self.turns.threads, 1);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn one_at_a_time_and_all_in_turn() {
        let turns = Turns::new(1);
        let (inside, count) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        // Some of each kind.
                        let _turn = match count.load(Ordering::Relaxed) % 2 {
                            0 => turns.take_unless(false, false, || false).unwrap(),
                            _ => turns.take_next(),
                        };
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        count.fetch_add(1, Ordering::Relaxed);
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 1200);
    }

    /// On three threads: either one with all, or at most three with one each.
    #[test]
    fn where_many_want_to_work_each_has_a_thread() {
        let turns = Turns::new(3);
        // Threads at work, those of a whole turn counted three times.
        let (inside, alone, most) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let work = |turn: Turn<'_>| {
            let own = if turn.is_of_one_thread() { 1 } else { 3 };
            let all = inside.fetch_add(own, Ordering::SeqCst) + own;
            assert!(all <= 3, "{all}");
            most.fetch_max(if own == 1 { all } else { 0 }, Ordering::SeqCst);
            alone.fetch_add(own % 3, Ordering::SeqCst);
            thread::sleep(Duration::from_micros(200));
            inside.fetch_sub(own, Ordering::SeqCst);
        };
        thread::scope(|scope| {
            for caller in 0..8 {
                let (turns, work) = (&turns, &work);
                scope.spawn(move || {
                    for _ in 0..100 {
                        if caller == 0 {
                            let turn = turns.take_next();
                            assert!(!turn.is_of_one_thread());
                            work(turn);
                        } else {
                            work(
                                turns.take_unless(caller == 1, caller % 2 == 0, || false).unwrap(),
                            );
                        }
                    }
                });
            }
        });
        assert!(alone.into_inner() > 100 && most.into_inner() > 1);
        // Who is alone has all of them, whoever was there before.
        drop(turns.take_unless(false, false, || false));
        assert!(!turns.take_unless(false, false, || false).unwrap().is_of_one_thread());
        assert_eq!(lock(&turns.state).active, 0);
    }

    #[test]
    fn who_panics_gives_its_turn_back() {
        let turns = Turns::new(1);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _turn = turns.take_next();
            panic!("on purpose");
        }));
        assert!(result.is_err());
        assert!(turns.take_unless(false, true, || true).is_some());
    }

    #[test]
    fn who_does_not_want_any_more_leaves_the_line_and_the_others_in_it() {
        let turns = Turns::new(1);
        let turn = turns.take_next();
        thread::scope(|scope| {
            let impatient = scope.spawn(|| turns.take_unless(false, true, || true).is_none());
            let patient = scope.spawn(|| turns.take_unless(false, true, || false).is_some());
            assert!(impatient.join().unwrap());
            drop(turn);
            assert!(patient.join().unwrap());
        });
        assert_eq!(turns.waiting(), 0);
    }
}
