//! Factors of a product in the order in which tile registers read them.
#![allow(unsafe_code, reason = "vectors are loaded and stored through pointers")]

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _mm512_castsi512_ps, _mm512_castsi512_si256, _mm512_cvtepu16_epi32,
    _mm512_cvtne2ps_pbh, _mm512_extracti64x4_epi64, _mm512_load_si512, _mm512_maskz_loadu_ps,
    _mm512_permutexvar_epi16, _mm512_set_epi16, _mm512_shuffle_i32x4, _mm512_slli_epi32,
    _mm512_store_si512, _mm512_sub_ps, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64,
    _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};

use half::bf16;
use rayon::prelude::*;

use super::Parts;
use crate::kernel::product::Matrix;

/// Lines of a factor in a tile: rows of the left one, columns of the right one.
pub(super) const LINES: usize = 16;

/// Entries of a line in a tile.
pub(super) const DEPTH: usize = 32;

/// One row of a tile register.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Row([u16; DEPTH]);

/// What a tile register holds.
pub(super) type Tile = [Row; LINES];

const EMPTY: Tile = [Row([0; DEPTH]); LINES];

/// How a tile lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// The left factor: line by line, `[line][depth]`.
    Left,
    /// The right factor: two entries of each line by turns, `[depth / 2][line][2]`.
    Right,
}

/// Lines of a factor in tiles of 16 by 32 entries, the missing ones zero: `[lines / 16][depth /
/// 32][parts]`. There is an even number of blocks of lines.
#[derive(Debug, Default)]
pub(super) struct Packed {
    tiles: Vec<Tile>,
    tiles_per_block: usize,
}

impl Packed {
    /// Packs the rows of a matrix, which are the lines: the right factor comes transposed.
    ///
    /// # Safety
    ///
    /// The processor has AVX-512 F, BW and BF16.
    pub(super) unsafe fn fill(&mut self, lines: Matrix<'_>, side: Side, parts: Parts) {
        let per_step = if parts == Parts::One { 1 } else { 2 };
        self.tiles_per_block = lines.columns().div_ceil(DEPTH) * per_step;
        let blocks = lines.rows().div_ceil(2 * LINES) * 2;
        self.tiles.resize(blocks * self.tiles_per_block, EMPTY);
        let blocks = self.tiles.par_chunks_mut(self.tiles_per_block.max(1)).enumerate();
        blocks.for_each(|(block, tiles)| {
            let range =
                |at: usize, size: usize, end: usize| end.min(at * size)..end.min((at + 1) * size);
            let rows = range(block, LINES, lines.rows());
            for (step, tiles) in tiles.chunks_exact_mut(per_step).enumerate() {
                let part = lines.part(rows.clone(), range(step, DEPTH, lines.columns()));
                // SAFETY: the caller promises the features.
                unsafe { pack(part, side, tiles) };
            }
        });
    }

    /// The tiles of a block of lines, and of those behind it.
    ///
    /// # Panics
    ///
    /// When there is no such block.
    pub(super) fn block(&self, block: usize) -> &[Tile] {
        &self.tiles[block * self.tiles_per_block..]
    }

    /// Tiles of a block of lines.
    pub(super) fn tiles_per_block(&self) -> usize {
        self.tiles_per_block
    }
}

/// Packs up to 16 lines of up to 32 entries into the first tile, and what rounding left of them
/// into the second, if there is one.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pack(lines: Matrix<'_>, side: Side, tiles: &mut [Tile]) {
    let made = match lines.strides() {
        [_, 1] => by_lines(lines, tiles),
        [1, _] => by_pairs(lines, tiles),
        _ => one_by_one(lines, tiles),
    };
    if made != side {
        for tile in tiles {
            transpose(tile);
        }
    }
}

/// Lines whose entries lie side by side.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn by_lines(lines: Matrix<'_>, tiles: &mut [Tile]) -> Side {
    let (rows, depth) = (lines.rows(), lines.columns());
    for line in 0..LINES {
        let count = if line < rows { depth } else { 0 };
        let front = load(lines, [line, 0], count.min(16));
        let back = load(lines, [line, 16], count.saturating_sub(16));
        store(tiles, line, front, back, None);
    }
    Side::Left
}

/// Entries whose lines lie side by side.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn by_pairs(lines: Matrix<'_>, tiles: &mut [Tile]) -> Side {
    let by_turns = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
        19, 3, 18, 2, 17, 1, 16, 0,
    );
    let (rows, depth) = (lines.rows(), lines.columns());
    let lines_at = |at: usize| if at < depth { rows } else { 0 };
    for pair in 0..DEPTH / 2 {
        let (even, odd) = (2 * pair, 2 * pair + 1);
        let first = load(lines, [0, even], lines_at(even));
        let second = load(lines, [0, odd], lines_at(odd));
        store(tiles, pair, first, second, Some(by_turns));
    }
    Side::Right
}

