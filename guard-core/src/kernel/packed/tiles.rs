//! The sums of rows with tiles of a matrix, by how the grid keeps its weights.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over registers, of which some arrays share the index"
)]

use std::marker::PhantomData;

use half::f16;

use super::inputs::Inputs;
use super::lanes::{Bytes, Floats, LANES, Lanes, Pair};
use super::matrix::{BLOCK, InputBlock, PackedMatrix, Scales};

/// A tile of a matrix, of one grid.
pub(super) trait Tile<'a>: Copy {
    fn of(matrix: &'a PackedMatrix, tile: usize) -> Self;

    /// Rows of a micro-product, at most 8.
    #[inline(always)]
    fn rows<L: Lanes>() -> usize {
        L::ROWS
    }

    /// The sums of `R` rows from `row` on with `T` tiles. The tiles that are read next are fetched meanwhile.
    fn sums<L: Lanes, const R: usize, const T: usize>(
        lanes: L,
        tiles: [Self; T],
        next: Option<[Self; T]>,
        inputs: Inputs<'_>,
        row: usize,
    ) -> [[L::F; R]; T];
}

/// Rows `row` and following.
#[inline(always)]
fn rows_of<T, const R: usize>(all: &[T], width: usize, row: usize) -> [&[T]; R] {
    std::array::from_fn(|next| &all[(row + next) * width..][..width])
}

/// Adds the products of weights and of each row's input: of a group of them the one of a number.
#[inline(always)]
fn add_products<L: Lanes, const R: usize, const T: usize, const N: usize>(
    lanes: L,
    sums: &mut [[L::F; R]; T],
    weights: [L::F; T],
    rows: [&[[f32; N]]; R],
    [at, which]: [usize; 2],
) {
    for row in 0..R {
        let input = lanes.splat(rows[row][at][which]);
        for tile in 0..T {
            sums[tile][row] = lanes.mul_add(weights[tile], input, sums[tile][row]);
        }
    }
}

/// Sixteen weights that stand for themselves.
pub(super) trait FloatLine: Sized {
    fn tile(matrix: &PackedMatrix, tile: usize) -> &[Self];
    fn load<L: Lanes>(&self, lanes: L) -> L::F;
}

impl FloatLine for Floats {
    #[inline(always)]
    fn tile(matrix: &PackedMatrix, tile: usize) -> &[Self] {
        matrix.tile_floats(tile)
    }
    #[inline(always)]
    fn load<L: Lanes>(&self, lanes: L) -> L::F {
        lanes.load(&self.0)
    }
}

impl FloatLine for [f16; LANES] {
    #[inline(always)]
    fn tile(matrix: &PackedMatrix, tile: usize) -> &[Self] {
        matrix.tile_f16(tile)
    }
    #[inline(always)]
    fn load<L: Lanes>(&self, lanes: L) -> L::F {
        lanes.load_f16(self)
    }
}

#[derive(Clone, Copy)]
pub(super) struct FloatTile<'a, N>(&'a [N]);

impl<'a, N: FloatLine + Copy> Tile<'a> for FloatTile<'a, N> {
    #[inline(always)]
    fn of(matrix: &'a PackedMatrix, tile: usize) -> Self {
        Self(N::tile(matrix, tile))
    }

    #[inline(always)]
    fn sums<L: Lanes, const R: usize, const T: usize>(
        lanes: L,
        tiles: [Self; T],
        next: Option<[Self; T]>,
        inputs: Inputs<'_>,
        row: usize,
    ) -> [[L::F; R]; T] {
        let width = tiles[0].0.len();
        let rows: [&[f32]; R] = rows_of(inputs.floats, width, row);
        let rows: [&[[f32; 1]]; R] = std::array::from_fn(|row| &rows[row].as_chunks().0[..width]);
        let tiles: [&[N]; T] = std::array::from_fn(|tile| &tiles[tile].0[..width]);
        let next: Option<[&[N]; T]> =
            next.map(|next| std::array::from_fn(|tile| &next[tile].0[..width]));
        let mut sums = [[lanes.splat(0.0); R]; T];
        for at in 0..width {
            prefetch_line(lanes, next, at);
            let mut weights = [tiles[0][at].load(lanes); T];
            for tile in 1..T {
                weights[tile] = tiles[tile][at].load(lanes);
            }
            add_products(lanes, &mut sums, weights, rows, [at, 0]);
        }
        sums
    }
}

/// Lines of pairs of brain floats, for inputs as they are.
#[derive(Clone, Copy)]
pub(super) struct PairTile<'a> {
    lines: &'a [Bytes],
    width: usize,
}

