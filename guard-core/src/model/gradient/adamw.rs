//! One step of AdamW.

use burn::tensor::Tensor;

use crate::kernel;

/// The numbers of a step of AdamW, all of them known before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWStep {
    /// What the gradient is multiplied by before it is used: how clipping arrives here.
    pub gradient_scale: f32,
    /// The share that the mean of gradients keeps.
    pub beta1: f32,
    /// The share that the mean of squares keeps.
    pub beta2: f32,
    /// What the weight is multiplied by: `1 - learning rate * weight decay`.
    pub keep: f32,
    /// The learning rate over `1 - beta1^step`.
    pub step_size: f32,
    /// The square root of `1 - beta2^step`.
    pub root_correction: f32,
    /// What keeps the quotient finite.
    pub epsilon: f32,
}

impl AdamWStep {
    /// What becomes of one weight:
    ///
    /// ```text
    /// m = b1 m + (1 - b1) g      v = b2 v + (1 - b2) g^2
    /// w = keep w - step_size m / (sqrt(v) / root_correction + epsilon)
    /// ```
    #[inline(always)]
    #[cfg(feature = "flex")]
    pub(crate) fn apply(&self, weight: &mut f32, gradient: f32, mean: &mut f32, square: &mut f32) {
        let gradient = gradient * self.gradient_scale;
        // As torch writes it: m + (1 - b1) (g - m).
        *mean += (1.0 - self.beta1) * (gradient - *mean);
        *square = self.beta2 * *square + (1.0 - self.beta2) * (gradient * gradient);
        let root = square.sqrt() / self.root_correction + self.epsilon;
        *weight = self.keep * *weight - self.step_size * (*mean / root);
    }

    /// The step for a whole parameter: its new weights and moments, in 32-bit floats. Memory that
    /// nobody else holds is used again.
    #[must_use]
    pub fn step(
        self,
        weight: Tensor<1>,
        gradient: &Tensor<1>,
        moments: Moments,
    ) -> (Tensor<1>, Moments) {
        let (weight, Moments { mean, square }) =
            match kernel::adamw(self, weight, gradient, moments) {
                Ok(stepped) => return stepped,
                Err(unchanged) => unchanged,
            };
        let gradient = gradient.clone() * self.gradient_scale;
        let mean = mean.clone() + (gradient.clone() - mean) * (1.0 - self.beta1);
        let square = square * self.beta2 + gradient.square() * (1.0 - self.beta2);
        let root = square.clone().sqrt() / self.root_correction + self.epsilon;
        let weight = weight * self.keep - mean.clone() / root * self.step_size;
        (weight, Moments { mean, square })
    }
}

/// The running means of a parameter's gradients and of their squares (`exp_avg` and `exp_avg_sq`
/// in torch).
#[derive(Clone, Debug)]
pub struct Moments {
    /// The mean of gradients.
    pub mean: Tensor<1>,
    /// The mean of squared gradients.
    pub square: Tensor<1>,
}

impl Moments {
    /// Those before the first step, for a parameter of this size.
    #[must_use]
    pub fn zeros_like(weight: &Tensor<1>) -> Self {
        Self { mean: weight.zeros_like(), square: weight.zeros_like() }
    }
}
