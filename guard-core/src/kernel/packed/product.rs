//! Products of packed matrices with rows of inputs.
//!
//! The sum of an output takes its terms in one order, whatever rows and outputs are computed beside it:
//! results do not depend on the batch or on the number of threads.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over registers, of which some arrays share the index"
)]

use std::marker::PhantomData;
use std::ops::Range;

use half::{bf16, f16};

use super::lanes::{Bytes, Floats, LANES, Lanes};
use super::matrix::{BLOCK, Grid, InputBlock, PackedMatrix, Scales};

/// Rows of a micro-product: the sums of two tiles fill the registers.
const ROWS: usize = 6;

/// Rows of inputs, as they are and in steps. Matrices of floats take the former, others the latter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) floats: &'a [f32],
    pub(crate) blocks: &'a [InputBlock],
    pub(crate) rows: usize,
}

/// Takes sums: those of 16 outputs of `T` matrices for one row.
pub(super) trait Sink<L: Lanes, const T: usize> {
    fn put(&mut self, lanes: L, row: usize, tile: usize, sums: [L::F; T]);
}

/// A tile of a matrix, of one grid.
trait Tile<'a>: Copy {
    fn of(matrix: &'a PackedMatrix, tile: usize) -> Self;

    /// The sums of `R` rows from `row` on with `T` tiles. The tiles that are read next are fetched meanwhile.
    fn sums<L: Lanes, const R: usize, const T: usize>(
        lanes: L,
        tiles: [Self; T],
        next: Option<[Self; T]>,
        inputs: Inputs<'_>,
        row: usize,
    ) -> [[L::F; R]; T];
}

/// Calls a function with the kind of tiles that a grid has.
macro_rules! by_grid {
    ($grid:expr, $function:ident::<$lanes:ty>($($argument:expr),*)) => {
        match $grid {
            Grid::F32 => $function::<$lanes, FloatTile<'_, Floats>>($($argument),*),
            Grid::F16 => $function::<$lanes, FloatTile<'_, [f16; LANES]>>($($argument),*),
            Grid::Bf16 => $function::<$lanes, FloatTile<'_, [bf16; LANES]>>($($argument),*),
            Grid::Eight => $function::<$lanes, ByteTile<'_, Eight>>($($argument),*),
            Grid::Four => $function::<$lanes, ByteTile<'_, Four>>($($argument),*),
            Grid::FourMin => $function::<$lanes, ByteTile<'_, FourMin>>($($argument),*),
        }
    };
}

/// The tiles of `range` times all rows.
#[inline(always)]
pub(super) fn product<L: Lanes>(
    lanes: L,
    matrix: &PackedMatrix,
    range: Range<usize>,
    inputs: Inputs<'_>,
    sink: &mut impl Sink<L, 1>,
) {
    by_grid!(matrix.grid(), one::<L>(lanes, matrix, range, inputs, sink));
}

/// The same tiles of two matrices of one grid times all rows.
#[inline(always)]
pub(super) fn two_products<L: Lanes>(
    lanes: L,
    matrices: [&PackedMatrix; 2],
    range: Range<usize>,
    inputs: Inputs<'_>,
    sink: &mut impl Sink<L, 2>,
) {
    by_grid!(matrices[0].grid(), two::<L>(lanes, matrices, range, inputs, sink));
}

#[inline(always)]
fn one<'a, L: Lanes, G: Tile<'a>>(
    lanes: L,
    matrix: &'a PackedMatrix,
    range: Range<usize>,
    inputs: Inputs<'_>,
    sink: &mut impl Sink<L, 1>,
) {
    let mut tile = range.start;
    // A single row is bound by reading the matrix, and four streams of memory are faster than two.
    while inputs.rows == 1 && tile + 4 <= range.end {
        let tiles = [0, 1, 2, 3].map(|next| G::of(matrix, tile + next));
        let sums = G::sums::<L, 1, 4>(lanes, tiles, None, inputs, 0);
        for next in 0..4 {
            sink.put(lanes, 0, tile + next, sums[next]);
        }
        tile += 4;
    }
    while tile < range.end {
        if tile + 1 == range.end {
            for row in 0..inputs.rows {
                let sums = G::sums::<L, 1, 1>(lanes, [G::of(matrix, tile)], None, inputs, row);
                sink.put(lanes, row, tile, sums[0]);
            }
            return;
        }
        let tiles = [G::of(matrix, tile), G::of(matrix, tile + 1)];
        let next = (inputs.rows > 1 && tile + 4 <= range.end)
            .then(|| [G::of(matrix, tile + 2), G::of(matrix, tile + 3)]);
        all_rows::<L, G>(lanes, tiles, next, inputs, &mut Separate { tile, sink });
        tile += 2;
    }
}

