//! Not asking too often.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::chat::{ChatClient, ChatError, ChatReply, ChatRequest};
use super::clock::{Clock, SystemClock};

/// What a service allows in any minute; `None` is no limit. Attempts that fail count as well, as
/// they do with the services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests a minute, at least 1.
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, of requests and replies together, at least 1.
    pub tokens_per_minute: Option<u64>,
}

/// A client that waits until the limits allow the next request. Clones of an `Arc` of it share
/// them.
///
/// When a service counts a request lies between its start and its end, so a request counts from its
/// start until a minute after its end: no minute of the service's has more than the limits. It counts
/// with the most tokens that it can take, until its reply tells how many it did take. One that is
/// larger than the limit waits until nothing else counts. What an earlier process asked is not known
/// here: after a restart, the first minute may have more.
#[derive(Debug)]
pub struct RateLimited<C, K = SystemClock> {
    client: C,
    limit: RateLimit,
    clock: K,
    recent: Mutex<Recent>,
}

/// What was asked in the last minute.
#[derive(Debug, Default)]
struct Recent {
    calls: VecDeque<Call>,
    next: u64,
}

#[derive(Debug)]
struct Call {
    number: u64,
    /// When it ended; `None` while it is under way.
    end: Option<Duration>,
    tokens: u64,
}

impl Call {
    /// How long it still counts, if that is known.
    fn left(&self, now: Duration) -> Option<Duration> {
        Some((self.end? + MINUTE).saturating_sub(now))
    }
}

const MINUTE: Duration = Duration::from_secs(60);

/// How often a place is looked for while all that counts is under way.
const POLL: Duration = Duration::from_millis(50);

impl<C: ChatClient> RateLimited<C> {
    /// A client that asks this one.
    pub fn new(client: C, limit: RateLimit) -> Self {
        Self::with_clock(client, limit, SystemClock::default())
    }
}

impl<C: ChatClient, K: Clock> RateLimited<C, K> {
    /// The same with another clock.
    pub fn with_clock(client: C, limit: RateLimit, clock: K) -> Self {
        Self { client, limit, clock, recent: Mutex::default() }
    }

    /// The client that is asked.
    pub fn into_inner(self) -> C {
        self.client
    }

    fn recent(&self) -> std::sync::MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn and takes it.
    fn take_turn(&self, tokens: u64) -> u64 {
        loop {
            let turn = {
                let mut recent = self.recent();
                recent.take(&self.limit, tokens, self.clock.now())
            };
            match turn {
                Ok(number) => return number,
                Err(wait) => self.clock.sleep(wait),
            }
        }
    }
}

impl Recent {
    /// Takes a turn, or says how long to wait before it is worth asking again.
    fn take(&mut self, limit: &RateLimit, tokens: u64, now: Duration) -> Result<u64, Duration> {
        self.calls.retain(|call| call.left(now).is_none_or(|left| !left.is_zero()));
        let tokens = tokens.min(limit.tokens_per_minute.unwrap_or(u64::MAX));
        let counted = self.calls.iter().fold(0, |sum: u64, call| sum.saturating_add(call.tokens));
        let over_requests =
            limit.requests_per_minute.is_some_and(|most| self.calls.len() as u64 >= most.max(1));
        let over_tokens = limit
            .tokens_per_minute
            .is_some_and(|most| counted.saturating_add(tokens) > most.max(1));
        if !self.calls.is_empty() && (over_requests || over_tokens) {
            let soonest = self.calls.iter().filter_map(|call| call.left(now)).min();
            return Err(soonest.unwrap_or(POLL));
        }
        let number = self.next;
        self.next += 1;
        self.calls.push_back(Call { number, end: None, tokens });
        Ok(number)
    }

    fn settle(&mut self, number: u64, tokens: Option<u64>, now: Duration) {
        if let Some(call) = self.calls.iter_mut().find(|call| call.number == number) {
            call.tokens = tokens.unwrap_or(call.tokens);
            call.end = Some(now);
        }
    }
}

impl<C: ChatClient, K: Clock> ChatClient for RateLimited<C, K> {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let completion = request.max_tokens.unwrap_or(0) as u64;
        let most = request.most_prompt_tokens().saturating_add(completion);
        let turn = self.take_turn(most);
        let reply = self.client.chat(request);
        let usage = reply.as_ref().ok().and_then(|reply| reply.usage);
        let tokens = usage.map(|usage| usage.prompt.saturating_add(usage.completion));
        let now = self.clock.now();
        self.recent().settle(turn, tokens, now);
        reply
    }
}
