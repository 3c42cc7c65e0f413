//! The vectors of x86 processors.
#![allow(unsafe_code, reason = "instructions that not every processor has")]

use std::arch::x86_64::*;
use std::mem::transmute;

use half::f16;

use super::lanes::{Bytes, LANES, Lanes, Pair};

/// AVX-512 with integer products (VNNI).
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    pub(super) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }
}

/// The same with products of brain floats.
#[derive(Clone, Copy)]
pub(super) struct Avx512Bf16(());

impl Avx512Bf16 {
    pub(super) fn new() -> Option<Self> {
        (Avx512::new().is_some() && is_x86_feature_detected!("avx512bf16")).then_some(Self(()))
    }
}

/// The upper half of each number.
const UPPER: i32 = 0xffff_0000_u32.cast_signed();

/// Lanes in a register of 512 bits; the two kinds of processors differ in products of pairs.
macro_rules! in_one_register {
    ($type:ty, $($pairs:item)*) => {
        // SAFETY (of all blocks): a value of the type exists only where the processor has these instructions;
        // loads and stores are within the arrays.
        impl Lanes for $type {
            type F = __m512;
            type I = __m512i;
            type W = __m512i;

            const ROWS: usize = 6;
            const TWO_TILES: bool = true;
            $($pairs)*

            #[inline(always)]
            fn splat(self, value: f32) -> Self::F {
                unsafe { _mm512_set1_ps(value) }
            }
            #[inline(always)]
            fn load(self, values: &[f32; LANES]) -> Self::F {
                unsafe { _mm512_loadu_ps(values.as_ptr()) }
            }
            #[inline(always)]
            fn store(self, vector: Self::F, values: &mut [f32; LANES]) {
                unsafe { _mm512_storeu_ps(values.as_mut_ptr(), vector) }
            }
            #[inline(always)]
            fn load_f16(self, values: &[f16; LANES]) -> Self::F {
                unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(values.as_ptr().cast())) }
            }
            #[inline(always)]
            fn load_first(self, pairs: &Bytes) -> Self::F {
                unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(self.load_bytes(pairs))) }
            }
            #[inline(always)]
            fn load_second(self, pairs: &Bytes) -> Self::F {
                let pairs = self.load_bytes(pairs);
                unsafe { _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(UPPER))) }
            }
            #[inline(always)]
            fn prefetch<T>(self, value: &T) {
                unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) }
            }
            #[inline(always)]
            fn add(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm512_add_ps(a, b) }
            }
            #[inline(always)]
            fn mul(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm512_mul_ps(a, b) }
            }
            #[inline(always)]
            fn div(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm512_div_ps(a, b) }
            }
            #[inline(always)]
            fn max(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm512_max_ps(a, b) }
            }
            #[inline(always)]
            fn min(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm512_min_ps(a, b) }
            }
            #[inline(always)]
            fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }
            #[inline(always)]
            fn scale(self, a: Self::F, b: Self::F) -> Self::F {
                unsafe { _mm512_scalef_ps(a, b) }
            }
            #[inline(always)]
            fn sum(self, a: Self::F) -> f32 {
                unsafe { _mm512_reduce_add_ps(a) }
            }
            #[inline(always)]
            fn largest(self, a: Self::F) -> f32 {
                unsafe { _mm512_reduce_max_ps(a) }
            }
            #[inline(always)]
            fn splat_i32(self, value: i32) -> Self::I {
                unsafe { _mm512_set1_epi32(value) }
            }
            #[inline(always)]
            fn to_f32(self, vector: Self::I) -> Self::F {
                unsafe { _mm512_cvtepi32_ps(vector) }
            }
            #[inline(always)]
            fn dot(self, sums: Self::I, weights: Self::W, inputs: [i8; 4]) -> Self::I {
                let inputs = i32::from_ne_bytes(inputs.map(i8::cast_unsigned));
                unsafe { _mm512_dpbusd_epi32(sums, weights, _mm512_set1_epi32(inputs)) }
            }
            #[inline(always)]
            fn load_bytes(self, bytes: &Bytes) -> Self::W {
                unsafe { _mm512_load_si512(bytes.0.as_ptr().cast()) }
            }
            #[inline(always)]
            fn nibbles(self, bytes: &Bytes) -> (Self::W, Self::W) {
                unsafe {
                    let (bytes, low) = (self.load_bytes(bytes), _mm512_set1_epi8(15));
                    (_mm512_and_si512(bytes, low), _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low))
                }
            }
        }
    };
}

in_one_register! { Avx512, }

