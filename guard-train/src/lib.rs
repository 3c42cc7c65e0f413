#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod checkpoint;
#[cfg(feature = "dashboard")]
mod dashboard;
mod encode;
mod example;
mod fingerprint;
mod hidden_trainer;
mod hs_dpo;
mod llama_trainer;
mod memory;
mod objective;
mod optimizer;
mod options;
mod order;
mod parallel;
mod pass;
mod plot;
mod reference;
mod report;
mod rsft;
mod schedule;
mod step_log;
#[cfg(feature = "testing")]
pub mod testing;
mod trainer;

pub use checkpoint::{
    Best, Change, CheckpointError, CheckpointFault, CheckpointOptions, Progress, Resume,
    with_checkpoint,
};
#[cfg(feature = "dashboard")]
pub use dashboard::Dashboard;
pub use encode::{ChatTemplate, Cut, EncodeError, Encoder, EncodingReport, PairWeight};
pub use example::{AnswerSequence, ExamplePlace, ExampleSet, TrainingExample};
pub use guard_core;
pub use guard_core::OptionsError;
pub use guard_data;
pub use hidden_trainer::{AlignedText, HiddenError, HiddenTrainer};
pub use hs_dpo::{AnswerTokens, HsDpo, HsDpoOptions, PreferenceLoss, PreferencePair, WeightScope};
pub use llama_trainer::{LlamaTrainer, TrainError};
pub use memory::MemoryEstimate;
pub use objective::{Contribution, Number, Objective, ObjectiveError, Window};
pub use options::{LastWindow, Order, Schedule, TrainOptions};
pub use plot::{PlotError, TrainingCurves};
pub use reference::{ReferenceError, with_reference};
pub use report::{Skipped, StepReport, TrainEvent, TrainObserver};
pub use rsft::{Rsft, TargetTokens};
pub use step_log::{StepLog, StepLogError};
pub use trainer::{TrainEnd, Trained, Trainer};
