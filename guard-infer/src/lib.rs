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
    ExchangeError, Finish, FormatError, GenerateOptions, Guard, GuardError, GuardFormat, GuardInfo,
    GuardReasonerFormat, Harm, JudgeOptions, Judged, Label, LabelError, Labels, LoadOptions,
    Message, ModelError, OptionsError, Policy, Prompt, PromptStyle, Reason, Reasoning,
    RepetitionStop, Role, Sampling, Segment, Step, StopCondition, Task, TaskReasoning,
    TextGenerator, TokenizerError, UnknownPromptStyle, Usage, Verdict, WeightType, WeightsError,
};
pub use reasoning_guard::ReasoningGuard;
