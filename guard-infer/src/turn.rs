//! Taking turns, in the order in which callers come.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Thread};

use crate::queue::lock;

/// One caller at a time. Who gives its turn back and asks again comes after all who wait: a mutex would let it
/// in first, as long as they have to wake up.
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
    /// Waits for the caller's turn.
    pub(crate) fn take(&self) -> Turn<'_> {
        let mut state = lock(&self.state);
        if !std::mem::replace(&mut state.is_taken, true) {
            return Turn(self);
        }
        let waiter =
            Arc::new(Waiter { thread: thread::current(), has_turn: AtomicBool::new(false) });
        state.waiting.push_back(Arc::clone(&waiter));
        drop(state);
        while !waiter.has_turn.load(Ordering::Acquire) {
            thread::park();
        }
        Turn(self)
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
        drop(state);
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
                        let _turn = turns.take();
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
            let _turn = turns.take();
            panic!("on purpose");
        }));
        assert!(result.is_err());
        drop(turns.take());
    }
}
