//! Not spending more than was allowed.

use std::fmt;
use std::ops::Add;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use super::chat::{ChatClient, ChatError, ChatReply, ChatRequest, TokenCount, TransportFault};

/// An amount of money, in billionths of a dollar (or of whatever the prices are in).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cost {
    /// The billionths.
    pub nanos: u64,
}

impl Cost {
    /// So many dollars. `None` for what is no amount: negative, not finite or above 18 billion.
    #[must_use]
    pub fn from_dollars(dollars: f64) -> Option<Self> {
        let nanos = (dollars * 1e9).round();
        ((0.0..1.8e19).contains(&nanos)).then_some(Self { nanos: nanos as u64 })
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_add(other.nanos) }
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${:.4}", self.nanos as f64 / 1e9)
    }
}

/// A text that is no amount of money.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an amount of dollars such as 2.50, found `{0}`")]
pub struct UnknownCost(pub String);

impl FromStr for Cost {
    type Err = UnknownCost;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let dollars = text.trim_start_matches('$').parse().ok();
        dollars.and_then(Self::from_dollars).ok_or_else(|| UnknownCost(text.to_owned()))
    }
}

/// What a million tokens cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prices {
    /// A million tokens of requests.
    pub prompt: Cost,
    /// A million tokens of replies.
    pub completion: Cost,
}

impl Prices {
    /// The cost of so many tokens, rounded up.
    #[must_use]
    pub fn cost(&self, tokens: TokenCount) -> Cost {
        let of = |tokens: u64, price: Cost| u128::from(tokens) * u128::from(price.nanos);
        let nanos = of(tokens.prompt, self.prompt) + of(tokens.completion, self.completion);
        Cost { nanos: nanos.div_ceil(1_000_000).try_into().unwrap_or(u64::MAX) }
    }

    /// The most that a request can cost. `None` for one whose reply has no limit.
    #[must_use]
    pub fn most(&self, request: &ChatRequest) -> Option<Cost> {
        let completion = request.max_tokens? as u64;
        Some(self.cost(TokenCount { prompt: request.most_prompt_tokens(), completion }))
    }
}

/// Money that is set aside for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reservation(pub u64);

/// Where spending is written down. What is reserved counts as spent until it is settled: after a
/// crash nobody knows what became of the request.
pub trait Ledger: Send + Sync {
    /// Sets an amount aside.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when there is not enough left, or it could not be written down.
    fn reserve(&self, amount: Cost) -> Result<Reservation, LedgerError>;

    /// Replaces a reservation by what was spent.
    ///
    /// # Errors
    ///
    /// [`LedgerError::Unwritten`] when it could not be written down.
    fn settle(&self, reservation: Reservation, spent: Cost) -> Result<(), LedgerError>;

    /// What is spent or set aside.
    fn spent(&self) -> Cost;
}

impl<L: Ledger + ?Sized> Ledger for Arc<L> {
    fn reserve(&self, amount: Cost) -> Result<Reservation, LedgerError> {
        (**self).reserve(amount)
    }

    fn settle(&self, reservation: Reservation, spent: Cost) -> Result<(), LedgerError> {
        (**self).settle(reservation, spent)
    }

    fn spent(&self) -> Cost {
        (**self).spent()
    }
}

/// Why an amount cannot be spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The cap does not leave as much.
    #[error("the cost cap is reached")]
    CapReached,
    /// The amount alone is more than the whole cap.
    #[error("a request that could cost more than the whole cap")]
    TooExpensive,
    /// The amount could not be written down.
    #[error("the spending cannot be recorded: {0}")]
    Unwritten(std::io::ErrorKind),
}

/// A ledger that forgets: for tests, and for services without a price.
#[derive(Debug)]
pub struct MemoryLedger {
    cap: Cost,
    spent: Mutex<(Cost, Vec<Cost>)>,
}

impl MemoryLedger {
    /// A ledger with this cap.
    #[must_use]
    pub fn new(cap: Cost) -> Self {
        Self { cap, spent: Mutex::default() }
    }
}

impl Ledger for MemoryLedger {
    fn reserve(&self, amount: Cost) -> Result<Reservation, LedgerError> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if amount > self.cap {
            return Err(LedgerError::TooExpensive);
        }
        if spent.0 + amount > self.cap {
            return Err(LedgerError::CapReached);
        }
        spent.0 = spent.0 + amount;
        spent.1.push(amount);
        Ok(Reservation(spent.1.len() as u64 - 1))
    }

    fn settle(&self, reservation: Reservation, amount: Cost) -> Result<(), LedgerError> {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let place = usize::try_from(reservation.0).unwrap_or(usize::MAX);
        let reserved = spent.1.get_mut(place).map(|held| std::mem::replace(held, amount));
        let reserved = reserved.unwrap_or_default();
        spent.0 = Cost { nanos: spent.0.nanos.saturating_sub(reserved.nanos) } + amount;
        Ok(())
    }

    fn spent(&self) -> Cost {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner).0
    }
}

/// A client that asks only what its ledger can pay for.
///
/// The most that a request can cost is reserved before it is made: the text bounds its tokens
/// ([`ChatRequest::most_prompt_tokens`]), and `max_tokens` those of the reply. A reply that does not
/// tell its tokens costs the most, and so does a request whose fate is not known (a timeout, a reply
/// that was cut, an error of a gateway). What the service refused costs nothing. Whoever bills more than
/// its own count of tokens, or writes more than `max_tokens`, is not bound by this.
///
/// Put it next to the client that makes the requests, inside of [`Retrying`](super::Retrying), so that
/// each attempt is paid for.
#[derive(Debug)]
pub struct Budgeted<C, L> {
    client: C,
    prices: Prices,
    ledger: L,
}

impl<C: ChatClient, L: Ledger> Budgeted<C, L> {
    /// A client that asks this one.
    pub fn new(client: C, prices: Prices, ledger: L) -> Self {
        Self { client, prices, ledger }
    }

    /// The ledger.
    pub fn ledger(&self) -> &L {
        &self.ledger
    }

    /// The client that is asked.
    pub fn into_inner(self) -> C {
        self.client
    }

    fn cost_of(&self, reply: &Result<ChatReply, ChatError>, most: Cost) -> Cost {
        match reply {
            Ok(reply) => reply.usage.map_or(most, |usage| self.prices.cost(usage)),
            Err(error) if is_unbilled(error) => Cost::default(),
            Err(_) => most,
        }
    }
}

/// Whether the service did no work for a request that ended so. A gateway's other errors may come when
/// the model behind it has written on.
fn is_unbilled(error: &ChatError) -> bool {
    match error {
        ChatError::RateLimited { .. }
        | ChatError::QuotaExhausted
        | ChatError::Unauthorised { .. }
        | ChatError::Refused { .. }
        | ChatError::Transport(TransportFault::Connect) => true,
        // Too busy, as OpenAI and Anthropic say it.
        ChatError::Unavailable { status, .. } => matches!(status, 409 | 503 | 529),
        _ => false,
    }
}

impl<C: ChatClient, L: Ledger> ChatClient for Budgeted<C, L> {
    fn chat(&self, request: &ChatRequest) -> Result<ChatReply, ChatError> {
        let most = self.prices.most(request).ok_or(ChatError::Unbounded)?;
        let reservation = self.ledger.reserve(most)?;
        let reply = self.client.chat(request);
        self.ledger.settle(reservation, self.cost_of(&reply, most))?;
        reply
    }
}