in_one_register! { Avx512Bf16,
    const HAS_PAIRS: bool = true;

    #[inline(always)]
    fn dot_pairs(self, sums: Self::F, weights: &Bytes, inputs: Pair) -> Self::F {
        unsafe {
            let weights = transmute::<__m512i, __m512bh>(self.load_bytes(weights));
            let inputs = transmute::<__m512i, __m512bh>(_mm512_set1_epi32(inputs.0.cast_signed()));
            _mm512_dpbf16_ps(sums, inputs, weights)
        }
    }
}

/// The same in two registers: AVX2 with integer products (AVX-VNNI).
#[derive(Clone, Copy)]
pub(super) struct AvxVnni(());

impl AvxVnni {
    pub(super) fn new() -> Option<Self> {
        (Avx2::new().is_some() && is_x86_feature_detected!("avxvnni")).then_some(Self(()))
    }
}

/// AVX2 with fused products and 16-bit floats.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn new() -> Option<Self> {
        (is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c"))
        .then_some(Self(()))
    }
}

macro_rules! halves {
    ($f:ident, $a:expr, $b:expr) => {
        unsafe { [$f($a[0], $b[0]), $f($a[1], $b[1])] }
    };
}

/// The bytes as they are.
#[inline(always)]
fn bytes_256(bytes: &Bytes) -> [__m256i; 2] {
    // SAFETY: 64 bytes from a multiple of 64 on, and any bits are a value of a register.
    unsafe { std::ptr::from_ref(bytes).cast::<[__m256i; 2]>().read() }
}

/// Lanes in two registers of 256 bits; the two kinds of processors differ in products of bytes.
macro_rules! in_two_registers {
    ($type:ty, $($bytes:item)*) => {
        // SAFETY (of all blocks): a value of the type exists only where the processor has these instructions;
        // loads and stores are within the arrays.
        impl Lanes for $type {
            type F = [__m256; 2];
            type I = [__m256i; 2];
            type W = [__m256i; 2];

            const ROWS: usize = 5;
            const TWO_TILES: bool = false;

            #[inline(always)]
            fn splat(self, value: f32) -> Self::F {
                unsafe { [_mm256_set1_ps(value); 2] }
            }
            #[inline(always)]
            fn load(self, values: &[f32; LANES]) -> Self::F {
                unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
            }
            #[inline(always)]
            fn store(self, vector: Self::F, values: &mut [f32; LANES]) {
                unsafe {
                    _mm256_storeu_ps(values.as_mut_ptr(), vector[0]);
                    _mm256_storeu_ps(values.as_mut_ptr().add(8), vector[1]);
                }
            }
            #[inline(always)]
            fn load_f16(self, values: &[f16; LANES]) -> Self::F {
                unsafe {
                    let at = values.as_ptr().cast::<__m128i>();
                    [_mm256_cvtph_ps(_mm_loadu_si128(at)), _mm256_cvtph_ps(_mm_loadu_si128(at.add(1)))]
                }
            }
            #[inline(always)]
            fn load_first(self, pairs: &Bytes) -> Self::F {
                let pairs = bytes_256(pairs);
                unsafe {
                    let first = [_mm256_slli_epi32::<16>(pairs[0]), _mm256_slli_epi32::<16>(pairs[1])];
                    [_mm256_castsi256_ps(first[0]), _mm256_castsi256_ps(first[1])]
                }
            }
            #[inline(always)]
            fn load_second(self, pairs: &Bytes) -> Self::F {
                let pairs = bytes_256(pairs);
                unsafe {
                    let upper = _mm256_set1_epi32(UPPER);
                    let second = [_mm256_and_si256(pairs[0], upper), _mm256_and_si256(pairs[1], upper)];
                    [_mm256_castsi256_ps(second[0]), _mm256_castsi256_ps(second[1])]
                }
            }
            #[inline(always)]
            fn prefetch<T>(self, value: &T) {
                unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) }
            }
            #[inline(always)]
            fn add(self, a: Self::F, b: Self::F) -> Self::F {
                halves!(_mm256_add_ps, a, b)
            }
            #[inline(always)]
            fn mul(self, a: Self::F, b: Self::F) -> Self::F {
                halves!(_mm256_mul_ps, a, b)
            }
            #[inline(always)]
            fn div(self, a: Self::F, b: Self::F) -> Self::F {
                halves!(_mm256_div_ps, a, b)
            }
            #[inline(always)]
            fn max(self, a: Self::F, b: Self::F) -> Self::F {
                halves!(_mm256_max_ps, a, b)
            }
            #[inline(always)]
            fn min(self, a: Self::F, b: Self::F) -> Self::F {
                halves!(_mm256_min_ps, a, b)
            }
            #[inline(always)]
            fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
                unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
            }
            #[inline(always)]
            fn scale(self, a: Self::F, b: Self::F) -> Self::F {
                let mut scaled = a;
                for half in 0..2 {
                    unsafe {
                        let power = _mm256_add_epi32(_mm256_cvtps_epi32(b[half]), _mm256_set1_epi32(127));
                        let power = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(power));
                        scaled[half] = _mm256_mul_ps(a[half], power);
                    }
                }
                scaled
            }
            #[inline(always)]
            fn sum(self, a: Self::F) -> f32 {
                let mut values = [0.0; LANES];
                self.store(a, &mut values);
                values.iter().sum()
            }
            #[inline(always)]
            fn largest(self, a: Self::F) -> f32 {
                let mut values = [0.0; LANES];
                self.store(a, &mut values);
                values.iter().copied().fold(f32::NEG_INFINITY, f32::max)
            }
            #[inline(always)]
            fn splat_i32(self, value: i32) -> Self::I {
                unsafe { [_mm256_set1_epi32(value); 2] }
            }
            #[inline(always)]
            fn to_f32(self, vector: Self::I) -> Self::F {
                unsafe { [_mm256_cvtepi32_ps(vector[0]), _mm256_cvtepi32_ps(vector[1])] }
            }
            $($bytes)*

            #[inline(always)]
            fn nibbles(self, bytes: &Bytes) -> (Self::W, Self::W) {
                let bytes = bytes_256(bytes);
                unsafe {
                    let low = _mm256_set1_epi8(15);
                    let high = [_mm256_srli_epi16::<4>(bytes[0]), _mm256_srli_epi16::<4>(bytes[1])];
                    (
                        [_mm256_and_si256(bytes[0], low), _mm256_and_si256(bytes[1], low)],
                        [_mm256_and_si256(high[0], low), _mm256_and_si256(high[1], low)],
                    )
                }
            }
        }
    };
}

