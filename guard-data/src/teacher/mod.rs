//! Asking a teacher: the client, and what keeps a run within its limits. Each limit is a client
//! round another client:
//!
//! `Retrying` ( `RateLimited` ( `Budgeted` ( `HttpChat` ) ) )
//!
//! so that every attempt waits for its turn and is paid for.

mod budget;
mod chat;
mod clock;
#[cfg(feature = "http")]
mod http;
mod rate;
mod retry;

pub use budget::{
    Budgeted, Cost, Ledger, LedgerError, MemoryLedger, Prices, Reservation, UnknownCost,
};
pub use chat::{
    ChatClient, ChatError, ChatFinish, ChatReply, ChatRequest, ReplyFault, TokenCount,
    TransportFault,
};
pub use clock::{Clock, SystemClock};
#[cfg(feature = "http")]
pub use http::{ApiKey, HttpChat, HttpConfigError, TokenLimitField};
pub use rate::{RateLimit, RateLimited};
pub use retry::{RetryPolicy, Retrying};
