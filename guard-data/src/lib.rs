#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod check;
#[cfg(feature = "hub")]
mod hub;
mod json_lines;
mod line_log;
mod manifest;
mod mining;
mod mixture;
mod observer;
mod reasoned;
mod replace;
mod row;
mod sample;
mod source;
mod statistics;
mod synthesis;
mod table;
mod teacher;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;
mod training;
mod words;

pub use check::{Check, CheckReport, Finding, LabelCount, PhraseOptions, Problem, TellingPhrase};
pub use guard_core;
pub use guard_core::{Completion, Exchange, Harm, Labels, Message, ReasoningMode, Role, Task};
#[cfg(feature = "hub")]
pub use hub::{Hub, HubError, Trust};
pub use json_lines::JsonLinesSource;
pub use line_log::{LineLog, LineLogError};
pub use manifest::{FileName, Manifest, ManifestError};
pub use mining::{
    Chosen, EnsembleMember, GenerationFiles, GenerationRun, Generations, MergeRule, Merged, Mined,
    Mining, MiningError, MiningReport, PreferencePair, Selection, UnknownSelection, Unparsed,
    Votes, check_pair_path, merge_ensemble, read_pairs, write_pairs,
};
pub use mixture::{Mixture, WeightError};
pub use observer::{Observer, Progress};
pub use reasoned::{ReasonedFile, ReasonedSample, ReasonedSamples};
pub use row::RowFault;
pub use sample::Sample;
pub use source::{InMemorySource, SampleSource, Samples, SourceError};
pub use statistics::{Statistics, StatisticsTable};
pub use synthesis::{
    Asked, Estimate, ExportPaths, Exported, Journal, JournalError, MissingLabels, PROMPT_VERSION,
    Rejection, RuleTeacher, RunEnd, SynthesisError, SynthesisOptions, SynthesisProgress,
    SynthesisReport, Synthesizer, with_mode, with_style,
};
pub use table::{TableFile, TableFormat, TableRow, TableRows, read_whole};
#[cfg(feature = "http")]
pub use teacher::{ApiKey, HttpChat, HttpConfigError, TokenLimitField};
pub use teacher::{
    Budgeted, ChatClient, ChatError, ChatFinish, ChatReply, ChatRequest, Clock, Cost, Ledger,
    LedgerError, MemoryLedger, Prices, RateLimit, RateLimited, ReplyFault, Reservation,
    RetryPolicy, Retrying, SystemClock, TokenCount, TransportFault, UnknownCost,
};
pub use trace::{TraceFault, trace_faults};
pub use training::{TRAINING_SETS, TrainingFile, TrainingSet, training_set};
