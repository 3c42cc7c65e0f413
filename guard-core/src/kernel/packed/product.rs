//! Products of packed matrices with rows of inputs.
//!
//! The sum of an output takes its terms in one order, whatever rows and outputs are computed beside it:
//! results do not depend on the batch or on the number of threads.
#![allow(
    clippy::needless_range_loop,
    reason = "loops over registers, of which some arrays share the index"
)]

use std::ops::Range;

use half::f16;

use super::inputs::Inputs;
use super::lanes::{Floats, LANES, Lanes};
use super::matrix::{Grid, PackedMatrix};
use super::tiles::{ByteTile, Eight, FloatTile, Four, FourMin, PairTile, RoundedTile, Tile};

/// Takes sums: those of 16 outputs of `T` matrices for one row.
pub(super) trait Sink<L: Lanes, const T: usize> {
    fn put(&mut self, lanes: L, row: usize, tile: usize, sums: [L::F; T]);
}

/// Calls a function with the kind of tiles that a grid has.
macro_rules! by_grid {
    ($grid:expr, $function:ident::<$lanes:ty>($($argument:expr),*)) => {
        match $grid {
            Grid::F32 => $function::<$lanes, FloatTile<'_, Floats>>($($argument),*),
            Grid::F16 => $function::<$lanes, FloatTile<'_, [f16; LANES]>>($($argument),*),
            Grid::Bf16 => $function::<$lanes, PairTile<'_>>($($argument),*),
            Grid::Bf16Products => $function::<$lanes, RoundedTile<'_>>($($argument),*),
            Grid::Eight => $function::<$lanes, ByteTile<'_, Eight>>($($argument),*),
            Grid::Four => $function::<$lanes, ByteTile<'_, Four>>($($argument),*),
            Grid::FourMin => $function::<$lanes, ByteTile<'_, FourMin>>($($argument),*),
        }
    };
}

/// Calls a function for a number of rows that is known when it is compiled.
macro_rules! by_count {
    ($count:expr, $function:ident::<$lanes:ty, $grid:ty>($($argument:expr),*)) => {
        by_count!($count, $function::<$lanes, $grid>, ($($argument),*), 1 2 3 4 5 6 7 8)
    };
    ($count:expr, $function:ident::<$lanes:ty, $grid:ty>, $arguments:tt, $($rows:literal)*) => {
        match $count {
            $($rows if $rows <= <$grid>::rows::<$lanes>() => {
                by_count!(@ $function::<$lanes, $grid, $rows> $arguments);
            })*
            _ => unreachable!("a micro-product has 1 to 8 rows"),
        }
    };
    (@ $function:ident::<$lanes:ty, $grid:ty, $rows:literal> ($($argument:expr),*)) => {
        $function::<$lanes, $grid, $rows>($($argument),*)
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
trait BothSink<L: Lanes> {
    fn put(&mut self, lanes: L, row: usize, sums: [L::F; 2]);
}

/// Neighbours in one matrix.
struct Separate<'a, S> {
    tile: usize,
    sink: &'a mut S,
}

impl<L: Lanes, S: Sink<L, 1>> BothSink<L> for Separate<'_, S> {
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

impl<L: Lanes, S: Sink<L, 2>> BothSink<L> for Together<'_, S> {
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
    sink: &mut impl BothSink<L>,
) {
    let mut row = 0;
    while row < inputs.rows {
        let count = G::rows::<L>().min(inputs.rows - row);
        let next = next.take();
        by_count!(count, some_rows::<L, G>(lanes, tiles, next, inputs, row, sink));
        row += count;
    }
}

#[inline(always)]
fn some_rows<'a, L: Lanes, G: Tile<'a>, const R: usize>(
    lanes: L,
    tiles: [G; 2],
    next: Option<[G; 2]>,
    inputs: Inputs<'_>,
    row: usize,
    sink: &mut impl BothSink<L>,
) {
    let [one, other] = if L::TWO_TILES {
        G::sums::<L, R, 2>(lanes, tiles, next, inputs, row)
    } else {
        let nexts = next.map_or([None, None], |[one, other]| [Some([one]), Some([other])]);
        let [one] = G::sums::<L, R, 1>(lanes, [tiles[0]], nexts[0], inputs, row);
        let [other] = G::sums::<L, R, 1>(lanes, [tiles[1]], nexts[1], inputs, row);
        [one, other]
    };
    for next in 0..R {
        sink.put(lanes, row + next, [one[next], other[next]]);
    }
}
