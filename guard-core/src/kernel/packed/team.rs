//! Threads that compute one thing together, in step.
#![allow(unsafe_code, reason = "threads borrow the work that they are given")]

use std::any::Any;
use std::cell::Cell;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// Rounds of waiting before a thread lets others run.
const SPINS: u32 = 4_000;

/// Rounds of waiting for work before a thread goes to sleep.
const IDLE_SPINS: u32 = 40_000;

thread_local! {
    /// Whether this thread wants to be alone.
    static IS_ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Some threads, of which the caller's is one.
#[derive(Debug)]
pub(crate) struct Team {
    shared: Arc<Common>,
    threads: Vec<Thread>,
    handles: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

type Work<'a> = dyn Fn(&Member<'_>) + Sync + 'a;

/// What all threads know.
#[derive(Debug)]
struct Common {
    size: OnceLock<usize>,
    /// Rises with every piece of work.
    epoch: AtomicUsize,
    work: Mutex<Option<Job>>,
    unfinished: AtomicUsize,
    closing: AtomicBool,
    arrived: AtomicUsize,
    /// Rises when all have arrived.
    passed: AtomicUsize,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Clone, Copy)]
struct Job(*const Work<'static>);

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Job")
    }
}

// SAFETY: the work may be called from all threads (`Sync`), and `Team::run` keeps it alive until none
// has it any more.
unsafe impl Send for Job {}

/// One of the threads at work.
#[derive(Debug)]
pub(crate) struct Member<'a> {
    index: usize,
    shared: &'a Common,
}

