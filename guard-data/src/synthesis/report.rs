//! How a run goes, and how it went.

use std::collections::BTreeMap;
use std::fmt;

use super::accept::Rejection;
use crate::teacher::{ChatError, Cost};

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SynthesisProgress {
    /// Rows of the source that are dealt with, in whatever way.
    pub done: u64,
    /// Rows that an earlier run had dealt with.
    pub resumed: u64,
    /// Rows of this run whose reply became a trace.
    pub accepted: u64,
    /// Rows of this run whose reply was put aside.
    pub rejected: u64,
    /// Rows of this run without a reply. The next run asks for them again.
    pub failed: u64,
    /// Rows that cannot be read.
    pub undecodable: u64,
    /// What all runs have spent or set aside.
    pub spent: Cost,
}

/// Why a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RunEnd {
    /// All rows are dealt with.
    Finished,
    /// The observer ended it.
    Stopped,
    /// The next request could cost more than the cap leaves.
    CapReached,
    /// The service turned the key or the account away, several times in a row.
    TurnedAway(ChatError),
    /// The service failed for, or refused, many rows in a row.
    ServiceDown(ChatError),
    /// Too many replies were put aside: the teacher, or the prompt for it, is not fit.
    TooManyRejected {
        /// The replies that were put aside in this run.
        rejected: u64,
        /// All replies of this run.
        judged: u64,
    },
}

impl fmt::Display for RunEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Stopped => f.write_str("stopped; the same command goes on"),
            Self::CapReached => f.write_str(
                "the cost cap leaves no room for the next request at its worst; the same command \
                 goes on if others turned out cheaper, a higher cap in any case",
            ),
            Self::TurnedAway(error) => write!(f, "given up: {error}"),
            Self::ServiceDown(error) => write!(f, "given up for now, after many rows: {error}"),
            Self::TooManyRejected { rejected, judged } => write!(
                f,
                "given up: {rejected} of {judged} replies are of no use; see the quarantine, or \
                 allow more"
            ),
        }
    }
}

/// What a run did. Shown, it is a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SynthesisReport {
    /// Why it ended.
    pub end: RunEnd,
    /// The counts at its end.
    pub progress: SynthesisProgress,
    /// The replies of this run that were put aside, by reason.
    pub rejections: BTreeMap<Rejection, u64>,
    /// Rows that the source gives again, text for text and under the same id. They are asked once.
    pub repeated: u64,
}

impl fmt::Display for SynthesisReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SynthesisProgress { resumed, accepted, rejected, failed, undecodable, spent, .. } =
            self.progress;
        writeln!(f, "{}", self.end)?;
        let counts = [
            ("dealt with earlier", resumed),
            ("accepted", accepted),
            ("put aside", rejected),
            ("without a reply", failed),
            ("undecodable", undecodable),
            ("repeated", self.repeated),
        ];
        for (name, count) in counts {
            writeln!(f, "{name:<24}{count:>9}")?;
        }
        for (rejection, count) in &self.rejections {
            writeln!(f, "  {:<40}{count:>9}", rejection.to_string())?;
        }
        writeln!(f, "{:<24}{:>9}", "spent", spent.to_string())
    }
}

/// What the rows that are left would cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Estimate {
    /// The rows.
    pub rows: u64,
    /// Tokens of the requests, as English text has them: one for four bytes.
    pub likely_prompt_tokens: u64,
    /// The most tokens that the replies can have.
    pub most_completion_tokens: u64,
    /// The most that the rows can cost at one attempt each: every byte a token, every reply as long
    /// as it may be.
    pub most: Cost,
}
