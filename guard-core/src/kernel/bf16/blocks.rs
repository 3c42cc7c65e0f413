//! A product cut into what fits the caches, its factors packed, and its squares shared by threads.
#![allow(unsafe_code, reason = "threads write into one output")]

use std::ops::Range;

use rayon::prelude::*;

use super::Parts;
use super::pack::{LINES, Packed, Side, Tile};
use crate::kernel::Before;
use crate::kernel::product::{Matrix, Output};

/// Entries of the inner dimension, rows and columns that are packed at a time: both factors stay
/// in the cache of a core while they are multiplied.
const DEEP: usize = 1024;
const TALL: usize = 2048;
const WIDE: usize = 2048;

/// Rows and columns of a task, in pairs of blocks of lines.
const TASK_ROWS: usize = 8;
const TASK_COLUMNS: usize = 4;

/// Lines of two blocks.
pub(super) const PAIR: usize = 2 * LINES;

/// The instructions that multiply two blocks of lines of each factor.
pub(super) trait Kernel {
    /// # Safety
    ///
    /// The processor has the instructions, and nobody else on this thread changes what they need
    /// meanwhile.
    unsafe fn on_this_thread() -> Self;

    /// 32 rows and columns of the output.
    ///
    /// # Panics
    ///
    /// When the factors have fewer tiles than two blocks, or none.
    ///
    /// # Safety
    ///
    /// The square points to 32 rows of 32 values that may be written, and read if they are kept.
    unsafe fn multiply(&self, parts: Parts, job: Job<'_>, square: Square);
}

/// Two blocks of lines of each factor.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) left: &'a [Tile],
    pub(super) right: &'a [Tile],
    /// Tiles of a block of lines.
    pub(super) steps: usize,
}

/// Where 32 rows and columns go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Square {
    pub(super) output: *mut f32,
    /// Values from one row to the next.
    pub(super) stride: usize,
    /// Whether the product is added to what is there.
    pub(super) keep: bool,
}

/// `output = a b` or `output += a b`, row by row, on all threads.
///
/// # Panics
///
/// When the sizes do not fit.
///
/// # Safety
///
/// The processor has the kernel's instructions, and AVX-512 F, BW and BF16.
pub(super) unsafe fn multiply<K: Kernel>(
    parts: Parts,
    a: Matrix<'_>,
    b: Matrix<'_>,
    output: Output,
    before: Before,
) {
    assert_eq!(a.columns(), b.rows(), "inner dimensions");
    let (rows, inner, columns) = (a.rows(), a.columns(), b.columns());
    assert_eq!(output.count(), rows * columns, "size of the output");
    if inner == 0 && before == Before::Overwritten {
        // SAFETY: the output has as many values.
        return unsafe { std::ptr::write_bytes(output.at(0), 0, output.count()) };
    }
    let b = b.transposed();
    let (mut left, mut right) = (Packed::default(), Packed::default());
    for wide in chunks(columns, WIDE) {
        for deep in chunks(inner, DEEP) {
            // SAFETY: the caller promises the features.
            unsafe { right.fill(b.part(wide.clone(), deep.clone()), Side::Right, parts) };
            for tall in chunks(rows, TALL) {
                // SAFETY: as above.
                unsafe { left.fill(a.part(tall.clone(), deep.clone()), Side::Left, parts) };
                let keep = before == Before::Kept || deep.start > 0;
                let chunk = Chunk {
                    parts,
                    factors: [&left, &right],
                    first: [tall.start, wide.start],
                    sizes: [tall.len(), wide.len()],
                    output,
                    stride: columns,
                    keep,
                };
                // SAFETY: the caller promises the instructions.
                unsafe { chunk.multiply::<K>() };
            }
        }
    }
}

fn chunks(count: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(size).map(move |start| start..count.min(start + size))
}

/// Packed factors, and where their product goes.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    parts: Parts,
    factors: [&'a Packed; 2],
    /// The row and the column of the output where the product begins, and how many it has.
    first: [usize; 2],
    sizes: [usize; 2],
    output: Output,
    /// Values from one row of the output to the next.
    stride: usize,
    /// Whether the product is added to what is there.
    keep: bool,
}

impl Chunk<'_> {
    /// # Safety
    ///
    /// The processor has the kernel's instructions.
    unsafe fn multiply<K: Kernel>(self) {
        let [rows, columns] = self.sizes.map(|size| size.div_ceil(PAIR));
        let across = columns.div_ceil(TASK_COLUMNS);
        (0..rows.div_ceil(TASK_ROWS) * across).into_par_iter().for_each(|task| {
            let (row, column) = (task / across * TASK_ROWS, task % across * TASK_COLUMNS);
            // SAFETY: the caller's promise; nothing below uses another kernel.
            let kernel = unsafe { K::on_this_thread() };
            for column in column..columns.min(column + TASK_COLUMNS) {
                for row in row..rows.min(row + TASK_ROWS) {
                    self.square(&kernel, [row, column]);
                }
            }
        });
    }

    /// 32 rows by 32 columns, or what there is of them.
    fn square<K: Kernel>(self, kernel: &K, at: [usize; 2]) {
        let [row, column] = at;
        let [rows, columns] = [0, 1].map(|axis| PAIR.min(self.sizes[axis] - at[axis] * PAIR));
        let job = Job {
            left: self.factors[0].block(2 * row),
            right: self.factors[1].block(2 * column),
            steps: self.factors[0].tiles_per_block(),
        };
        let row = self.first[0] + row * PAIR;
        let target = self.output.at(row * self.stride + self.first[1] + column * PAIR);
        if rows == PAIR && columns == PAIR {
            let square = Square { output: target, stride: self.stride, keep: self.keep };
            // SAFETY: all 32 rows and columns lie within the output, and no other task has them.
            return unsafe { kernel.multiply(self.parts, job, square) };
        }
        let mut whole = [0.0_f32; PAIR * PAIR];
        let square = Square { output: whole.as_mut_ptr(), stride: PAIR, keep: false };
        // SAFETY: the array is of this size.
        unsafe { kernel.multiply(self.parts, job, square) };
        for (row, values) in whole.chunks_exact(PAIR).take(rows).enumerate() {
            for (column, value) in values[..columns].iter().enumerate() {
                // SAFETY: these rows and columns lie within the output, and no other task has them.
                let sum = unsafe { target.add(row * self.stride + column) };
                // SAFETY: as above; what is kept was written before.
                unsafe { sum.write(if self.keep { *sum + value } else { *value }) };
            }
        }
    }
}
