#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod bootstrap;
mod calibration;
mod compare;
mod confusion;
mod curve;
mod interval;
mod metric;
mod quantile;
mod scoring;
mod task_f1;

pub use bootstrap::Bootstrap;
pub use calibration::{Bin, Bins, brier_score, expected_calibration_error, reliability};
pub use compare::{Comparison, compare, holm, mcnemar_exact};
pub use confusion::{Confusion, Ratio};
pub use curve::{NotANumber, PrPoint, Ranking, RocPoint};
pub use guard_core;
pub use guard_core::{Answer, Completion, Harm, Judged, Label, Labels, Reason, Task, Verdict};
pub use guard_data;
pub use interval::Interval;
pub use metric::{Metric, Score};
pub use quantile::quantile;
pub use scoring::{ScoringPolicy, UnknownScoringPolicy};
pub use task_f1::TaskF1;
