#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod completed;
#[cfg(feature = "model")]
mod config;
mod exchange;
mod format;
mod generate;
mod guard;
#[cfg(feature = "model")]
mod kernel;
mod label;
mod limits;
#[cfg(feature = "model")]
mod model;
pub mod parse;
mod policy;
mod prompt;
mod reasoning;
mod redacted;
mod score;
mod settings;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "model")]
mod tokenizer;
mod verdict;
mod visible;
#[cfg(feature = "model")]
mod weights;

pub use completed::{Completed, Finish, Usage};
pub use exchange::{Exchange, ExchangeError, Message, Role};
pub use format::{AnswerSource, Call, FormatError, GuardFormat, GuardReasonerFormat};
pub use generate::{
    GenerateOptions, OptionsError, RepetitionStop, Sampling, StopCondition, TextGenerator,
};
pub use guard::{Guard, GuardError, GuardInfo, JudgeMode, JudgeOptions, UnknownJudgeMode};
pub use label::{Completion, Harm, Label, LabelError, Labels, Task};
pub use limits::{Cancel, Limits};
pub use policy::{Action, Cause, Decision, Policy};
pub use prompt::{
    INSTRUCTION, Prompt, PromptStyle, ReasoningMode, Segment, UnknownPromptStyle, read_input,
    write_input,
};
pub use reasoning::{Reasoning, Step, TaskReasoning};
pub use score::{
    Calibration, PossibleAnswer, ScoreRequest, Scored, Scores, TaskCalibration, logit,
    positive_probability,
};
pub use settings::GuardSettings;
pub use verdict::{Answer, Judged, Reason, Verdict};
pub use visible::{is_hidden, visible};

#[cfg(feature = "model")]
pub use burn;
#[cfg(feature = "model")]
pub use config::{ConfigError, LlamaConfig, RopeConfig, RopeScaling};
#[cfg(feature = "flex")]
pub use kernel::packed::{PackedCache, PackedLlama, PackedPiece};
#[cfg(feature = "model")]
pub use kernel::{log_sum_exp, softmax};
#[cfg(feature = "model")]
pub use model::{
    AdamWStep, CacheShape, Gradients, HeadPass, KvCache, KvPrefix, Linear, Llama, LoraOptions,
    ModelError, Moments, PackedBatch, Parameter, Precision, Projection, RandomInit, Recompute,
    RecordOptions, Recording, TokenBatch, UnknownProjection,
};
#[cfg(feature = "model")]
pub use tokenizer::{TextStream, Tokenizer, TokenizerError, TrimmedTokenizer};
#[cfg(feature = "model")]
pub use weights::{
    AdapterFault, FileAccess, GgufFault, GgufOptions, GgufType, LoadOptions, LoadReport,
    ModelFiles, NamedTensor, PackedType, SafetensorsFault, SaveOptions, ShapeMismatch,
    ShardIndexFault, TensorFile, UnknownGgufType, UnknownPackedType, WeightType, WeightsError,
    write_tensors,
};
