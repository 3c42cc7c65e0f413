#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod hs_dpo;
mod objective;
mod report;
mod rsft;
#[cfg(feature = "testing")]
pub mod testing;
mod trainer;

pub use guard_core;
pub use guard_core::OptionsError;
pub use hs_dpo::{AnswerTokens, HsDpo, HsDpoOptions, PreferencePair, WeightScope};
pub use objective::{Contribution, Number, Objective, ObjectiveError, Window};
pub use report::{StepReport, TrainObserver};
pub use rsft::{Rsft, TargetTokens};
pub use trainer::{TrainEnd, Trained, Trainer};
