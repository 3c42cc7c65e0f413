//! Reasoning for labelled samples, written by a teacher (paper, section 2.1).

mod accept;
mod error;
mod export;
mod journal;
mod options;
mod prompt;
mod report;
mod rules;
mod run;
mod tally;
mod topics;
mod transform;

pub use accept::Rejection;
pub use error::SynthesisError;
pub use export::{ExportPaths, Exported};
pub use journal::{Journal, JournalError};
pub use options::SynthesisOptions;
pub use prompt::{Asked, MissingLabels, PROMPT_VERSION};
pub use report::{Estimate, RunEnd, SynthesisProgress, SynthesisReport};
pub use rules::RuleTeacher;
pub use run::Synthesizer;
pub use transform::{with_mode, with_style};
