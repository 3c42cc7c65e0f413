//! The one place where a weight matrix meets activations.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::Precision;
use super::adapter::Adapter;
use crate::kernel;

/// A linear layer without bias, `y = x W^T`.
///
/// The weight is kept as `[d_output, d_input]`, the hub's layout: it is loaded and saved
/// without a transpose, and a single row of activations meets contiguous rows of weights.
///
/// Every product with a weight matrix goes through [`Linear::forward`]. Packed weights, for inference on
/// CPUs, are not here but in the model beside this one, `PackedLlama`.
#[derive(Module, Debug)]
pub struct Linear {
    /// The weight, `[d_output, d_input]`.
    pub weight: Param<Tensor<2>>,
    /// What training adds to the weight while that stands still.
    pub(super) adapter: Option<Adapter>,
}

impl Linear {
    /// A layer with this weight, `[d_output, d_input]`.
    #[must_use]
    pub fn new(weight: Tensor<2>) -> Self {
        Self { weight: Param::from_tensor(weight), adapter: None }
    }

    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// - input: `[rows, d_input]`
    /// - output: `[rows, d_output]`
    #[must_use]
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let Some(adapter) = &self.adapter else { return project(input, self.weight.val()) };
        let narrow = project(input.clone(), adapter.a.val());
        project(input, self.weight.val()) + project(narrow, adapter.b.val()) * adapter.scale
    }
}

/// `x W^T` for `x` of `[rows, d_input]` and `W` of `[d_output, d_input]`. The transpose is a view.
pub(super) fn project(input: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    if let Some(output) = kernel::project_few(&input, &weight) {
        return output;
    }
    let weight = weight.transpose();
    kernel::product(Precision::F32, &input, &weight).unwrap_or_else(|| input.matmul(weight))
}
