//! The vectors of ARM processors.
#![allow(unsafe_code, reason = "instructions that not every processor has")]

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};
use std::mem::transmute;

use half::f16;

use super::lanes::{Bytes, LANES, Lanes};

/// NEON with products of signed bytes (dotprod).
#[derive(Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    pub(super) fn new() -> Option<Self> {
        is_aarch64_feature_detected!("dotprod").then_some(Self(()))
    }
}

/// `vdotq_s32`, which is not stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sums: int32x4_t, weights: int8x16_t, inputs: int8x16_t) -> int32x4_t {
    // SAFETY: the processor has the instruction, and it knows of nothing but these registers.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums,
            in(vreg) weights,
            in(vreg) inputs,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

macro_rules! quarters {
    ($f:expr, $($vector:expr),+) => {
        unsafe { [$f($($vector[0]),+), $f($($vector[1]),+), $f($($vector[2]),+), $f($($vector[3]),+)] }
    };
}

// SAFETY (of all blocks): all 64-bit ARM processors have these instructions but the one of `dot`, and a
// value of the type exists only where they have that, too; what is transmuted is numbers in either form.
impl Lanes for Neon {
    type F = [float32x4_t; 4];
    type I = [int32x4_t; 4];
    type W = [int8x16_t; 4];

    const ROWS: usize = 6;
    const TWO_TILES: bool = false;
    const LESS: i32 = 128;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        unsafe { [vdupq_n_f32(value); 4] }
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::F {
        unsafe { transmute::<[f32; LANES], Self::F>(*values) }
    }
    #[inline(always)]
    fn store(self, vector: Self::F, values: &mut [f32; LANES]) {
        *values = unsafe { transmute::<Self::F, [f32; LANES]>(vector) };
    }
    #[inline(always)]
    fn load_f16(self, values: &[f16; LANES]) -> Self::F {
        let halves = unsafe { transmute::<[f16; LANES], [float16x4_t; 4]>(*values) };
        quarters!(vcvt_f32_f16, halves)
    }
    #[inline(always)]
    fn load_first(self, pairs: &Bytes) -> Self::F {
        let pairs = unsafe { transmute::<[u32; LANES], [uint32x4_t; 4]>(pairs.0) };
        let first = quarters!(vshlq_n_u32::<16>, pairs);
        quarters!(vreinterpretq_f32_u32, first)
    }
    #[inline(always)]
    fn load_second(self, pairs: &Bytes) -> Self::F {
        let pairs = unsafe { transmute::<[u32; LANES], [uint32x4_t; 4]>(pairs.0) };
        let high = unsafe { [vdupq_n_u32(0xffff_0000); 4] };
        let second = quarters!(vandq_u32, pairs, high);
        quarters!(vreinterpretq_f32_u32, second)
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        quarters!(vaddq_f32, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        quarters!(vmulq_f32, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        quarters!(vdivq_f32, a, b)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        let larger = quarters!(vcgtq_f32, a, b);
        quarters!(vbslq_f32, larger, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        let smaller = quarters!(vcltq_f32, a, b);
        quarters!(vbslq_f32, smaller, a, b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        quarters!(vfmaq_f32, c, a, b)
    }
    #[inline(always)]
    fn scale(self, a: Self::F, b: Self::F) -> Self::F {
        let (exponents, bias) = (quarters!(vcvtq_s32_f32, b), self.splat_i32(127));
        let exponents = quarters!(vaddq_s32, exponents, bias);
        let powers = quarters!(vshlq_n_s32::<23>, exponents);
        self.mul(a, quarters!(vreinterpretq_f32_s32, powers))
    }
    #[inline(always)]
    fn sum(self, a: Self::F) -> f32 {
        unsafe { vaddvq_f32(vaddq_f32(vaddq_f32(a[0], a[1]), vaddq_f32(a[2], a[3]))) }
    }
    #[inline(always)]
    fn largest(self, a: Self::F) -> f32 {
        unsafe { vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a[0], a[1]), vmaxnmq_f32(a[2], a[3]))) }
    }
    #[inline(always)]
    fn splat_i32(self, value: i32) -> Self::I {
        unsafe { [vdupq_n_s32(value); 4] }
    }
    #[inline(always)]
    fn to_f32(self, vector: Self::I) -> Self::F {
        quarters!(vcvtq_f32_s32, vector)
    }
    #[inline(always)]
    fn dot(self, sums: Self::I, weights: Self::W, inputs: [i8; 4]) -> Self::I {
        let inputs = i32::from_ne_bytes(inputs.map(i8::cast_unsigned));
        let inputs = unsafe { [vreinterpretq_s8_s32(vdupq_n_s32(inputs)); 4] };
        quarters!(sdot, sums, weights, inputs)
    }
    #[inline(always)]
    fn load_bytes(self, bytes: &Bytes) -> Self::W {
        let bytes = unsafe { transmute::<[u32; LANES], Self::W>(bytes.0) };
        let least = unsafe { [vdupq_n_s8(-128); 4] };
        quarters!(veorq_s8, bytes, least)
    }
    #[inline(always)]
    fn nibbles(self, bytes: &Bytes) -> (Self::W, Self::W) {
        let bytes = unsafe { transmute::<[u32; LANES], [uint8x16_t; 4]>(bytes.0) };
        let low = unsafe { [vdupq_n_u8(15); 4] };
        let (low, high) = (quarters!(vandq_u8, bytes, low), quarters!(vshrq_n_u8::<4>, bytes));
        (quarters!(vreinterpretq_s8_u8, low), quarters!(vreinterpretq_s8_u8, high))
    }
}
