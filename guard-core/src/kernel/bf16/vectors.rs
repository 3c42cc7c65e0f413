//! Products on the vectors of x86-64 processors that have AVX-512 BF16.
#![allow(unsafe_code, reason = "vectors are loaded and stored through pointers")]

use std::arch::x86_64::{
    __m512bh, __m512i, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_load_si512, _mm512_loadu_ps,
    _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
};

use super::Parts;
use super::blocks::{Job, Kernel, PAIR, Square};
use super::pack::{DEPTH, LINES, Tile};

/// Rows of the output at a time, each of two vectors: with these sums in registers, the
/// instructions need not wait for each other.
const ROWS: usize = 8;

/// Whether the processor has the instructions, and those that pack.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512bf16")
}

/// The kernel of [`Parts::One`]. Three products of two parts would take longer than one of 32-bit
/// floats.
pub(super) struct Vectors(());

impl Kernel for Vectors {
    unsafe fn on_this_thread() -> Self {
        Self(())
    }

    unsafe fn multiply(&self, parts: Parts, job: Job<'_>, square: Square) {
        let tiles = 2 * job.steps;
        assert!(parts == Parts::One, "parts");
        assert!(tiles > 0 && job.left.len() >= tiles && job.right.len() >= tiles, "tiles");
        for row in (0..PAIR).step_by(ROWS) {
            // SAFETY: whoever made this has seen the features, there are enough tiles, and the
            // caller promises the output.
            unsafe { add_products(job, row, square) };
        }
    }
}

/// The products of some rows with two blocks of lines.
///
/// # Safety
///
/// Both factors have two blocks of tiles, the row and those behind it lie in the square, and the
/// output may be written, and read if it is kept.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn add_products(job: Job<'_>, first: usize, square: Square) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    let lines = job.left[first / LINES * job.steps..][..job.steps].iter();
    let rights = job.right[..job.steps].iter().zip(&job.right[job.steps..2 * job.steps]);
    for (left, (right, right2)) in lines.zip(rights) {
        let left = left.as_ptr().cast::<i32>();
        for pair in 0..DEPTH / 2 {
            let right = [load(right, pair), load(right2, pair)];
            for (row, sums) in sums.iter_mut().enumerate() {
                let at = (first % LINES + row) * DEPTH / 2 + pair;
                // SAFETY: a tile is 16 lines of 16 pairs.
                let both = bits(_mm512_set1_epi32(unsafe { *left.add(at) }));
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum = _mm512_dpbf16_ps(*sum, both, right);
                }
            }
        }
    }
    for (row, sums) in sums.into_iter().enumerate() {
        for (half, sum) in sums.into_iter().enumerate() {
            let at = square.output.wrapping_add((first + row) * square.stride + half * LINES);
            // SAFETY: the caller's promise.
            unsafe {
                let before = if square.keep { _mm512_loadu_ps(at) } else { _mm512_setzero_ps() };
                _mm512_storeu_ps(at, _mm512_add_ps(before, sum));
            }
        }
    }
}

/// A pair of entries of each of 16 lines.
#[target_feature(enable = "avx512f")]
fn load(tile: &Tile, pair: usize) -> __m512bh {
    // SAFETY: a row of a tile has the size and the alignment of a vector.
    bits(unsafe { _mm512_load_si512((&raw const tile[pair]).cast()) })
}

#[target_feature(enable = "avx512f")]
fn bits(values: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes, and any bits are a value of either.
    unsafe { std::mem::transmute(values) }
}
