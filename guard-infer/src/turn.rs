//! Taking turns, in the order in which callers come.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::call::Call;
use crate::queue::lock;

/// One caller at a time. Texts that are under way come first, then who waits the longest: a mutex would let in
/// who has just given its turn back, as long as the others have to wake up.
///
/// More threads at work than the processor runs would wait for each other in the middle of a step.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_taken: bool,
    waiting: VecDeque<Arc<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    thread: Thread,
    has_turn: AtomicBool,
}

/// A caller's turn, until it is dropped.
pub(crate) struct Turn<'a>(&'a Turns);

impl Turns {
    /// How long a caller that can be over waits until it looks whether it is.
    const PATIENCE: Duration = Duration::from_millis(10);

    /// Waits for the call's turn, or until the call is over.
    pub(crate) fn take(&self, call: &Call) -> Option<Turn<'_>> {
        self.take_unless(call.can_be_over(), || call.over().is_some())
    }

    fn take_unless(&self, can_be_over: bool, over: impl Fn() -> bool) -> Option<Turn<'_>> {
        let waiter = match self.begin(VecDeque::push_back) {
            Ok(turn) => return Some(turn),
            Err(waiter) => waiter,
        };
        while !waiter.has_turn.load(Ordering::Acquire) {
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
                    return None;
                }
                break;
            }
        }
        Some(Turn(self))
    }

    /// Waits for the next turn, before all others that wait.
    pub(crate) fn take_next(&self) -> Turn<'_> {
        match self.begin(VecDeque::push_front) {
            Ok(turn) => turn,
            Err(waiter) => {
                while !waiter.has_turn.load(Ordering::Acquire) {
                    thread::park();
                }
                Turn(self)
            }
        }
    }

    /// How many callers wait.
    pub(crate) fn waiting(&self) -> usize {
        lock(&self.state).waiting.len()
    }

    /// The turn, if nobody has it; otherwise a place in line.
    fn begin(
        &self,
        stand: impl FnOnce(&mut VecDeque<Arc<Waiter>>, Arc<Waiter>),
    ) -> Result<Turn<'_>, Arc<Waiter>> {
        let mut state = lock(&self.state);
        if !std::mem::replace(&mut state.is_taken, true) {
            return Ok(Turn(self));
        }
        let (thread, has_turn) = (thread::current(), AtomicBool::new(false));
        let waiter = Arc::new(Waiter { thread, has_turn });
        stand(&mut state.waiting, Arc::clone(&waiter));
        Err(waiter)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        // The next in line is the only one that wakes up.
        let Some(next) = state.waiting.pop_front() else {
            state.is_taken = false;
            return;
        };
        next.has_turn.store(true, Ordering::Release);
        next.thread.unpark();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn one_at_a_time_and_all_in_turn() {
        let turns = Turns::default();
        let (inside, count) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        // Some of each kind.
                        let _turn = match count.load(Ordering::Relaxed) % 2 {
                            0 => turns.take_unless(false, || false).unwrap(),
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

    #[test]
    fn who_panics_gives_its_turn_back() {
        let turns = Turns::default();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _turn = turns.take_next();
            panic!("on purpose");
        }));
        assert!(result.is_err());
        assert!(turns.take_unless(true, || true).is_some());
    }

    #[test]
    fn who_does_not_want_any_more_leaves_the_line_and_the_others_in_it() {
        let turns = Turns::default();
        let turn = turns.take_next();
        thread::scope(|scope| {
            let impatient = scope.spawn(|| turns.take_unless(true, || true).is_none());
            let patient = scope.spawn(|| turns.take_unless(true, || false).is_some());
            assert!(impatient.join().unwrap());
            drop(turn);
            assert!(patient.join().unwrap());
        });
        assert_eq!(turns.waiting(), 0);
    }
}
