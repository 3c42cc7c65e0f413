//! Asking again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::chat::{ChatClient, ChatError, ChatReply, ChatRequest};
use super::clock::{Clock, SystemClock};

/// When a request is made again, and after how long.
///
/// The wait before attempt n + 1 is drawn from 0 to `base` times 2 to the power of n - 1, at most
/// `cap` (full jitter, so that clients that failed together do not come back together). Where the
/// service says how long to wait, that counts instead, at most `retry_after_cap`, with up to `base`
/// added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// The most attempts, the first included; at least 1. Default 6.
    pub attempts: u32,
    /// The longest first wait. Default 1 s.
    pub base: Duration,
    /// The longest wait of our own. Default 60 s.
    pub cap: Duration,
    /// The longest wait that a service can ask for. Default 120 s.
    pub retry_after_cap: Duration,
    /// No wait ends later than this after the end of the first attempt. Default 600 s.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            base: Duration::from_secs(1),
            cap: Duration::from_secs(60),
            retry_after_cap: Duration::from_secs(120),
            deadline: Duration::from_secs(600),
        }
    }
}

impl RetryPolicy {
    /// The same policy with so many attempts, at least 1.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// The same policy with other waits of our own.
    #[must_use]
    pub fn with_waits(mut self, base: Duration, cap: Duration) -> Self {
        self.base = base;
        self.cap = cap;
        self
    }

    /// The same policy with another limit for what a service can ask for.
    #[must_use]
    pub fn with_retry_after_cap(mut self, cap: Duration) -> Self {
        self.retry_after_cap = cap;
        self
    }

    /// The same policy with another time for all attempts.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// The longest wait before another attempt, after so many.
    fn longest_wait(&self, attempts: u32) -> Duration {
        let doubled = self.base.saturating_mul(1_u32.checked_shl(attempts - 1).unwrap_or(u32::MAX));
        doubled.min(self.cap)
    }
}

/// A client that asks again when an error is one of those that pass:
/// [`ChatError::is_transient`].
#[derive(Debug)]
pub struct Retrying<C, K = SystemClock> {
    client: C,
    policy: RetryPolicy,
    clock: K,
    rng: Mutex<ChaCha8Rng>,
    retries: AtomicU64,
}

impl<C: ChatClient> Retrying<C> {
    /// A client that asks this one. The seed is that of the waits.
    pub fn new(client: C, policy: RetryPolicy, seed: u64) -> Self {
        Self::with_clock(client, policy, seed, SystemClock::default())
    }
}

impl<C: ChatClient, K: Clock> Retrying<C, K> {
    /// The same with another clock.
    pub fn with_clock(client: C, policy: RetryPolicy, seed: u64, clock: K) -> Self {
        let rng = Mutex::new(ChaCha8Rng::seed_from_u64(seed));
        Self { client, policy, clock, rng, retries: AtomicU64::new(0) }
    }

    /// How often a request was made again so far.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// The client that is asked.
    pub fn into_inner(self) -> C {
        self.client
    }

    fn wait(&self, attempts: u32, error: &ChatError) -> Duration {
        let draw: f64 = self.rng.lock().unwrap_or_else(PoisonError::into_inner).random();
        match error.retry_after() {
            Some(asked) => {
                let asked = asked.min(self.policy.retry_after_cap);
                asked.saturating_add(self.policy.base.mul_f64(draw))
            }
            None => self.policy.longest_wait(attempts).mul_f64(draw),
        }
    }
}

impl<C: ChatClient, K: Clock> ChatClient for Retrying<C, K> {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let mut start = None;
        let mut attempts = 0;
        loop {
            let error = match self.client.chat(request) {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            attempts += 1;
            let wait = self.wait(attempts, &error);
            let now = self.clock.now();
            let passed = now.saturating_sub(*start.get_or_insert(now));
            let late = passed.saturating_add(wait) > self.policy.deadline;
            if !error.is_transient() || attempts >= self.policy.attempts || late {
                return Err(error);
            }
            self.clock.sleep(wait);
            self.retries.fetch_add(1, Ordering::Relaxed);
        }
    }
}
