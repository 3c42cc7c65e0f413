//! Products of matrices in the precision that is asked for, and a linear layer's way back.

use burn::module::Param;
use burn::tensor::{DType, Tensor};

use super::gradients::Gradients;
use crate::kernel;
use crate::model::linear::Linear;

/// The float type of the products in training. Weights, gradients, norms, softmax and the
/// residual stream are 32-bit floats in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit floats: the most exact.
    #[default]
    F32,
    /// Both factors are rounded to 16-bit brain floats (bf16), as `torch.autocast` does: several
    /// times faster on GPUs that multiply them and on CPUs with tile registers (AMX), and up to twice
    /// as fast on CPUs with AVX-512 BF16. On CPUs the products are not rounded, and attention is
    /// computed in 32-bit floats.
    Bf16,
    /// Both factors are written as sums of two brain floats, and the products of three pairs are
    /// added up, which leaves 16 bits of each factor: what torch calls `high`. On CPUs with tile
    /// registers it lies between the other two in speed and near 32-bit floats in precision;
    /// elsewhere it is [`Precision::F32`].
    Bf16x3,
}

impl Precision {
    /// `a b`, matrix by matrix.
    pub(super) fn batched(self, a: Tensor<3>, b: Tensor<3>) -> Tensor<3> {
        match self {
            Self::F32 | Self::Bf16x3 => a.matmul(b),
            Self::Bf16 => a.cast(DType::BF16).matmul(b.cast(DType::BF16)).cast(DType::F32),
        }
    }

    /// `a b`.
    pub(super) fn product(self, a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
        if let Some(product) = kernel::product(self, &a, &b) {
            return product;
        }
        self.batched(a.unsqueeze(), b.unsqueeze()).squeeze_dim(0)
    }
}

/// What a step back through a layer needs beside its tensors.
pub(super) struct Back<'a> {
    pub(super) gradients: &'a mut Gradients,
    pub(super) precision: Precision,
    /// Whether the model's own weights are trained, and not only its adapters.
    pub(super) base: bool,
}

impl Back<'_> {
    /// Adds the gradient of a weight of the model itself, if that is trained.
    pub(super) fn add_base<const D: usize>(
        &mut self,
        parameter: &Param<Tensor<D>>,
        gradient: impl FnOnce() -> Tensor<D>,
    ) {
        if self.base {
            self.gradients.add(parameter.id, gradient());
        }
    }
}

impl Linear {
    /// [`Linear::forward`] in the precision of training.
    pub(super) fn forward_in(&self, precision: Precision, input: Tensor<2>) -> Tensor<2> {
        if precision == Precision::F32 {
            return self.forward(input);
        }
        let base = precision.product(input.clone(), self.weight.val().transpose());
        match &self.adapter {
            None => base,
            Some(adapter) => {
                let narrow = precision.product(input, adapter.a.val().transpose());
                base + precision.product(narrow, adapter.b.val().transpose()) * adapter.scale
            }
        }
    }

    /// The way back: the derivative by the input, from the input and the derivative by the output.
    ///
    /// # Shapes
    ///
    /// - input: `[rows, d_input]`
    /// - derivative: `[rows, d_output]`
    /// - output: `[rows, d_input]`
    pub(super) fn backward(
        &self,
        input: &Tensor<2>,
        derivative: Tensor<2>,
        back: &mut Back<'_>,
    ) -> Tensor<2> {
        let precision = back.precision;
        if back.base {
            let factors = [derivative.clone().transpose(), input.clone()];
            back.gradients.add_product(self.weight.id, precision, factors);
        }
        let through = precision.product(derivative.clone(), self.weight.val());
        let Some(adapter) = &self.adapter else { return through };
        // y = s (x A^T) B^T
        let scaled = derivative * adapter.scale;
        let narrow = precision.product(input.clone(), adapter.a.val().transpose());
        let factors = [scaled.clone().transpose(), narrow];
        back.gradients.add_product(adapter.b.id, precision, factors);
        let narrow = precision.product(scaled, adapter.b.val());
        let factors = [narrow.clone().transpose(), input.clone()];
        back.gradients.add_product(adapter.a.id, precision, factors);
        through + precision.product(narrow, adapter.a.val())
    }
}
