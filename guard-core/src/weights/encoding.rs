//! How numbers are stored in files of weights.
//!
//! The block formats are those of GGUF. A row is a whole number of blocks, and each block holds
//! a scale for its weights: 32 of them in the plain formats, 256 in the `K` formats, whose
//! scales are themselves quantized.

use half::{bf16, f16};

#[cfg(feature = "flex")]
use crate::kernel::packed::Steps;

/// The format of the numbers of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Encoding {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// 16-bit brain floats.
    Bf16,
    /// Blocks of 32: a 16-bit scale and 8-bit integers.
    Q8_0,
    /// Blocks of 32: a 16-bit scale and 4-bit integers around 8.
    Q4_0,
    /// Blocks of 32: a 16-bit scale and minimum, and 4-bit integers.
    Q4_1,
    /// Blocks of 256: eight 6-bit scales and minima, and 4-bit integers.
    Q4K,
    /// Blocks of 256: sixteen 8-bit scales, and 6-bit integers around 32.
    Q6K,
}

/// The most weights in a block of any format.
const MAX_BLOCK: usize = 256;

/// A float type that weights are loaded as.
pub(super) trait WeightFloat: Copy {
    fn from_f32(value: f32) -> Self;
}

impl WeightFloat for f32 {
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl WeightFloat for f16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl WeightFloat for bf16 {
    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }
}

