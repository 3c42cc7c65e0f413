//! Kernels for the CPU, on the plain memory of burn's `flex` backend.
//!
//! burn's own operations stay the only path that differentiates and that runs on GPUs. A kernel
//! here serves float tensors of 32 bits on `flex` and hands back its input for everything else,
//! so a layer tries the kernel first and then says what it means in burn's words.

#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod matvec;
#[cfg(feature = "flex")]
mod swiglu;

use burn::tensor::Tensor;

/// Runs `work` on a thread of rayon's pool if `near` lies on `flex`. From outside the pool, each
/// small kernel puts its caller to sleep and wakes it again, several hundred times a token.
pub(crate) fn on_pool<R: Send>(near: &Tensor<1>, work: impl FnOnce() -> R + Send) -> R {
    #[cfg(feature = "flex")]
    if flex::holds(near) && rayon::current_thread_index().is_none() {
        // One caller at a time: a worker that waits for a part of its own work would otherwise
        // begin another caller's, on top of its own stack. Each uses all threads anyway.
        static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        return rayon::scope(|_| work());
    }
    let _ = near;
    work()
}

/// `x W^T` for few rows, `x` of `[rows, d_input]` and `W` of `[d_output, d_input]`.
///
/// burn multiplies a single row on one thread only, at a third of the speed of memory. For many
/// rows its product is good: those are not served here.
pub(crate) fn project_few(input: &Tensor<2>, weight: &Tensor<2>) -> Option<Tensor<2>> {
    #[cfg(feature = "flex")]
    return flex::project_few(input, weight);
    #[cfg(not(feature = "flex"))]
    {
        let _ = (input, weight);
        None
    }
}

/// `silu(gate) * up`, in one pass over memory.
pub(crate) fn swiglu(gate: &Tensor<2>, up: &Tensor<2>) -> Option<Tensor<2>> {
    #[cfg(feature = "flex")]
    return flex::swiglu(gate, up);
    #[cfg(not(feature = "flex"))]
    {
        let _ = (gate, up);
        None
    }
}
