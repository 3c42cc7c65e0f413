//! Rotary position embedding in the rotate-half layout, in 32-bit floats whatever the model's
//! type, as transformers computes it.

use std::f64::consts::TAU;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::config::{RopeConfig, RopeScaling};

/// The rotation speeds of the pairs of dimensions, in radians a position.
#[derive(Clone, Debug)]
pub(super) struct Rope {
    pub(super) frequencies: Vec<f32>,
}

impl Rope {
    pub(super) fn new(config: &RopeConfig, head_dim: usize) -> Self {
        let frequency = |pair: usize| config.theta.powf(-((2 * pair) as f64) / head_dim as f64);
        let frequencies = (0..head_dim / 2)
            .map(|pair| scaled(frequency(pair), pair, &config.scaling) as f32)
            .collect();
        Self { frequencies }
    }

    /// The rotations at these positions of a batch, row by row.
    pub(super) fn at(
        &self,
        positions: &[usize],
        [rows, width]: [usize; 2],
        device: &Device,
    ) -> Rotation {
        let half = self.frequencies.len();
        let angles = || {
            positions.iter().flat_map(|&position| {
                self.frequencies.iter().map(move |frequency| position as f32 * frequency)
            })
        };
        let table = |values: Vec<f32>| {
            Tensor::from_data(TensorData::new(values, [rows, width, 1, half]), device)
        };
        Rotation {
            cos: table(angles().map(f32::cos).collect()),
            sin: table(angles().map(f32::sin).collect()),
        }
    }
}

/// A frequency as the scaling changes it.
///
/// LLaMA 3.1 keeps fast pairs, divides slow ones by the factor and blends between, by how many
/// turns a pair makes in the original context.
pub(crate) fn scaled(frequency: f64, pair: usize, scaling: &RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::PerFrequency { factors } => frequency / factors[pair],
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_positions,
        } => {
            let turns = *original_max_positions as f64 * frequency / TAU;
            let blend = (turns - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let kept = blend.clamp(0.0, 1.0);
            (1.0 - kept) * frequency / factor + kept * frequency
        }
    }
}

/// Cosines and sines, each `[rows or 1, width, 1, head_dim / 2]`.
#[derive(Clone, Debug)]
pub(super) struct Rotation {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotation {
    /// The rotation back.
    pub(super) fn inverse(&self) -> Self {
        Self { cos: self.cos.clone(), sin: self.sin.clone().neg() }
    }

    /// Rotates `[rows, width, heads, head_dim]`.
    pub(super) fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        let dtype = x.dtype();
        let half = x.dims()[3] / 2;
        let x = x.cast(DType::F32);
        let first = x.clone().narrow(3, 0, half);
        let second = x.narrow(3, half, half);
        let rotated = vec![
            first.clone() * self.cos.clone() - second.clone() * self.sin.clone(),
            second * self.cos.clone() + first * self.sin.clone(),
        ];
        Tensor::cat(rotated, 3).cast(dtype)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_fast_pairs_and_slows_slow_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 64,
        };
        // 64 positions at 1 radian make 10.2 turns (above 4: kept); at 0.01 radian 0.1 turns
        // (below 1: divided); at 0.25 radian 2.546 turns, (2.546 - 1) / 3 = 0.5155 kept.
        assert_eq!(scaled(1.0, 0, &scaling), 1.0);
        assert_eq!(scaled(0.01, 0, &scaling), 0.01 / 8.0);
        let turns = 64.0 * 0.25 / TAU;
        let kept = (turns - 1.0) / 3.0;
        assert!(
            (scaled(0.25, 0, &scaling) - (0.25 * kept + 0.25 / 8.0 * (1.0 - kept))).abs() < 1e-12
        );
    }

    #[test]
    fn a_rotation_keeps_lengths_and_turns_by_the_angle() {
        let device = Device::default();
        let rope = Rope::new(&RopeConfig { theta: 10_000.0, scaling: RopeScaling::None }, 2);
        let x = Tensor::<4>::from_data([[[[1.0_f32, 0.0]]]], &device);
        let turned =
            rope.at(&[3], [1, 1], &device).apply(x).into_data().try_to_vec::<f32>().unwrap();
        // One pair at frequency 1: after 3 positions (1, 0) stands at (cos 3, sin 3).
        assert!((turned[0] - 3.0_f32.cos()).abs() < 1e-6);
        assert!((turned[1] - 3.0_f32.sin()).abs() < 1e-6);
    }
}
