#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod chat;
mod check;
mod json_lines;
mod line_log;
mod mining;
mod mixture;
mod observer;
mod reasoned;
mod replace;
mod row;
mod sample;
mod source;
mod statistics;
mod table;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;
mod training;
mod words;

pub use chat::{
    ChatClient, ChatError, ChatFinish, ChatReply, ChatRequest, ReplyFault, TokenCount,
    TransportFault,
};
pub use check::{Check, CheckReport, Finding, LabelCount, PhraseOptions, Problem, TellingPhrase};
pub use guard_core;
pub use guard_core::{Completion, Exchange, Harm, Labels, Message, Role, Task};
pub use json_lines::JsonLinesSource;
pub use line_log::{LineLog, LineLogError};
pub use mining::{
    Chosen, EnsembleMember, GenerationFiles, GenerationRun, Generations, MergeRule, Merged, Mined,
    Mining, MiningError, MiningReport, PreferencePair, Selection, UnknownSelection, Unparsed,
    Votes, merge_ensemble, read_pairs, write_pairs,
};
pub use mixture::{Mixture, WeightError};
pub use observer::{Observer, Progress};
pub use reasoned::{ReasonedFile, ReasonedSample, ReasonedSamples};
pub use row::RowFault;
pub use sample::Sample;
pub use source::{InMemorySource, SampleSource, Samples, SourceError};
pub use statistics::{Statistics, StatisticsTable};
pub use table::{TableFile, TableFormat, TableRow, TableRows, read_whole};
pub use trace::{TraceFault, trace_faults};
pub use training::{TRAINING_SETS, TrainingFile, TrainingSet, training_set};
