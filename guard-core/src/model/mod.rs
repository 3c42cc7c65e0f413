//! The LLaMA architecture on burn. It knows nothing of guarding.

mod attention;
mod block;
mod cache;
mod feed_forward;
mod linear;
mod llama;
mod parameters;
mod rope;
mod step;

pub use cache::{CacheShape, KvCache, KvPrefix};
pub use linear::Linear;
pub use llama::Llama;
pub use parameters::RandomInit;
pub use step::{ModelError, TokenBatch};

pub(crate) use parameters::Parameters;
pub(crate) use rope::scaled;
