//! Reasoning for labelled samples, written by a teacher (paper, section 2.1).

mod accept;
mod export;
mod journal;
mod prompt;
mod report;
mod rules;
mod run;
mod transform;

pub use accept::Rejection;
pub use export::{ExportPaths, Exported};
pub use journal::{Journal, JournalError};
pub use prompt::{Asked, MissingLabels, PROMPT_VERSION};
pub use report::{Estimate, RunEnd, SynthesisProgress, SynthesisReport};
pub use rules::RuleTeacher;
pub use run::{SynthesisError, SynthesisObserver, SynthesisOptions, Synthesizer};
pub use transform::with_mode;