/// Entries that lie anywhere.
fn one_by_one(lines: Matrix<'_>, tiles: &mut [Tile]) -> Side {
    tiles.fill(EMPTY);
    for line in 0..lines.rows() {
        for at in 0..lines.columns() {
            let mut value = lines.entry(line, at);
            for tile in tiles.iter_mut() {
                let rounded = bf16::from_f32(value);
                tile[line].0[at] = rounded.to_bits();
                value -= rounded.to_f32();
            }
        }
    }
    Side::Left
}

/// The first `count` of the 16 values from an entry on, and zeros. They lie side by side.
#[target_feature(enable = "avx512f")]
fn load(lines: Matrix<'_>, [line, at]: [usize; 2], count: usize) -> __m512 {
    let values = if count == 0 { &[] } else { lines.values_from(line, at, count) };
    let mask = ((1_u32 << values.len().min(16)) - 1) as u16;
    // SAFETY: the mask reads `values` alone.
    unsafe { _mm512_maskz_loadu_ps(mask, values.as_ptr()) }
}

/// Rounds 32 values into a row of the first tile, and what is left of them into the same row of
/// the next one.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn store(tiles: &mut [Tile], row: usize, front: __m512, back: __m512, order: Option<__m512i>) {
    let (mut front, mut back) = (front, back);
    for tile in tiles {
        let rounded = bits(_mm512_cvtne2ps_pbh(back, front));
        front = _mm512_sub_ps(front, widened::<0>(rounded));
        back = _mm512_sub_ps(back, widened::<1>(rounded));
        let ordered = order.map_or(rounded, |order| _mm512_permutexvar_epi16(order, rounded));
        // SAFETY: a row has the size and the alignment of a vector.
        unsafe { _mm512_store_si512(tile[row].0.as_mut_ptr().cast(), ordered) };
    }
}

#[target_feature(enable = "avx512f")]
fn bits(values: __m512bh) -> __m512i {
    // SAFETY: both are 64 bytes, and any bits are a value of either.
    unsafe { std::mem::transmute(values) }
}

/// The first or the second 16 brain floats as floats.
#[target_feature(enable = "avx512f")]
fn widened<const HALF: i32>(values: __m512i) -> __m512 {
    let half = match HALF {
        0 => _mm512_castsi512_si256(values),
        _ => _mm512_extracti64x4_epi64::<1>(values),
    };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
}

/// Exchanges lines and pairs of entries, which are 16 by 16 numbers of 32 bits.
#[target_feature(enable = "avx512f")]
fn transpose(tile: &mut Tile) {
    let rows = tile.as_mut_ptr().cast::<__m512i>();
    // SAFETY: a tile is 16 vectors, aligned.
    let mut a: [__m512i; 16] = std::array::from_fn(|at| unsafe { _mm512_load_si512(rows.add(at)) });
    let mut b = a;
    for at in 0..8 {
        b[2 * at] = _mm512_unpacklo_epi32(a[2 * at], a[2 * at + 1]);
        b[2 * at + 1] = _mm512_unpackhi_epi32(a[2 * at], a[2 * at + 1]);
    }
    for at in 0..4 {
        let four = [b[4 * at], b[4 * at + 1], b[4 * at + 2], b[4 * at + 3]];
        a[4 * at] = _mm512_unpacklo_epi64(four[0], four[2]);
        a[4 * at + 1] = _mm512_unpackhi_epi64(four[0], four[2]);
        a[4 * at + 2] = _mm512_unpacklo_epi64(four[1], four[3]);
        a[4 * at + 3] = _mm512_unpackhi_epi64(four[1], four[3]);
    }
    // Of each vector the even and the odd quarters.
    for at in 0..4 {
        b[at] = _mm512_shuffle_i32x4::<0x88>(a[at], a[at + 4]);
        b[at + 4] = _mm512_shuffle_i32x4::<0xdd>(a[at], a[at + 4]);
        b[at + 8] = _mm512_shuffle_i32x4::<0x88>(a[at + 8], a[at + 12]);
        b[at + 12] = _mm512_shuffle_i32x4::<0xdd>(a[at + 8], a[at + 12]);
    }
    for at in 0..8 {
        let even = _mm512_shuffle_i32x4::<0x88>(b[at], b[at + 8]);
        let odd = _mm512_shuffle_i32x4::<0xdd>(b[at], b[at + 8]);
        // SAFETY: as above.
        unsafe {
            _mm512_store_si512(rows.add(at), even);
            _mm512_store_si512(rows.add(at + 8), odd);
        }
    }
}
