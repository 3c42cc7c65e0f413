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
/// A request counts with the most tokens that it can take, until its reply tells how many it did
/// take. One that is larger than the limit waits until nothing else counts.
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
    at: Duration,
    tokens: u64,
}

const MINUTE: Duration = Duration::from_secs(60);

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
            let now = self.clock.now();
            let wait = match self.recent().take(&self.limit, tokens, now) {
                Ok(number) => return number,
                Err(wait) => wait,
            };
            self.clock.sleep(wait);
        }
    }
}

impl Recent {
    /// Takes a turn, or says how long to wait before it is worth asking again.
    fn take(&mut self, limit: &RateLimit, tokens: u64, now: Duration) -> Result<u64, Duration> {
        while self.calls.front().is_some_and(|call| call.at + MINUTE <= now) {
            self.calls.pop_front();
        }
        let tokens = tokens.min(limit.tokens_per_minute.unwrap_or(u64::MAX));
        let counted: u64 = self.calls.iter().map(|call| call.tokens).sum();
        let over_requests =
            limit.requests_per_minute.is_some_and(|most| self.calls.len() as u64 >= most.max(1));
        let over_tokens =
            limit.tokens_per_minute.is_some_and(|most| counted + tokens > most.max(1));
        match self.calls.front() {
            Some(oldest) if over_requests || over_tokens => Err(oldest.at + MINUTE - now),
            _ => {
                let number = self.next;
                self.next += 1;
                self.calls.push_back(Call { number, at: now, tokens });
                Ok(number)
            }
        }
    }

    fn settle(&mut self, number: u64, tokens: u64) {
        if let Some(call) = self.calls.iter_mut().find(|call| call.number == number) {
            call.tokens = tokens;
        }
    }
}

impl<C: ChatClient, K: Clock> ChatClient for RateLimited<C, K> {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let most = request.most_prompt_tokens() + request.max_tokens.unwrap_or(0) as u64;
        let turn = self.take_turn(most);
        let reply = self.client.chat(request);
        if let Ok(ChatReply { usage: Some(usage), .. }) = &reply {
            self.recent().settle(turn, usage.prompt.saturating_add(usage.completion));
        }
        reply
    }
}
