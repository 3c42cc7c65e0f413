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
pub use guard_core::{
    Action, Answer, Cause, Completed, Completion, Decision, Exchange, ExchangeError, Finish,
    GenerateOptions, Guard, GuardError, GuardFormat, GuardInfo, GuardReasonerFormat, Harm,
    JudgeOptions, Judged, Label, Labels, LoadOptions, Message, Policy, Prompt, PromptStyle, Reason,
    Reasoning, RepetitionStop, Role, Sampling, Step, StopCondition, Task, TaskReasoning,
    TextGenerator, Usage, Verdict, WeightType,
};
pub use reasoning_guard::ReasoningGuard;
