//! Sixteen numbers side by side, in whatever vectors the processor has.

use half::{bf16, f16};

/// Numbers of a vector, however many registers it takes.
pub(super) const LANES: usize = 16;

/// Sixteen 32-bit floats from a line of the cache on.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Floats(pub(super) [f32; LANES]);

/// Four bytes for each of sixteen numbers, from a line of the cache on.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Bytes(pub(super) [u8; 4 * LANES]);

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

    /// So much less than its byte is a weight of [`load_bytes`](Self::load_bytes).
    const LESS: i32 = 0;

    fn splat(self, value: f32) -> Self::F;
    fn load(self, values: &[f32; LANES]) -> Self::F;
    fn store(self, vector: Self::F, values: &mut [f32; LANES]);
    fn load_f16(self, values: &[f16; LANES]) -> Self::F;
    fn load_bf16(self, values: &[bf16; LANES]) -> Self::F;
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
}

/// Plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Lanes for Portable {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type W = [u8; 4 * LANES];

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
    fn load_bf16(self, values: &[bf16; LANES]) -> Self::F {
        values.map(|value| f32::from_bits(u32::from(value.to_bits()) << 16))
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
            let four = &weights[4 * lane..4 * lane + 4];
            let products = four.iter().zip(inputs).map(|(&w, x)| i32::from(w) * i32::from(x));
            sums[lane] + products.sum::<i32>()
        })
    }
    #[inline(always)]
    fn load_bytes(self, bytes: &Bytes) -> Self::W {
        bytes.0
    }
    #[inline(always)]
    fn nibbles(self, bytes: &Bytes) -> (Self::W, Self::W) {
        (bytes.0.map(|byte| byte & 15), bytes.0.map(|byte| byte >> 4))
    }
}
