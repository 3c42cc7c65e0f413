//! The way back through the model, written out instead of recorded operation by operation.
//!
//! A tape of single operations keeps every intermediate tensor and computes attention with all
//! its scores in memory. Here a block keeps what cannot be computed again cheaply, attention
//! goes back in slices of queries, the head never has more logits than one chunk, and weights
//! that are not trained cost nothing. The forward path is the model's own; a test holds its
//! results and these gradients equal to burn's automatic differentiation.

mod adamw;
mod attention;
mod block;
mod gradients;
mod head;
mod norm;
mod packed;
mod product;
mod record;

pub use adamw::{AdamWStep, Moments};
pub use gradients::Gradients;
pub use head::HeadPass;
pub use packed::PackedBatch;
pub use product::Precision;
pub use record::{Recompute, RecordOptions, Recording};