impl Encoding {
    /// Weights in a block; 1 for plain floats.
    pub(super) fn block_len(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 => 32,
            Self::Q4K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub(super) fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q8_0 => 2 + 32,
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q4K => 2 + 2 + 12 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Whether a row of `columns` weights is a whole number of blocks.
    pub(super) fn fits(self, columns: usize) -> bool {
        columns.is_multiple_of(self.block_len())
    }

    /// Bytes of a row of `columns` weights; `None` if that is more than the machine can count.
    pub(super) fn row_bytes(self, columns: usize) -> Option<usize> {
        (columns / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Decodes whole blocks and appends the weights to `out`.
    pub(super) fn decode<T: WeightFloat>(self, bytes: &[u8], out: &mut Vec<T>) {
        let mut weights = [0.0_f32; MAX_BLOCK];
        let weights = &mut weights[..self.block_len()];
        for block in bytes.chunks_exact(self.block_bytes()) {
            match self {
                Self::F32 => {
                    weights[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]])
                }
                Self::F16 => weights[0] = half_at(block, 0),
                Self::Bf16 => weights[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
                Self::Q8_0 => q8_0(block, weights),
                Self::Q4_0 => q4_0(block, weights),
                Self::Q4_1 => q4_1(block, weights),
                Self::Q4K => q4_k(block, weights),
                Self::Q6K => q6_k(block, weights),
            }
            out.extend(weights.iter().map(|&weight| T::from_f32(weight)));
        }
    }
}

#[cfg(feature = "flex")]
impl Encoding {
    /// Appends the weights of a row as steps of scales, where it has such for each block of 32; says whether
    /// it has.
    pub(super) fn steps(self, row: &[u8], out: &mut Vec<Steps>) -> bool {
        let halves = |bytes: &[u8]| {
            let mut steps = [0_i8; 32];
            nibbles_of(bytes, |index, value| steps[index] = value.cast_signed());
            steps
        };
        let half = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
        let blocks = row.chunks_exact(self.block_bytes());
        match self {
            Self::Q8_0 => out.extend(blocks.map(|block| {
                let mut steps = [0; 32];
                let bytes = block[2..].iter().map(|byte| byte.cast_signed());
                steps.iter_mut().zip(bytes).for_each(|(step, byte)| *step = byte);
                Steps { scale: half(block, 0), minimum: f16::ZERO, steps }
            })),
            Self::Q4_0 => out.extend(blocks.map(|block| {
                let scale = half(block, 0);
                Steps { scale, minimum: f16::ZERO, steps: halves(&block[2..]) }
            })),
            Self::Q4_1 => out.extend(blocks.map(|block| {
                let (scale, minimum) = (half(block, 0), half(block, 2));
                Steps { scale, minimum, steps: halves(&block[4..]) }
            })),
            Self::Q4K => blocks.for_each(|block| q4_k_steps(block, out)),
            Self::F32 | Self::F16 | Self::Bf16 | Self::Q6K => return false,
        }
        true
    }
}

/// The sub-blocks of 32, whose scales and minima become 16-bit floats.
#[cfg(feature = "flex")]
fn q4_k_steps(block: &[u8], out: &mut Vec<Steps>) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (packed, quants) = (&block[4..16], &block[16..]);
    for (group, bytes) in quants.chunks_exact(32).enumerate() {
        for half in 0..2 {
            let (sub_scale, sub_minimum) = six_bit_pair(packed, 2 * group + half);
            let mut steps = [0; 32];
            for (step, byte) in steps.iter_mut().zip(bytes) {
                *step = (byte >> (4 * half) & 15).cast_signed();
            }
            let scale = f16::from_f32(scale * sub_scale);
            out.push(Steps { scale, minimum: f16::from_f32(-minimum * sub_minimum), steps });
        }
    }
}

impl Encoding {
    /// Encodes a row of weights, a whole number of blocks, and appends the bytes to `out`. Of the
    /// `K` formats there is no encoder.
    ///
    /// # Panics
    ///
    /// For a `K` format.
    pub(super) fn encode(self, row: &[f32], out: &mut Vec<u8>) {
        for block in row.chunks_exact(self.block_len()) {
            match self {
                Self::F32 => out.extend(block[0].to_le_bytes()),
                Self::F16 => out.extend(f16::from_f32(block[0]).to_le_bytes()),
                Self::Bf16 => out.extend(bf16::from_f32(block[0]).to_le_bytes()),
                Self::Q8_0 => encode_q8_0(block, out),
                Self::Q4_0 => encode_q4(block, false, out),
                Self::Q4_1 => encode_q4(block, true, out),
                Self::Q4K | Self::Q6K => unreachable!("there is no encoder of {self:?}"),
            }
        }
    }
}

/// The largest weight is 127 steps from zero.
fn encode_q8_0(block: &[f32], out: &mut Vec<u8>) {
    let largest = block.iter().fold(0.0_f32, |largest, weight| largest.max(weight.abs()));
    let scale = f16::from_f32(largest / 127.0);
    let inverse = if scale.to_f32() > 0.0 { 1.0 / scale.to_f32() } else { 0.0 };
    out.extend(scale.to_le_bytes());
    out.extend(block.iter().map(|weight| {
        let step = (weight * inverse).round().clamp(-127.0, 127.0);
        (step as i8).cast_unsigned()
    }));
}

/// A grid of 16 values: 8 steps below zero and 7 above it, or from a minimum on. The numbers are those of
/// 16-bit floats.
#[derive(Clone, Copy)]
struct Grid {
    scale: f32,
    start: f32,
    has_minimum: bool,
}

impl Grid {
    fn new(scale: f32, minimum: Option<f32>) -> Self {
        let round = |value: f32| f16::from_f32(value).to_f32();
        let scale = round(scale);
        let start = minimum.map_or(-8.0 * scale, round);
        Self { scale, start, has_minimum: minimum.is_some() }
    }

    fn step(self, weight: f32) -> u8 {
        let step = if self.scale == 0.0 { 0.0 } else { (weight - self.start) / self.scale };
        // To the nearest, as a conversion cuts off; below zero it gives 0.
        ((step + 0.5) as u8).min(15)
    }

    fn error(self, block: &[f32]) -> f32 {
        let value = |weight: f32| self.scale * f32::from(self.step(weight)) + self.start;
        block.iter().map(|&weight| (weight - value(weight)).powi(2)).sum()
    }

