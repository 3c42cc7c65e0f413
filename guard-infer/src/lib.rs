#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod batch;
mod branch;
mod builder;
mod call;
#[cfg(feature = "flex")]
mod continuous;
mod device;
#[cfg(feature = "flex")]
mod draft;
#[cfg(feature = "embedded")]
mod embedded;
mod engine;
mod error;
mod generator;
mod measure;
#[cfg(feature = "flex")]
mod prefix;
#[cfg(feature = "flex")]
mod queue;
mod reasoning_guard;
mod repetition;
mod sampler;
mod score;
mod settings;
#[cfg(feature = "flex")]
mod turn;

pub use builder::{GuardBuilder, LlamaGuard};
pub use device::{DeviceError, DeviceName, GpuBackend};
#[cfg(feature = "embedded")]
pub use embedded::embedded_files;
pub use error::{BuildError, GenerateError};
pub use generator::LlamaGenerator;
pub use guard_core;
pub use guard_core::{
    Action, Answer, AnswerSource, Calibration, Call, Cancel, Cause, Completed, Completion,
    ConfigError, Decision, Exchange, ExchangeError, FileAccess, Finish, FormatError,
    GenerateOptions, Guard, GuardError, GuardFormat, GuardInfo, GuardReasonerFormat, GuardSettings,
    Harm, INSTRUCTION, JudgeMode, JudgeOptions, Judged, Label, LabelError, Labels, Limits, Llama,
    LlamaConfig, LoadOptions, LoadReport, Message, ModelError, ModelFiles, OptionsError,
    PackedType, Policy, PossibleAnswer, Prompt, PromptStyle, Reason, Reasoning, ReasoningMode,
    RepetitionStop, Role, Sampling, SaveOptions, ScoreRequest, Scored, Scores, Segment, Step,
    StopCondition, Task, TaskCalibration, TaskReasoning, TextGenerator, Tokenizer, TokenizerError,
    UnknownPackedType, UnknownPromptStyle, Usage, Verdict, WeightType, WeightsError, parse,
};
#[cfg(feature = "flex")]
pub use guard_core::{PackedCache, PackedLlama, PackedPiece};
pub use measure::Timing;
pub use reasoning_guard::ReasoningGuard;
pub use settings::read_settings;
