//! Kernels for the CPU, on the plain memory of burn's `flex` backend.
//!
//! burn's own operations stay the only path that differentiates and that runs on GPUs. A kernel
//! here serves float tensors of 32 bits on `flex` and hands back its input for everything else,
//! so a layer tries the kernel first and then says what it means in burn's words.
#![allow(clippy::result_large_err, reason = "tensors that are not served go back as they came")]

#[cfg(feature = "flex")]
mod attention;
#[cfg(feature = "flex")]
mod bf16;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod head;
mod logits;
#[cfg(feature = "flex")]
mod matvec;
#[cfg(feature = "flex")]
mod norm;
#[cfg(feature = "flex")]
mod optimizer;
#[cfg(feature = "flex")]
pub(crate) mod packed;
#[cfg(feature = "flex")]
mod product;
#[cfg(feature = "flex")]
mod swiglu;

use burn::tensor::Tensor;

pub use logits::{log_sum_exp, softmax};

use crate::model::{AdamWStep, Moments, Precision};

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

/// `a b` of `[rows, inner]` and `[inner, columns]`, of any strides.
pub(crate) fn product(precision: Precision, a: &Tensor<2>, b: &Tensor<2>) -> Option<Tensor<2>> {
    #[cfg(feature = "flex")]
    return flex::product(precision, a, b);
    #[cfg(not(feature = "flex"))]
    {
        let _ = (precision, a, b);
        None
    }
}

/// What becomes of the values that the output of a product had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// They are not read.
    Overwritten,
    /// The product is added to them.
    Kept,
}

/// As [`product`], in the memory of `output`, row by row; or the output back as it was.
pub(crate) fn product_into(
    precision: Precision,
    [a, b]: [&Tensor<2>; 2],
    output: Tensor<1>,
    before: Before,
) -> Result<Tensor<1>, Tensor<1>> {
    #[cfg(feature = "flex")]
    return flex::product_into(precision, [a, b], output, before);
    #[cfg(not(feature = "flex"))]
    {
        let _ = (precision, a, b, before);
        Err(output)
    }
}

/// Whether [`product_into`] serves tensors where this one lies.
pub(crate) fn serves(near: &Tensor<1>) -> bool {
    #[cfg(feature = "flex")]
    return flex::holds(near);
    #[cfg(not(feature = "flex"))]
    {
        let _ = near;
        false
    }
}

/// Where the rows of a packed batch lie, and the heads of its attention.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "flex"), expect(dead_code, reason = "only kernels look into it"))]
pub(crate) struct Attending {
    /// The place of the first token and the number of tokens of each row.
    pub(crate) rows: Vec<(usize, usize)>,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// Causal attention of each row over `[tokens, heads * head_dim]`: the output and the logarithms
/// of the softmax denominators.
pub(crate) fn attention(
    attending: &Attending,
    heads: [&Tensor<2>; 3],
) -> Option<(Tensor<2>, Vec<f32>)> {
    #[cfg(feature = "flex")]
    return flex::attention(attending, heads);
    #[cfg(not(feature = "flex"))]
    {
        let _ = (attending, heads);
        None
    }
}

/// The derivatives of [`attention`] by queries, keys and values.
pub(crate) fn attention_backward(
    attending: &Attending,
    heads: [&Tensor<2>; 3],
    output: &Tensor<2>,
    log_sums: &[f32],
    derivative: &Tensor<2>,
) -> Option<[Tensor<2>; 3]> {
    #[cfg(feature = "flex")]
    return flex::attention_backward(attending, heads, output, log_sums, derivative);
    #[cfg(not(feature = "flex"))]
    {
        let _ = (attending, heads, output, log_sums, derivative);
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

/// The derivatives of `silu(gate) * up` by `gate` and `up`, or both tensors back.
pub(crate) fn swiglu_backward(
    gate: Tensor<2>,
    up: Tensor<2>,
    derivative: &Tensor<2>,
) -> Result<[Tensor<2>; 2], [Tensor<2>; 2]> {
    #[cfg(feature = "flex")]
    return flex::swiglu_backward(gate, up, derivative);
    #[cfg(not(feature = "flex"))]
    {
        let _ = derivative;
        Err([gate, up])
    }
}

/// The derivatives of an RMS norm by its input and its weights.
pub(crate) fn rms_norm_backward(
    x: &Tensor<2>,
    gamma: &Tensor<1>,
    derivative: &Tensor<2>,
    epsilon: f64,
) -> Option<(Tensor<2>, Tensor<1>)> {
    #[cfg(feature = "flex")]
    return flex::rms_norm_backward(x, gamma, derivative, epsilon as f32);
    #[cfg(not(feature = "flex"))]
    {
        let _ = (x, gamma, derivative, epsilon);
        None
    }
}

/// Of each row of logits the logarithm of the sum of powers, and the logit of its target.
pub(crate) fn log_sum_and_target(logits: &Tensor<2>, targets: &[u32]) -> Option<Vec<(f32, f32)>> {
    #[cfg(feature = "flex")]
    return flex::log_sum_and_target(logits, targets);
    #[cfg(not(feature = "flex"))]
    {
        let _ = (logits, targets);
        None
    }
}

/// The derivative of a weighted token loss by its logits, or the logits back.
pub(crate) fn d_logits(
    logits: Tensor<2>,
    log_sums: &[f32],
    targets: &[u32],
    coefficients: &[f32],
) -> Result<Tensor<2>, Tensor<2>> {
    #[cfg(feature = "flex")]
    return flex::d_logits(logits, log_sums, targets, coefficients);
    #[cfg(not(feature = "flex"))]
    {
        let _ = (log_sums, targets, coefficients);
        Err(logits)
    }
}

/// The sum of squares.
pub(crate) fn square_sum(values: &Tensor<1>) -> Option<f64> {
    #[cfg(feature = "flex")]
    return flex::square_sum(values);
    #[cfg(not(feature = "flex"))]
    {
        let _ = values;
        None
    }
}

/// A step of AdamW: new weights and moments, or the old ones back.
pub(crate) fn adamw(
    step: AdamWStep,
    weight: Tensor<1>,
    gradient: &Tensor<1>,
    moments: Moments,
) -> Result<(Tensor<1>, Moments), (Tensor<1>, Moments)> {
    #[cfg(feature = "flex")]
    return flex::adamw(step, weight, gradient, moments);
    #[cfg(not(feature = "flex"))]
    {
        let _ = (step, gradient);
        Err((weight, moments))
    }
}
