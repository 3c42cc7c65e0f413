//! A teacher behind HTTP that does everything wrong (T-50), runs that are killed (T-51), and a key
//! that is nowhere seen (T-52).
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, clippy::panic)]

mod killed;
mod replies;
mod server;
