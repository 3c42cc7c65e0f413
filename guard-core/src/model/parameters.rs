//! Where the parameters of a model come from: one constructor serves random and stored weights.

use std::convert::Infallible;
use std::f32::consts::TAU;

use burn::module::Param;
use burn::nn::{Embedding, RmsNorm};
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::linear::Linear;

/// Hands out parameters by their names on the hub, each once.
pub(crate) trait Parameters {
    type Error;

    /// The parameter of this name and shape.
    fn take<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, Self::Error>;

    /// The embedding `name` of shape `[vocabulary, d_model]`.
    fn embedding(&mut self, name: &str, shape: [usize; 2]) -> Result<Embedding, Self::Error> {
        let weight = self.take(&format!("{name}.weight"), shape)?;
        Ok(Embedding { weight: Param::from_tensor(weight) })
    }

    /// The linear layer `name` with weights of shape `[d_output, d_input]`.
    fn linear(&mut self, name: &str, shape: [usize; 2]) -> Result<Linear, Self::Error> {
        Ok(Linear::new(self.take(&format!("{name}.weight"), shape)?))
    }

    /// The RMS norm `name` over `size` features.
    fn rms_norm(&mut self, name: &str, size: usize, epsilon: f64) -> Result<RmsNorm, Self::Error> {
        let gamma = self.take(&format!("{name}.weight"), [size])?;
        Ok(RmsNorm { gamma: Param::from_tensor(gamma), epsilon })
    }
}

/// Random initial weights: matrices from N(0, `standard_deviation`), norms at 1.
///
/// Each parameter depends on the seed and its own name only, so equal seeds give equal models
/// on every machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RandomInit {
    /// The seed of all weights.
    pub seed: u64,
    /// The standard deviation of matrices; the hub's LLaMA default is 0.02.
    pub standard_deviation: f32,
}

impl Default for RandomInit {
    fn default() -> Self {
        Self { seed: 0, standard_deviation: 0.02 }
    }
}

pub(super) struct RandomParameters<'a> {
    pub(super) init: RandomInit,
    pub(super) device: &'a Device,
}

impl Parameters for RandomParameters<'_> {
    type Error = Infallible;

    fn take<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, Infallible> {
        if D == 1 {
            return Ok(Tensor::ones(shape, self.device));
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.init.seed ^ name_hash(name));
        let count = shape.iter().product();
        let values: Vec<f32> =
            std::iter::repeat_with(|| self.init.standard_deviation * normal(&mut rng))
                .take(count)
                .collect();
        Ok(Tensor::from_data(TensorData::new(values, shape), self.device))
    }
}

/// A draw from N(0, 1), by the Box-Muller transform.
pub(super) fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f32>()).ln()).sqrt();
    radius * (TAU * rng.random::<f32>()).cos()
}

/// FNV-1a: stable across compilers, which the standard hasher does not promise.
pub(super) fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}
