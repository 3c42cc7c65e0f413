//! What the examples share: their flags, sets of data, JSON lines in and out, showing verdicts and
//! progress.

pub mod lines;
pub mod model;
pub mod model_name;
pub mod progress;
pub mod sources;
pub mod terminal;
pub mod training;

/// Gives pages back late: the system's allocator gives those of every tensor back at once. It is that
/// of every example.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The Rust of the guide and of the README: `cargo test -p guard-examples --doc` compiles it.
#[cfg(doctest)]
mod guide {
    #[doc = include_str!("../../README.md")]
    mod readme {}
    #[doc = include_str!("../../docs/src/introduction.md")]
    mod introduction {}
    #[doc = include_str!("../../docs/src/quickstart.md")]
    mod quickstart {}
    #[doc = include_str!("../../docs/src/judging.md")]
    mod judging {}
    #[doc = include_str!("../../docs/src/prompts-and-parsing.md")]
    mod prompts_and_parsing {}
    #[doc = include_str!("../../docs/src/models.md")]
    mod models {}
    #[doc = include_str!("../../docs/src/own-guard.md")]
    mod own_guard {}
    #[doc = include_str!("../../docs/src/evaluation.md")]
    mod evaluation {}
    #[doc = include_str!("../../docs/src/data.md")]
    mod data {}
    #[doc = include_str!("../../docs/src/small-guard.md")]
    mod small_guard {}
    #[doc = include_str!("../../docs/src/train-your-own.md")]
    mod train_your_own {}
    #[doc = include_str!("../../docs/src/training.md")]
    mod training {}
    #[doc = include_str!("../../docs/src/security.md")]
    mod security {}
    #[doc = include_str!("../../docs/src/performance.md")]
    mod performance {}
}
