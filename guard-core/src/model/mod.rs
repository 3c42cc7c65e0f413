//! The LLaMA architecture on burn. It knows nothing of guarding.

mod adapter;
mod attention;
mod block;
mod cache;
mod feed_forward;
mod gradient;
mod linear;
mod llama;
mod named;
mod narrow;
#[cfg(feature = "flex")]
mod packed;
mod parameters;
mod prune;
mod rope;
mod step;

pub use adapter::{LoraOptions, Projection, UnknownProjection};
pub use cache::{CacheShape, KvCache, KvPrefix};
pub use gradient::{
    AdamWStep, Gradients, HeadPass, Moments, PackedBatch, Precision, Recompute, RecordOptions,
    Recording,
};
pub use linear::Linear;
pub use llama::Llama;
pub use named::Parameter;
pub use parameters::RandomInit;
pub use step::{ModelError, TokenBatch};

pub(crate) use adapter::{AdapterParts, AdapterShape};
#[cfg(feature = "flex")]
pub(crate) use packed::frequencies;
pub(crate) use parameters::Parameters;
pub(crate) use rope::scaled;
