//! How numbers are stored in files of weights, and reading them back.
//!
//! The block formats are those of GGUF. A row is a whole number of blocks, and each block holds
//! a scale for its weights: 32 of them in the plain formats, 256 in the `K` formats, whose
//! scales are themselves quantized.

use half::{bf16, f16};

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
    for (index, &byte) in bytes.iter().enumerate() {
        set(index, f32::from(byte & 0x0f));
        set(index + bytes.len(), f32::from(byte >> 4));
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
