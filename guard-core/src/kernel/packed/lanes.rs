//! Sixteen numbers side by side, in whatever vectors the processor has.

use half::f16;

/// Numbers of a vector, however many registers it takes.
pub(super) const LANES: usize = 16;

/// Sixteen 32-bit floats from a line of the cache on.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Floats(pub(super) [f32; LANES]);

/// Four bytes for each of sixteen numbers, the first in the low bits, from a line of the cache on.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Bytes(pub(super) [u32; LANES]);

/// Two brain floats, which are the upper halves of 32-bit floats: the first one in the low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair(pub(super) u32);

impl Pair {
    pub(crate) const ZERO: Self = Self(0);

    /// The nearest ones.
    #[inline(always)]
    pub(super) fn nearest([first, second]: [f32; 2]) -> Self {
        Self(u32::from(upper_half(first)) | u32::from(upper_half(second)) << 16)
    }

    /// Both in 32 bits.
    #[inline(always)]
    pub(super) fn floats(self) -> [f32; 2] {
        [f32::from_bits(self.0 << 16), f32::from_bits(self.0 & 0xffff_0000)]
    }
}

/// The nearest brain float, the even one of two, in a form that compilers make vectors of.
#[inline(always)]
fn upper_half(value: f32) -> u16 {
    let bits = value.to_bits();
    // What leaves 32 bits is no number.
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    // Any number that is none, rather than an infinity.
    let none = bits >> 16 | 0x40;
    (if value.is_nan() { none } else { nearest }) as u16
}

impl Bytes {
    pub(super) const ZERO: Self = Self([0; LANES]);

    /// The pair of one of the numbers.
    #[inline(always)]
    pub(super) fn pair(&self, lane: usize) -> Pair {
        Pair(self.0[lane])
    }

    pub(super) fn set_pair(&mut self, lane: usize, pair: Pair) {
        self.0[lane] = pair.0;
    }

    /// The bytes of one of the numbers.
    pub(super) fn four(&self, lane: usize) -> [u8; 4] {
        self.0[lane].to_le_bytes()
    }

    pub(super) fn set_four(&mut self, lane: usize, bytes: [u8; 4]) {
        self.0[lane] = u32::from_le_bytes(bytes);
    }
}

/// The vectors of a processor. A value of the type is proof that the processor has them.
///
/// Methods are inlined into functions that are compiled for these vectors (see `kernels`). They are
/// called from loops: closures are compiled for no vectors in particular.
pub(super) trait Lanes: Copy {
    /// Sixteen 32-bit floats.
    type F: Copy;
    /// Sixteen 32-bit integers.
    type I: Copy;
    /// Four weights for each of sixteen numbers.
    type W: Copy;

    /// Rows of a micro-product, and whether it takes two tiles or one: the more sums, the fewer inputs and weights
    /// are loaded for each, as long as registers hold all of them.
    const ROWS: usize;
    const TWO_TILES: bool;
    /// Whether there is an instruction for [`dot_pairs`](Self::dot_pairs).
    const HAS_PAIRS: bool = false;
    /// So much less than its byte is a weight of [`load_bytes`](Self::load_bytes).
    const LESS: i32 = 0;

    fn splat(self, value: f32) -> Self::F;
    fn load(self, values: &[f32; LANES]) -> Self::F;
    fn store(self, vector: Self::F, values: &mut [f32; LANES]);
    fn load_f16(self, values: &[f16; LANES]) -> Self::F;
    /// The first brain float of each number, which is a [`Pair`], and the second one.
    fn load_first(self, pairs: &Bytes) -> Self::F;
    fn load_second(self, pairs: &Bytes) -> Self::F;
    /// Begins to fetch the line of the cache that holds this value, where that can be told.
    #[inline(always)]
    fn prefetch<T>(self, _value: &T) {}
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// The larger; `b` where one is no number.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` where one is no number.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once or twice.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a * 2^b` for whole `b` from -126 to 127.
    fn scale(self, a: Self::F, b: Self::F) -> Self::F;
    fn sum(self, a: Self::F) -> f32;
    fn largest(self, a: Self::F) -> f32;