impl<'a> Tile<'a> for PairTile<'a> {
    #[inline(always)]
    fn of(matrix: &'a PackedMatrix, tile: usize) -> Self {
        Self { lines: matrix.tile_bytes(tile), width: matrix.inputs() }
    }

    #[inline(always)]
    fn sums<L: Lanes, const R: usize, const T: usize>(
        lanes: L,
        tiles: [Self; T],
        next: Option<[Self; T]>,
        inputs: Inputs<'_>,
        row: usize,
    ) -> [[L::F; R]; T] {
        let width = tiles[0].width;
        let rows: [&[f32]; R] = rows_of(inputs.floats, width, row);
        let whole = width / 2;
        let pairs: [&[[f32; 2]]; R] = std::array::from_fn(|row| &rows[row].as_chunks().0[..whole]);
        let lines: [&[Bytes]; T] = std::array::from_fn(|tile| &tiles[tile].lines[..whole]);
        let next = next.map(|next| next.map(|next| &next.lines[..whole]));
        let mut sums = [[lanes.splat(0.0); R]; T];
        for at in 0..whole {
            prefetch_line(lanes, next, at);
            let mut weights = [lanes.load_first(&lines[0][at]); T];
            for tile in 1..T {
                weights[tile] = lanes.load_first(&lines[tile][at]);
            }
            add_products(lanes, &mut sums, weights, pairs, [at, 0]);
            for tile in 0..T {
                weights[tile] = lanes.load_second(&lines[tile][at]);
            }
            add_products(lanes, &mut sums, weights, pairs, [at, 1]);
        }
        if width % 2 == 1 {
            let mut weights = [lanes.splat(0.0); T];
            for tile in 0..T {
                weights[tile] = lanes.load_first(&tiles[tile].lines[whole]);
            }
            let last: [&[[f32; 1]]; R] = std::array::from_fn(|row| rows[row].as_chunks().0);
            add_products(lanes, &mut sums, weights, last, [width - 1, 0]);
        }
        sums
    }
}

/// The same for inputs that are rounded to brain floats, and in pairs where there is an instruction for them.
#[derive(Clone, Copy)]
pub(super) struct RoundedTile<'a>(PairTile<'a>);

impl<'a> Tile<'a> for RoundedTile<'a> {
    #[inline(always)]
    fn of(matrix: &'a PackedMatrix, tile: usize) -> Self {
        Self(PairTile::of(matrix, tile))
    }

    /// The instruction takes longer than others, and more of them have to be under way.
    #[inline(always)]
    fn rows<L: Lanes>() -> usize {
        if L::HAS_PAIRS { 8 } else { L::ROWS }
    }

    #[inline(always)]
    fn sums<L: Lanes, const R: usize, const T: usize>(
        lanes: L,
        tiles: [Self; T],
        next: Option<[Self; T]>,
        inputs: Inputs<'_>,
        row: usize,
    ) -> [[L::F; R]; T] {
        let (tiles, next) = (tiles.map(|tile| tile.0), next.map(|next| next.map(|tile| tile.0)));
        if !L::HAS_PAIRS {
            return PairTile::sums::<L, R, T>(lanes, tiles, next, inputs, row);
        }
        let width = tiles[0].lines.len();
        let rows: [&[Pair]; R] = rows_of(inputs.pairs, width, row);
        let lines: [&[Bytes]; T] = std::array::from_fn(|tile| &tiles[tile].lines[..width]);
        let next = next.map(|next| next.map(|next| &next.lines[..width]));
        let mut sums = [[lanes.splat(0.0); R]; T];
        for at in 0..width {
            prefetch_line(lanes, next, at);
            for row in 0..R {
                for tile in 0..T {
                    let line = &lines[tile][at];
                    sums[tile][row] = lanes.dot_pairs(sums[tile][row], line, rows[row][at]);
                }
            }
        }
        sums
    }
}

/// Begins to fetch a line of each of the tiles that are read next.
#[inline(always)]
fn prefetch_line<L: Lanes, N, const T: usize>(lanes: L, next: Option<[&[N]; T]>, at: usize) {
    if let Some(next) = next {
        for tile in 0..T {
            lanes.prefetch(&next[tile][at]);
        }
    }
}

/// How the bytes of a block hold its weights.
pub(super) trait ByteGrid: Copy {
    /// Lines of bytes of a block.
    const LINES: usize;
    /// So much less than its byte or half-byte is a weight, in steps; 0 where there are minima.
    const OFFSET: i32;

    /// The same for a weight as the lanes have it.
    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        Self::OFFSET
    }

    /// Adds the products of a block with each row's.
    fn dots<L: Lanes, const R: usize, const T: usize>(
        lanes: L,
        bytes: [&[Bytes]; T],
        inputs: [&InputBlock; R],
        dots: &mut [[L::I; R]; T],
    );
}

#[derive(Clone, Copy)]
pub(super) struct Eight;
#[derive(Clone, Copy)]
pub(super) struct Four;
#[derive(Clone, Copy)]
pub(super) struct FourMin;

#[derive(Clone, Copy)]
pub(super) struct ByteTile<'a, G> {
    bytes: &'a [Bytes],
    scales: &'a [Scales],
    minima: &'a [Scales],
    grid: PhantomData<G>,
}