#[inline(always)]
fn two<'a, L: Lanes, G: Tile<'a>>(
    lanes: L,
    matrices: [&'a PackedMatrix; 2],
    range: Range<usize>,
    inputs: Inputs<'_>,
    sink: &mut impl Sink<L, 2>,
) {
    let end = range.end;
    for tile in range {
        let tiles = [G::of(matrices[0], tile), G::of(matrices[1], tile)];
        let next = (inputs.rows > 1 && tile + 1 < end)
            .then(|| [G::of(matrices[0], tile + 1), G::of(matrices[1], tile + 1)]);
        all_rows::<L, G>(lanes, tiles, next, inputs, &mut Together { tile, sink });
    }
}

/// What becomes of the sums of two tiles.
trait PairSink<L: Lanes> {
    fn put(&mut self, lanes: L, row: usize, sums: [L::F; 2]);
}

/// Neighbours in one matrix.
struct Separate<'a, S> {
    tile: usize,
    sink: &'a mut S,
}

impl<L: Lanes, S: Sink<L, 1>> PairSink<L> for Separate<'_, S> {
    #[inline(always)]
    fn put(&mut self, lanes: L, row: usize, sums: [L::F; 2]) {
        self.sink.put(lanes, row, self.tile, [sums[0]]);
        self.sink.put(lanes, row, self.tile + 1, [sums[1]]);
    }
}

/// The same tile of two matrices.
struct Together<'a, S> {
    tile: usize,
    sink: &'a mut S,
}

impl<L: Lanes, S: Sink<L, 2>> PairSink<L> for Together<'_, S> {
    #[inline(always)]
    fn put(&mut self, lanes: L, row: usize, sums: [L::F; 2]) {
        self.sink.put(lanes, row, self.tile, sums);
    }
}

#[inline(always)]
fn all_rows<'a, L: Lanes, G: Tile<'a>>(
    lanes: L,
    tiles: [G; 2],
    mut next: Option<[G; 2]>,
    inputs: Inputs<'_>,
    sink: &mut impl PairSink<L>,
) {
    let mut row = 0;
    while row + ROWS <= inputs.rows {
        some_rows::<L, G, ROWS>(lanes, tiles, next.take(), inputs, row, sink);
        row += ROWS;
    }
    match inputs.rows - row {
        1 => some_rows::<L, G, 1>(lanes, tiles, next, inputs, row, sink),
        2 => some_rows::<L, G, 2>(lanes, tiles, next, inputs, row, sink),
        3 => some_rows::<L, G, 3>(lanes, tiles, next, inputs, row, sink),
        4 => some_rows::<L, G, 4>(lanes, tiles, next, inputs, row, sink),
        5 => some_rows::<L, G, 5>(lanes, tiles, next, inputs, row, sink),
        _ => {}
    }
}

#[inline(always)]
fn some_rows<'a, L: Lanes, G: Tile<'a>, const R: usize>(
    lanes: L,
    tiles: [G; 2],
    next: Option<[G; 2]>,
    inputs: Inputs<'_>,
    row: usize,
    sink: &mut impl PairSink<L>,
) {
    let sums = G::sums::<L, R, 2>(lanes, tiles, next, inputs, row);
    for next in 0..R {
        sink.put(lanes, row + next, [sums[0][next], sums[1][next]]);
    }
}

/// Rows `row` and following.
#[inline(always)]
fn rows_of<T, const R: usize>(all: &[T], width: usize, row: usize) -> [&[T]; R] {
    std::array::from_fn(|next| &all[(row + next) * width..][..width])
}

/// Sixteen weights that stand for themselves.
trait FloatLine: Sized {
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

impl FloatLine for [bf16; LANES] {
    #[inline(always)]
    fn tile(matrix: &PackedMatrix, tile: usize) -> &[Self] {
        matrix.tile_bf16(tile)
    }
    #[inline(always)]
    fn load<L: Lanes>(&self, lanes: L) -> L::F {
        lanes.load_bf16(self)
    }
}

#[derive(Clone, Copy)]
struct FloatTile<'a, N>(&'a [N]);

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
        let tiles: [&[N]; T] = std::array::from_fn(|tile| &tiles[tile].0[..width]);
        let next: Option<[&[N]; T]> =
            next.map(|next| std::array::from_fn(|tile| &next[tile].0[..width]));
        let mut sums = [[lanes.splat(0.0); R]; T];
        for at in 0..width {
            if let Some(next) = &next {
                for tile in 0..T {
                    lanes.prefetch(&next[tile][at]);
                }
            }
            let mut weights = [tiles[0][at].load(lanes); T];
            for tile in 1..T {
                weights[tile] = tiles[tile][at].load(lanes);
            }
            for row in 0..R {
                let input = lanes.splat(rows[row][at]);
                for tile in 0..T {
                    sums[tile][row] = lanes.mul_add(weights[tile], input, sums[tile][row]);
                }
            }
        }
        sums
    }
}

/// How the bytes of a block hold its weights.
trait ByteGrid: Copy {
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
struct Eight;
#[derive(Clone, Copy)]
struct Four;
#[derive(Clone, Copy)]
struct FourMin;

#[derive(Clone, Copy)]
struct ByteTile<'a, G> {
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
                            let dot = lanes.dot(dots[tile][row], low, four_inputs(inputs[row], at));
                            dots[tile][row] =
                                lanes.dot(dot, high, four_inputs(inputs[row], at + 4));
                        }
                    }
                }
            }
        }
    };
}

half_bytes!(Four, 8);
half_bytes!(FourMin, 0);
