#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod confusion;
mod metric;
mod task_f1;

pub use confusion::{Confusion, Ratio};
pub use guard_core;
pub use guard_core::{Answer, Completion, Harm, Judged, Label, Labels, Reason, Task, Verdict};
pub use metric::{Metric, Score};
pub use task_f1::{TaskF1, UndeterminedRule};
