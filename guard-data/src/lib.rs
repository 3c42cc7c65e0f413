#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod chat;
mod json_lines;
mod row;
mod sample;
mod source;
mod table;
#[cfg(feature = "testing")]
pub mod testing;

pub use chat::{
    ChatClient, ChatError, ChatFinish, ChatReply, ChatRequest, ReplyFault, TokenCount,
    TransportFault,
};
pub use guard_core;
pub use guard_core::{Completion, Exchange, Harm, Labels, Message, Role, Task};
pub use json_lines::JsonLinesSource;
pub use row::RowFault;
pub use sample::Sample;
pub use source::{InMemorySource, SampleSource, Samples, SourceError};
pub use table::{TableFile, TableFormat, TableRow, TableRows, read_whole};
