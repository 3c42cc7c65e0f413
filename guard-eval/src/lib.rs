#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod attack;
mod benchmark;
mod bootstrap;
mod calibration;
mod compare;
mod confusion;
mod curve;
mod error;
mod evaluation;
mod interval;
mod layout;
mod metric;
mod prediction;
mod published;
mod quantile;
mod report;
mod run;
mod scoring;
mod summary;
mod task_f1;

pub use attack::{Attack, AttackProgress, AttackScore, UnknownAttack, attack};
pub use benchmark::{BENCHMARKS, Benchmark, Dataset, DatasetRow, benchmark};
pub use bootstrap::Bootstrap;
pub use calibration::{
    Bin, Bins, brier_score, expected_calibration_error, fit_calibration, reliability,
};
pub use compare::{Comparison, compare, holm, mcnemar_exact};
pub use confusion::{Confusion, Ratio};
pub use curve::{NotANumber, PrPoint, Ranking, RocPoint};
pub use error::EvalError;
pub use evaluation::{Evaluation, Record};
pub use guard_core;
pub use guard_core::{Answer, Completion, Harm, Judged, Label, Labels, Reason, Task, Verdict};
pub use guard_data;
pub use interval::Interval;
pub use layout::{PREDICTIONS_FILE, PredictionFile, find_predictions};
pub use metric::{Metric, Score};
pub use prediction::{Prediction, read_predictions};
pub use published::{Published, PublishedAverages, PublishedMacro, PublishedRow, PublishedTable};
pub use quantile::quantile;
pub use report::{Average, MacroAverage, PairComparison, Report};
pub use run::{RunOptions, RunProgress, evaluate};
pub use scoring::{ScoringPolicy, UnknownScoringPolicy};
pub use summary::{Cost, PolicyScore, Ranked, Slice, Summary};
pub use task_f1::TaskF1;