    /// The grid that fits the block best with the steps of this one.
    fn fitted(self, block: &[f32]) -> Self {
        let (mut sum, mut squares, mut weights, mut products) = (0.0, 0.0, 0.0, 0.0);
        for &weight in block {
            let step = f32::from(self.step(weight)) - if self.has_minimum { 0.0 } else { 8.0 };
            sum += step;
            squares += step * step;
            weights += weight;
            products += step * weight;
        }
        let count = block.len() as f32;
        let spread = count * squares - sum * sum;
        match self.has_minimum {
            true if spread > 0.0 => {
                let scale = (count * products - sum * weights) / spread;
                Self::new(scale, Some((weights - scale * sum) / count))
            }
            false if squares > 0.0 => Self::new(products / squares, None),
            _ => self,
        }
    }
}

/// The best of grids that reach to the ends of the block or a little less far, each fitted to the
/// steps that it gives.
fn encode_q4(block: &[f32], with_minimum: bool, out: &mut Vec<u8>) {
    let low = block.iter().copied().fold(f32::INFINITY, f32::min);
    let high = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let farthest = if low.abs() > high.abs() { low } else { high };
    let starts = (0..8_u8).map(|inset| {
        let share = 1.0 - 0.03 * f32::from(inset);
        match with_minimum {
            true => {
                let (middle, width) = ((low + high) / 2.0, (high - low) * share);
                Grid::new(width / 15.0, Some(middle - width / 2.0))
            }
            false => Grid::new(farthest * share / -8.0, None),
        }
    });
    let fitted = |grid: Grid| (0..4).fold(grid, |grid, _| grid.fitted(block));
    let grids = starts.flat_map(|grid| [grid, fitted(grid)]);
    let best = grids.map(|grid| (grid.error(block), grid)).min_by(|(a, _), (b, _)| a.total_cmp(b));
    let Some((_, best)) = best else { return };
    out.extend(f16::from_f32(best.scale).to_le_bytes());
    if best.has_minimum {
        out.extend(f16::from_f32(best.start).to_le_bytes());
    }
    let (front, back) = block.split_at(block.len() / 2);
    out.extend(front.iter().zip(back).map(|(&low, &high)| best.step(low) | best.step(high) << 4));
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Scale, then 32 signed bytes.
fn q8_0(block: &[u8], weights: &mut [f32]) {
    let scale = half_at(block, 0);
    for (weight, &byte) in weights.iter_mut().zip(&block[2..]) {
        *weight = scale * f32::from(byte.cast_signed());
    }
}

/// The low halves of 16 bytes are the first 16 integers, the high halves the others.
fn nibbles(bytes: &[u8], mut set: impl FnMut(usize, f32)) {
    nibbles_of(bytes, |index, value| set(index, f32::from(value)));
}

fn nibbles_of(bytes: &[u8], mut set: impl FnMut(usize, u8)) {
    for (index, &byte) in bytes.iter().enumerate() {
        set(index, byte & 0x0f);
        set(index + bytes.len(), byte >> 4);
    }
}

/// Scale, then 32 half-bytes around 8.
fn q4_0(block: &[u8], weights: &mut [f32]) {
    let scale = half_at(block, 0);
    nibbles(&block[2..], |index, value| weights[index] = scale * (value - 8.0));
}

/// Scale and minimum, then 32 half-bytes.
fn q4_1(block: &[u8], weights: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    nibbles(&block[4..], |index, value| weights[index] = scale * value + minimum);
}

/// Scale of the scales, scale of the minima, eight packed pairs of both, then half-bytes in
/// four groups of 64, of which each has two sub-blocks of 32.
fn q4_k(block: &[u8], weights: &mut [f32]) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let (packed, quants) = (&block[4..16], &block[16..]);
    for (group, (bytes, weights)) in
        quants.chunks_exact(32).zip(weights.chunks_exact_mut(64)).enumerate()
    {
        let pairs = [six_bit_pair(packed, 2 * group), six_bit_pair(packed, 2 * group + 1)];
        nibbles(bytes, |index, value| {
            let (sub_scale, sub_minimum) = pairs[index / 32];
            weights[index] = scale * sub_scale * value - minimum * sub_minimum;
        });
    }
}

/// Scale and minimum number `index` of eight, 6 bits each, in 12 bytes: the first four of both
/// lie in the low bits of eight bytes, the others in four more and the spare high bits.
fn six_bit_pair(packed: &[u8], index: usize) -> (f32, f32) {
    let (scale, minimum) = if index < 4 {
        (packed[index] & 63, packed[index + 4] & 63)
    } else {
        let low = packed[index + 4];
        let (scale, minimum) = (packed[index - 4] >> 6, packed[index] >> 6);
        ((low & 0x0f) | (scale << 4), (low >> 4) | (minimum << 4))
    };
    (f32::from(scale), f32::from(minimum))
}

/// Low half-bytes, high pairs of bits, sixteen signed scales and the scale of these. Two halves
/// of 128 weights, each in four runs of 32.
fn q6_k(block: &[u8], weights: &mut [f32]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, scale) = (&rest[..16], half_at(rest, 16));
    for half in 0..2 {
        let (low, high) = (&low[64 * half..], &high[32 * half..]);
        for index in 0..32 {
            for run in 0..4 {
                let nibble = low[32 * (run % 2) + index] >> (4 * (run / 2)) & 0x0f;
                let value = nibble | ((high[index] >> (2 * run) & 3) << 4);
                let sub_scale = scales[8 * half + 2 * run + index / 16].cast_signed();
                weights[128 * half + 32 * run + index] =
                    scale * f32::from(sub_scale) * (f32::from(value) - 32.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights of two sizes, some blocks of one value only.
    fn weights() -> Vec<f32> {
        let noise = |at: usize| ((at * 7919 % 2003) as f32 / 1001.5 - 1.0).powi(3);
        let scale = |at: usize| if (at / 32).is_multiple_of(3) { 0.01 } else { 2.0 };
        let mut weights: Vec<f32> = (0..32 * 60).map(|at| noise(at) * scale(at)).collect();
        weights[..32].fill(0.0);
        weights[32..64].fill(-1.5);
        weights
    }

    fn error(encoding: Encoding, weights: &[f32]) -> f32 {
        let (mut bytes, mut found) = (Vec::new(), Vec::<f32>::new());
        encoding.encode(weights, &mut bytes);
        assert_eq!(Some(bytes.len()), encoding.row_bytes(weights.len()));
        encoding.decode(&bytes, &mut found);
        assert_eq!(found.len(), weights.len());
        let squares = weights.iter().zip(found).map(|(weight, found)| (weight - found).powi(2));
        (squares.sum::<f32>() / weights.iter().map(|weight| weight.powi(2)).sum::<f32>()).sqrt()
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        let weights = weights();
        let bounds = [
            (Encoding::F32, 0.0),
            (Encoding::F16, 3e-4),
            (Encoding::Bf16, 3e-3),
            (Encoding::Q8_0, 0.006),
            (Encoding::Q4_1, 0.09),
            (Encoding::Q4_0, 0.1),
        ];
        for (encoding, bound) in bounds {
            let error = error(encoding, &weights);
            assert!(error <= bound, "{encoding:?}: {error}");
        }
    }

    /// Steps from the least to the greatest weight, as the reference has them, are never better.
    #[test]
    fn four_bits_are_fitted_to_the_weights() {
        for block in weights().chunks_exact(32) {
            let low = block.iter().copied().fold(f32::INFINITY, f32::min);
            let high = block.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let plain = Grid::new((high - low) / 15.0, Some(low)).error(block);
            let (mut bytes, mut found) = (Vec::new(), Vec::<f32>::new());
            Encoding::Q4_1.encode(block, &mut bytes);
            Encoding::Q4_1.decode(&bytes, &mut found);
            let best: f32 = block.iter().zip(found).map(|(a, b)| (a - b).powi(2)).sum();
            assert!(best <= plain * (1.0 + 1e-4) + 1e-12, "{best} {plain}");
        }
    }

    #[test]
    fn weights_that_are_not_finite_do_not_panic() {
        for bad in [f32::NAN, f32::INFINITY, f32::MAX] {
            let block = [bad; 32];
            for encoding in [Encoding::Q8_0, Encoding::Q4_0, Encoding::Q4_1] {
                let mut bytes = Vec::new();
                encoding.encode(&block, &mut bytes);
                assert_eq!(bytes.len(), encoding.block_bytes());
            }
        }
    }
}
