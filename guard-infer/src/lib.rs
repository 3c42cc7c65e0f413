#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod batch;
mod builder;
mod device;
mod error;
mod generator;
mod reasoning_guard;
mod repetition;
mod sampler;

pub use builder::{GuardBuilder, LlamaGuard};
pub use device::{DeviceError, DeviceName, GpuBackend};
pub use error::{BuildError, GenerateError};
pub use generator::LlamaGenerator;
pub use guard_core;
pub use guard_core::{
    Action, Answer, Call, Cause, Completed, Completion, ConfigError, Decision, Exchange,
    ExchangeError, FileAccess, Finish, FormatError, GenerateOptions, Guard, GuardError,
    GuardFormat, GuardInfo, GuardReasonerFormat, Harm, INSTRUCTION, JudgeOptions, Judged, Label,
    LabelError, Labels, Llama, LlamaConfig, LoadOptions, LoadReport, Message, ModelError,
    ModelFiles, OptionsError, Policy, Prompt, PromptStyle, Reason, Reasoning, RepetitionStop, Role,
    Sampling, SaveOptions, Segment, Step, StopCondition, Task, TaskReasoning, TextGenerator,
    Tokenizer, TokenizerError, UnknownPromptStyle, Usage, Verdict, WeightType, WeightsError, parse,
};
pub use reasoning_guard::ReasoningGuard;