    fn splat_i32(self, value: i32) -> Self::I;
    fn to_f32(self, vector: Self::I) -> Self::F;
    fn load_bytes(self, bytes: &Bytes) -> Self::W;
    /// The low and the high halves of the bytes.
    fn nibbles(self, bytes: &Bytes) -> (Self::W, Self::W);
    /// Adds to each sum the products of its four weights and the four inputs, which are not -128.
    fn dot(self, sums: Self::I, weights: Self::W, inputs: [i8; 4]) -> Self::I;
    /// The same for weights of [`nibbles`](Self::nibbles).
    #[inline(always)]
    fn dot_nibbles(self, sums: Self::I, weights: Self::W, inputs: [i8; 4]) -> Self::I {
        self.dot(sums, weights, inputs)
    }

    /// Adds to each sum the products of its pair of weights and the pair of inputs, rounded once or more often.
    /// What is below 2^-126 may count as 0.
    #[inline(always)]
    fn dot_pairs(self, sums: Self::F, weights: &Bytes, inputs: Pair) -> Self::F {
        let [first, second] = inputs.floats();
        let sums = self.mul_add(self.load_first(weights), self.splat(first), sums);
        self.mul_add(self.load_second(weights), self.splat(second), sums)
    }
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Lanes for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type W = [u32; LANES];

    const ROWS: usize = 2;
    const TWO_TILES: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; LANES]
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::F {
        *values
    }
    #[inline(always)]
    fn store(self, vector: Self::F, values: &mut [f32; LANES]) {
        *values = vector;
    }
    #[inline(always)]
    fn load_f16(self, values: &[f16; LANES]) -> Self::F {
        values.map(f16::to_f32)
    }
    #[inline(always)]
    fn load_first(self, pairs: &Bytes) -> Self::F {
        std::array::from_fn(|lane| pairs.pair(lane).floats()[0])
    }
    #[inline(always)]
    fn load_second(self, pairs: &Bytes) -> Self::F {
        std::array::from_fn(|lane| pairs.pair(lane).floats()[1])
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn scale(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|i| a[i] * f32::from_bits(((b[i] as i32 + 127) << 23) as u32))
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        a.iter().sum()
    }
    #[inline(always)]
    fn largest(self, a: Self::F) -> f32 {
        a.iter().copied().fold(f32::NEG_INFINITY, f32::max)
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I {
        [value; LANES]
    }
    #[inline(always)]
    fn to_f32(self, vector: Self::I) -> Self::F {
        vector.map(|value| value as f32)
    }
    #[inline(always)]
    fn dot(self, sums: Self::I, weights: Self::W, inputs: [i8; 4]) -> Self::I {
        std::array::from_fn(|lane| {
            let mut sum = sums[lane];
            for (at, input) in inputs.into_iter().enumerate() {
                sum += (weights[lane] >> (8 * at) & 255) as i32 * i32::from(input);
            }
            sum
        })
    }
    #[inline(always)]
    fn load_bytes(self, bytes: &Bytes) -> Self::W {
        bytes.0
    }
    #[inline(always)]
    fn nibbles(self, bytes: &Bytes) -> (Self::W, Self::W) {
        (bytes.0.map(|four| four & 0x0f0f_0f0f), bytes.0.map(|four| four >> 4 & 0x0f0f_0f0f))
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn products_of_pairs_are_added() {
        let mut weights = Bytes::ZERO;
        for lane in 0..LANES {
            weights.set_pair(lane, Pair::nearest([lane as f32, 0.5]));
        }
        let sums = Portable.dot_pairs([1.0; LANES], &weights, Pair::nearest([2.0, -3.0]));
        assert_eq!(sums, std::array::from_fn(|lane| 1.0 + 2.0 * lane as f32 - 1.5));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// Of floats of all bits.
        #[test]
        fn pairs_are_the_nearest_brain_floats(first: u32, second in 0x7f7f_0000..0x7f81_0000_u32) {
            let values = [first, second].map(f32::from_bits);
            let found = Pair::nearest(values).floats();
            for (found, expected) in found.into_iter().zip(values.map(|v| bf16::from_f32(v).to_f32())) {
                prop_assert!(found == expected || found.is_nan() && expected.is_nan());
            }
        }
    }
}