impl Team {
    /// That of the process: as many threads as the processor runs, or as `RAYON_NUM_THREADS` says. They are
    /// not rayon's own: a program whose tasks there wait for each other's turn would never see all of them
    /// come.
    pub(crate) fn global() -> &'static Self {
        static TEAM: OnceLock<Team> = OnceLock::new();
        TEAM.get_or_init(|| Self::new(Self::threads()))
    }

    /// How many threads that of the process has, if the system gives them.
    pub(crate) fn threads() -> usize {
        static THREADS: OnceLock<usize> = OnceLock::new();
        *THREADS.get_or_init(|| {
            let told = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok());
            let all = || thread::available_parallelism().map_or(1, NonZero::get);
            told.filter(|&threads| threads > 0).unwrap_or_else(all)
        })
    }

    /// The caller's thread alone. Callers do not take turns.
    pub(crate) fn alone() -> &'static Self {
        static ALONE: OnceLock<Team> = OnceLock::new();
        ALONE.get_or_init(|| Self::new(1))
    }

    /// That of the process, unless there is too little to do for it or the caller wants to be alone.
    pub(crate) fn of_caller(is_little: bool) -> &'static Self {
        if is_little || IS_ALONE.get() { Self::alone() } else { Self::global() }
    }

    /// Does something in which the calling thread wants to be alone.
    pub(crate) fn without<R>(work: impl FnOnce() -> R) -> R {
        /// Sets it back however the work ends.
        struct Before(bool);
        impl Drop for Before {
            fn drop(&mut self) {
                IS_ALONE.set(self.0);
            }
        }
        let _before = Before(IS_ALONE.replace(true));
        work()
    }

    /// A team of so many threads, or of as many of them as the system gives, at least one.
    pub(crate) fn new(size: usize) -> Self {
        let shared = Arc::new(Common {
            size: OnceLock::new(),
            epoch: AtomicUsize::new(0),
            work: Mutex::new(None),
            unfinished: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            arrived: AtomicUsize::new(0),
            passed: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let handles: Vec<_> = (1..size)
            .map_while(|index| {
                let shared = Arc::clone(&shared);
                let name = format!("guard-{index}");
                thread::Builder::new().name(name).spawn(move || shared.serve(index)).ok()
            })
            .collect();
        let _ = shared.size.set(handles.len() + 1);
        let threads = handles.iter().map(|handle| handle.thread().clone()).collect();
        Self { shared, threads, handles, turn: Mutex::new(()) }
    }

    /// How many threads there are.
    pub(crate) fn size(&self) -> usize {
        self.shared.size()
    }

    /// Has every thread do `work` and waits until all have. Callers take turns.
    ///
    /// # Panics
    ///
    /// When `work` does.
    pub(crate) fn run(&self, work: &Work<'_>) {
        if self.size() == 1 {
            return work(&Member { index: 0, shared: &self.shared });
        }
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        shared.unfinished.store(shared.size() - 1, Ordering::Relaxed);
        // SAFETY: only the lifetime changes. No thread has the work any more when `unfinished` is 0, and
        // until then this call does not return.
        let job = unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        *lock(&shared.work) = Some(Job(job));
        shared.epoch.fetch_add(1, Ordering::Release);
        self.threads.iter().for_each(Thread::unpark);
        shared.attempt(0, work);
        wait_until(SPINS, || shared.unfinished.load(Ordering::Acquire) == 0);
        *lock(&shared.work) = None;
        if shared.panicked.swap(false, Ordering::Relaxed) {
            shared.arrived.store(0, Ordering::Relaxed);
            let payload = lock(&shared.panic).take();
            drop(_turn);
            resume_unwind(payload.unwrap_or_else(|| Box::new("a thread of the team panicked")));
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.threads.iter().for_each(Thread::unpark);
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

impl Common {
    fn size(&self) -> usize {
        self.size.get().copied().unwrap_or(1)
    }

    fn serve(&self, index: usize) {
        let mut done = 0;
        loop {
            let is_called = || {
                self.epoch.load(Ordering::Acquire) != done || self.closing.load(Ordering::Acquire)
            };
            let mut spins = 0;
            while !is_called() {
                spins += 1;
                if spins < IDLE_SPINS { std::hint::spin_loop() } else { thread::park() }
            }
            if self.closing.load(Ordering::Acquire) {
                return;
            }
            done += 1;
            let job = *lock(&self.work);
            if let Some(job) = job {
                // SAFETY: `Team::run` keeps the work alive until `unfinished` is 0.
                self.attempt(index, unsafe { &*job.0 });
            }
            self.unfinished.fetch_sub(1, Ordering::Release);
        }
    }

    fn attempt(&self, index: usize, work: &Work<'_>) {
        let member = Member { index, shared: self };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(&member))) {
            lock(&self.panic).get_or_insert(payload);
            self.panicked.store(true, Ordering::Release);
        }
    }
}

impl Member<'_> {
    pub(crate) fn index(&self) -> usize {
        self.index
    }

    pub(crate) fn size(&self) -> usize {
        self.shared.size()
    }

    /// This thread's share of so many things, in order.
    pub(crate) fn share(&self, count: usize) -> Range<usize> {
        let at = |index: usize| count * index / self.size();
        at(self.index)..at(self.index + 1)
    }

    /// Waits until all threads have come here. What each wrote before, all can read afterwards.
    ///
    /// # Panics
    ///
    /// When another thread panicked and will never come.
    pub(crate) fn wait(&self) {
        let shared = self.shared;
        if shared.size() == 1 {
            return;
        }
        let passed = shared.passed.load(Ordering::Relaxed);
        if shared.arrived.fetch_add(1, Ordering::AcqRel) + 1 == shared.size() {
            shared.arrived.store(0, Ordering::Relaxed);
            shared.passed.fetch_add(1, Ordering::Release);
            return;
        }
        wait_until(SPINS, || {
            assert!(!shared.panicked.load(Ordering::Relaxed), "another thread panicked");
            shared.passed.load(Ordering::Acquire) != passed
        });
    }
}

fn wait_until(spins: u32, mut is_so: impl FnMut() -> bool) {
    let mut waited = 0;
    while !is_so() {
        waited += 1;
        if waited < spins { std::hint::spin_loop() } else { thread::yield_now() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_take_part_and_wait_for_each_other() {
        for size in [1, 2, 5] {
            let team = Team::new(size);
            for _ in 0..200 {
                let counts: Vec<AtomicUsize> = (0..size).map(|_| AtomicUsize::new(0)).collect();
                team.run(&|member| {
                    for round in 1..5 {
                        counts[member.index()].fetch_add(1, Ordering::Relaxed);
                        member.wait();
                        for count in &counts {
                            assert_eq!(count.load(Ordering::Relaxed), round);
                        }
                        member.wait();
                    }
                });
            }
        }
    }

    #[test]
    fn shares_are_all_of_it() {
        let team = Team::new(3);
        for count in [0, 1, 2, 3, 100] {
            let seen = Mutex::new(vec![0; count]);
            team.run(&|member| member.share(count).for_each(|at| lock(&seen)[at] += 1));
            assert!(lock(&seen).iter().all(|&times| times == 1));
        }
    }

    #[test]
    fn a_panic_comes_through_and_the_team_goes_on() {
        let team = Team::new(2);
        for index in [0, 1] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                team.run(&|member| {
                    assert!(member.index() != index, "on purpose");
                    member.wait();
                });
            }));
            assert!(result.is_err());
            let count = AtomicUsize::new(0);
            team.run(&|member| {
                count.fetch_add(1, Ordering::Relaxed);
                member.wait();
            });
            assert_eq!(count.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn who_wants_to_be_alone_is_until_its_work_ends() {
        let size = |is_little| Team::of_caller(is_little).size();
        let all = size(false);
        Team::without(|| {
            assert_eq!(size(false), 1);
            Team::without(|| assert_eq!(size(false), 1));
            assert_eq!(size(false), 1);
        });
        let panicked = catch_unwind(|| Team::without(|| panic!("on purpose")));
        assert!(panicked.is_err());
        assert_eq!((size(false), size(true)), (all, 1));
    }

    #[test]
    fn callers_take_turns() {
        let team = Team::new(2);
        let count = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        team.run(&|member| {
                            member.wait();
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 400);
    }
}