in_two_registers! { Avx2,
    const LESS: i32 = 128;

    #[inline(always)]
    fn load_bytes(self, bytes: &Bytes) -> Self::W {
        let bytes = bytes_256(bytes);
        unsafe {
            let least = _mm256_set1_epi8(-128);
            [_mm256_xor_si256(bytes[0], least), _mm256_xor_si256(bytes[1], least)]
        }
    }

    /// The instruction takes bytes without a sign on one side: they are the weights', whose signs the inputs
    /// get. So no two products leave 16 bits.
    #[inline(always)]
    fn dot(self, sums: Self::I, weights: Self::W, inputs: [i8; 4]) -> Self::I {
        let inputs = i32::from_ne_bytes(inputs.map(i8::cast_unsigned));
        let mut sums = sums;
        for half in 0..2 {
            unsafe {
                let inputs = _mm256_sign_epi8(_mm256_set1_epi32(inputs), weights[half]);
                sums[half] = add_bytes(sums[half], _mm256_abs_epi8(weights[half]), inputs);
            }
        }
        sums
    }

    #[inline(always)]
    fn dot_nibbles(self, sums: Self::I, weights: Self::W, inputs: [i8; 4]) -> Self::I {
        let inputs = i32::from_ne_bytes(inputs.map(i8::cast_unsigned));
        let mut sums = sums;
        for half in 0..2 {
            unsafe {
                sums[half] = add_bytes(sums[half], weights[half], _mm256_set1_epi32(inputs));
            }
        }
        sums
    }
}

/// Adds to each number four products of bytes, the weights' without a sign.
#[inline]
#[target_feature(enable = "avx2")]
fn add_bytes(sums: __m256i, weights: __m256i, inputs: __m256i) -> __m256i {
    let pairs = _mm256_maddubs_epi16(weights, inputs);
    _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
}

in_two_registers! { AvxVnni,
    #[inline(always)]
    fn load_bytes(self, bytes: &Bytes) -> Self::W {
        bytes_256(bytes)
    }

    #[inline(always)]
    fn dot(self, sums: Self::I, weights: Self::W, inputs: [i8; 4]) -> Self::I {
        let inputs = i32::from_ne_bytes(inputs.map(i8::cast_unsigned));
        unsafe {
            let inputs = _mm256_set1_epi32(inputs);
            [
                _mm256_dpbusd_avx_epi32(sums[0], weights[0], inputs),
                _mm256_dpbusd_avx_epi32(sums[1], weights[1], inputs),
            ]
        }
    }
}