impl<'a, G: ByteGrid> Tile<'a> for ByteTile<'a, G> {
    #[inline(always)]
    fn of(matrix: &'a PackedMatrix, tile: usize) -> Self {
        let (bytes, scales) = (matrix.tile_bytes(tile), matrix.tile_scales(tile));
        Self { bytes, scales, minima: matrix.tile_minima(tile), grid: PhantomData }
    }

    /// Sums of integers a block, of which the scales make floats.
    #[inline(always)]
    fn sums<L: Lanes, const R: usize, const T: usize>(
        lanes: L,
        tiles: [Self; T],
        next: Option<[Self; T]>,
        inputs: Inputs<'_>,
        row: usize,
    ) -> [[L::F; R]; T] {
        let blocks = tiles[0].scales.len();
        let rows: [&[InputBlock]; R] = rows_of(inputs.blocks, blocks, row);
        let bytes: [&[Bytes]; T] =
            std::array::from_fn(|tile| &tiles[tile].bytes[..blocks * G::LINES]);
        let scales: [&[Scales]; T] = std::array::from_fn(|tile| &tiles[tile].scales[..blocks]);
        let mut sums = [[lanes.splat(0.0); R]; T];
        for block in 0..blocks {
            if let Some(next) = &next {
                for tile in 0..T {
                    for line in &next[tile].bytes[block * G::LINES..][..G::LINES] {
                        lanes.prefetch(line);
                    }
                    lanes.prefetch(&next[tile].scales[block]);
                }
            }
            let inputs: [&InputBlock; R] = std::array::from_fn(|row| &rows[row][block]);
            let bytes: [&[Bytes]; T] =
                std::array::from_fn(|tile| &bytes[tile][block * G::LINES..][..G::LINES]);
            let mut first = [lanes.splat_i32(0); R];
            for row in 0..R {
                first[row] = lanes.splat_i32(-G::offset::<L>() * inputs[row].sum);
            }
            let mut dots = [first; T];
            G::dots::<L, R, T>(lanes, bytes, inputs, &mut dots);
            for tile in 0..T {
                let scale = lanes.load_f16(&scales[tile][block]);
                for row in 0..R {
                    let scale = lanes.mul(scale, lanes.splat(inputs[row].scale));
                    let dot = lanes.to_f32(dots[tile][row]);
                    sums[tile][row] = lanes.mul_add(dot, scale, sums[tile][row]);
                }
                if G::OFFSET == 0 {
                    let minimum = lanes.load_f16(&tiles[tile].minima[block]);
                    for row in 0..R {
                        let sum = lanes.splat(inputs[row].scale * inputs[row].sum as f32);
                        sums[tile][row] = lanes.mul_add(minimum, sum, sums[tile][row]);
                    }
                }
            }
        }
        sums
    }
}

#[inline(always)]
fn four_inputs(block: &InputBlock, at: usize) -> [i8; 4] {
    block.steps.as_chunks::<4>().0[at]
}

impl ByteGrid for Eight {
    const LINES: usize = BLOCK / 4;
    const OFFSET: i32 = 128;

    #[inline(always)]
    fn offset<L: Lanes>() -> i32 {
        Self::OFFSET - L::LESS
    }

    #[inline(always)]
    fn dots<L: Lanes, const R: usize, const T: usize>(
        lanes: L,
        bytes: [&[Bytes]; T],
        inputs: [&InputBlock; R],
        dots: &mut [[L::I; R]; T],
    ) {
        for at in 0..BLOCK / 4 {
            let mut weights = [lanes.load_bytes(&bytes[0][at]); T];
            for tile in 1..T {
                weights[tile] = lanes.load_bytes(&bytes[tile][at]);
            }
            for row in 0..R {
                for tile in 0..T {
                    let four = four_inputs(inputs[row], at);
                    dots[tile][row] = lanes.dot(dots[tile][row], weights[tile], four);
                }
            }
        }
    }
}

/// The two grids of half-bytes differ in their offset.
macro_rules! half_bytes {
    ($name:ident, $offset:expr) => {
        impl ByteGrid for $name {
            const LINES: usize = BLOCK / 8;
            const OFFSET: i32 = $offset;

            #[inline(always)]
            fn dots<L: Lanes, const R: usize, const T: usize>(
                lanes: L,
                bytes: [&[Bytes]; T],
                inputs: [&InputBlock; R],
                dots: &mut [[L::I; R]; T],
            ) {
                for at in 0..BLOCK / 8 {
                    for tile in 0..T {
                        let (low, high) = lanes.nibbles(&bytes[tile][at]);
                        for row in 0..R {
                            let dot = lanes.dot_nibbles(
                                dots[tile][row],
                                low,
                                four_inputs(inputs[row], at),
                            );
                            dots[tile][row] =
                                lanes.dot_nibbles(dot, high, four_inputs(inputs[row], at + 4));
                        }
                    }
                }
            }
        }
    };
}

half_bytes!(Four, 8);
half_bytes!(FourMin, 0);
