//! The way back through RMS norm and the gate.

use burn::nn::RmsNorm;
use burn::tensor::Tensor;
use burn::tensor::activation::{sigmoid, silu};

use super::product::Back;
use crate::kernel;

/// The derivative by the input of a norm `y = x r g`, where `r = 1 / sqrt(mean(x^2) + eps)`:
///
/// ```text
/// dx = r (g dy) - x r^3 mean(g dy x)        dg = sum over rows of dy x r
/// ```
pub(super) fn rms_norm_backward(
    norm: &RmsNorm,
    x: &Tensor<2>,
    derivative: Tensor<2>,
    back: &mut Back<'_>,
) -> Tensor<2> {
    let gamma = norm.gamma.val();
    if let Some((d_x, d_gamma)) = kernel::rms_norm_backward(x, &gamma, &derivative, norm.epsilon) {
        back.add_base(&norm.gamma, || d_gamma);
        return d_x;
    }
    let inverse = (x.clone().square().mean_dim(1) + norm.epsilon).sqrt().recip();
    let normed = x.clone() * inverse.clone();
    back.add_base(&norm.gamma, || (derivative.clone() * normed.clone()).sum_dim(0).reshape([-1]));
    let scaled = derivative * gamma.unsqueeze();
    let along = (scaled.clone() * normed.clone()).mean_dim(1);
    (scaled - normed * along) * inverse
}

/// `silu(gate) * up`.
pub(super) fn gate_forward(gate: &Tensor<2>, up: &Tensor<2>) -> Tensor<2> {
    kernel::swiglu(gate, up).unwrap_or_else(|| silu(gate.clone()) * up.clone())
}

/// The derivatives by `gate` and `up` of `silu(gate) * up`.
pub(super) fn gate_backward(
    gate: Tensor<2>,
    up: Tensor<2>,
    derivative: Tensor<2>,
) -> (Tensor<2>, Tensor<2>) {
    let [gate, up] = match kernel::swiglu_backward(gate, up, &derivative) {
        Ok([d_gate, d_up]) => return (d_gate, d_up),
        Err(unchanged) => unchanged,
    };
    let sigmoid = sigmoid(gate.clone());
    let silu = gate.clone() * sigmoid.clone();
    let d_up = derivative.clone() * silu.clone();
    // silu'(x) = s + x s (1 - s) = s + silu (1 - s)
    let slope = sigmoid.clone() + silu * (sigmoid.neg() + 1.0);
    (derivative * up * slope, d_up)
}
