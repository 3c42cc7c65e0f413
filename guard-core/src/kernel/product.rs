//! Products of float matrices on all threads.
//!
//! The arithmetic is the crate gemm's, which burn uses as well. Here the output is not cleared
//! before it is overwritten, can be added to, and is shared out in the pieces that measured best.
#![allow(unsafe_code, reason = "gemm takes pointers, and the output is not cleared first")]

use std::ops::Range;

use rayon::prelude::*;

use super::Before;

/// A matrix inside a slice, with any strides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// The matrix whose entry `(r, c)` is at `r * row_stride + c * column_stride`; `None` when
    /// an entry would lie beyond the values.
    pub(super) fn new(
        values: &'a [f32],
        [rows, columns]: [usize; 2],
        [row_stride, column_stride]: [usize; 2],
    ) -> Option<Self> {
        let last = |count: usize, stride: usize| count.saturating_sub(1).checked_mul(stride);
        let end = last(rows, row_stride)?.checked_add(last(columns, column_stride)?)?;
        let fits = rows == 0 || columns == 0 || end < values.len();
        fits.then_some(Self { values, rows, columns, row_stride, column_stride })
    }

    /// The rows of a slice that is one matrix, row by row.
    ///
    /// # Panics
    ///
    /// When the slice has other than `rows * columns` values.
    pub(super) fn row_major(values: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(values.len(), rows * columns, "size of a matrix");
        Self { values, rows, columns, row_stride: columns, column_stride: 1 }
    }

    pub(super) fn rows(self) -> usize {
        self.rows
    }

    pub(super) fn columns(self) -> usize {
        self.columns
    }

    /// How far apart an entry and that in the next row lie, and that in the next column.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn strides(self) -> [usize; 2] {
        [self.row_stride, self.column_stride]
    }

    /// # Panics
    ///
    /// When there is no such entry.
    pub(super) fn entry(self, row: usize, column: usize) -> f32 {
        assert!(row < self.rows && column < self.columns, "place in a matrix");
        self.values[row * self.row_stride + column * self.column_stride]
    }

    /// `count` values from an entry on, as they lie in memory.
    ///
    /// # Panics
    ///
    /// When there are no such values.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn values_from(self, row: usize, column: usize, count: usize) -> &'a [f32] {
        &self.values[row * self.row_stride + column * self.column_stride..][..count]
    }

    /// Some rows and columns.
    ///
    /// # Panics
    ///
    /// When there are not as many.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn part(self, rows: Range<usize>, columns: Range<usize>) -> Self {
        assert!(rows.end <= self.rows && columns.end <= self.columns, "part of a matrix");
        let start = rows.start * self.row_stride + columns.start * self.column_stride;
        let values = self.values.get(start..).unwrap_or_default();
        Self { values, rows: rows.len(), columns: columns.len(), ..self }
    }

    pub(super) fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// `a b` in a new vector, row by row.
pub(super) fn product(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    // SAFETY: every piece of the product is written.
    unsafe { written(a.rows * b.columns, |output| shared(a, b, output, Before::Overwritten)) }
}

/// A new vector of `count` values.
///
/// # Safety
///
/// `write` writes all of them.
pub(super) unsafe fn written(count: usize, write: impl FnOnce(Output)) -> Vec<f32> {
    let mut values = Vec::with_capacity(count);
    write(Output { start: values.as_mut_ptr(), count });
    // SAFETY: there is room for them, and the caller promises that they were written.
    unsafe { values.set_len(count) };
    values
}

/// `output = factor a b` or `output += factor a b`, row by row, on the thread that calls.
///
/// # Panics
///
/// When the sizes do not fit.
pub(super) fn multiply(
    factor: f32,
    a: Matrix<'_>,
    b: Matrix<'_>,
    output: &mut [f32],
    before: Before,
) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    assert_eq!(output.len(), a.rows * b.columns, "size of the output");
    let piece = Piece { a, b, output: Output::of(output), factor, before };
    piece.compute(0..a.rows, 0..b.columns, gemm::Parallelism::None);
}

/// Multiplications below this are not worth a second thread.
const SHARED: usize = 1 << 20;

/// On more threads than this the crate's own sharing, along both dimensions, keeps them busy.
const FEW_THREADS: usize = 8;

/// `output = a b` or `output += a b`, row by row, on all threads.
///
/// # Panics
///
/// When the sizes do not fit.
pub(super) fn shared(a: Matrix<'_>, b: Matrix<'_>, output: Output, before: Before) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    assert_eq!(output.count, a.rows * b.columns, "size of the output");
    let (rows, columns) = (a.rows, b.columns);
    let whole = Piece { a, b, output, factor: 1.0, before };
    if rows * columns * a.columns < SHARED {
        return whole.compute(0..rows, 0..columns, gemm::Parallelism::None);
    }
    if rayon::current_num_threads() > FEW_THREADS {
        return whole.compute(0..rows, 0..columns, gemm::Parallelism::Rayon(0));
    }
    // Rows of a transposed matrix are packed fastest in long pieces. They do not depend on the
    // number of threads.
    let by_rows = rows > columns && a.row_stride == 1;
    let (along, piece) = match by_rows {
        true => (rows, rows.div_ceil(4).next_multiple_of(64).min(1024)),
        false => (columns, columns.div_ceil(8).next_multiple_of(96).min(384)),
    };
    (0..along.div_ceil(piece)).into_par_iter().for_each(|at| {
        let part = at * piece..along.min((at + 1) * piece);
        match by_rows {
            true => whole.compute(part, 0..columns, gemm::Parallelism::None),
            false => whole.compute(0..rows, part, gemm::Parallelism::None),
        }
    });
}

/// Where a product goes. Threads share it, each writing where no other does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    start: *mut f32,
    count: usize,
}

impl Output {
    /// These values.
    pub(super) fn of(values: &mut [f32]) -> Self {
        Self { start: values.as_mut_ptr(), count: values.len() }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn count(self) -> usize {
        self.count
    }

    /// The value at a place, or behind the last.
    pub(super) fn at(self, place: usize) -> *mut f32 {
        assert!(place <= self.count, "place in an output");
        self.start.wrapping_add(place)
    }
}

// SAFETY: `shared` hands out disjoint parts of the output, and waits for all of them.
unsafe impl Send for Output {}
// SAFETY: as above.
unsafe impl Sync for Output {}

#[derive(Clone, Copy)]
struct Piece<'a> {
    a: Matrix<'a>,
    b: Matrix<'a>,
    output: Output,
    factor: f32,
    before: Before,
}

impl Piece<'_> {
    /// Computes these rows and columns of the output, which lie within it.
    fn compute(self, rows: Range<usize>, columns: Range<usize>, threads: gemm::Parallelism) {
        let Self { a, b, output, factor, before } = self;
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        let keep = before == Before::Kept;
        let stride = |stride: usize| stride as isize;
        // SAFETY: `Matrix::new` has checked that every entry of `a` and `b` lies in its slice, and
        // rows and columns are within them; the callers see to the size of the output. It is read
        // only where its values are kept. gemm reads columns first, hence the order of strides.
        unsafe {
            gemm::gemm(
                rows.len(),
                columns.len(),
                a.columns,
                output.at(rows.start * b.columns + columns.start),
                1,
                stride(b.columns),
                keep,
                a.values.as_ptr().add(rows.start * a.row_stride),
                stride(a.column_stride),
                stride(a.row_stride),
                b.values.as_ptr().add(columns.start * b.column_stride),
                stride(b.column_stride),
                stride(b.row_stride),
                if keep { 1.0 } else { 0.0 },
                factor,
                false,
                false,
                false,
                threads,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 + seed) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    /// A matrix of noise, row by row or column by column.
    fn view(values: &[f32], [rows, columns]: [usize; 2], transposed: bool) -> Matrix<'_> {
        match transposed {
            true => Matrix::row_major(values, columns, rows).transposed(),
            false => Matrix::row_major(values, rows, columns),
        }
    }

    fn entry(matrix: Matrix<'_>, row: usize, column: usize) -> f64 {
        f64::from(matrix.entry(row, column))
    }

    fn check([rows, inner, columns]: [usize; 3], transposed: [bool; 2]) {
        let (left, right) = (noise(rows * inner, 1), noise(inner * columns, 2));
        let a = view(&left, [rows, inner], transposed[0]);
        let b = view(&right, [inner, columns], transposed[1]);
        let before = noise(rows * columns, 3);
        let mut sum = before.clone();
        multiply(0.5, a, b, &mut sum, Before::Kept);
        let mut half = vec![f32::NAN; rows * columns];
        multiply(0.5, a, b, &mut half, Before::Overwritten);
        let whole = product(a, b);
        for row in 0..rows {
            for column in 0..columns {
                let expected: f64 =
                    (0..inner).map(|at| entry(a, row, at) * entry(b, at, column)).sum();
                let at = row * columns + column;
                let near = |found: f32, expected: f64| {
                    let apart = (f64::from(found) - expected).abs();
                    assert!(apart < 1e-5 * (inner as f64 + 1.0), "{row},{column}: {apart}");
                };
                near(whole[at], expected);
                near(half[at], expected / 2.0);
                near(sum[at], f64::from(before[at]) + expected / 2.0);
            }
        }
    }

    proptest! {
        #[test]
        fn products_are_those_of_the_schoolbook(
            sizes in [0_usize..40, 0_usize..40, 0_usize..40], left: bool, right: bool,
        ) {
            check(sizes, [left, right]);
        }
    }

    #[test]
    fn shared_work_is_the_same() {
        for transposed in [[false, false], [true, false], [false, true]] {
            check([410, 40, 90], transposed);
            check([70, 40, 500], transposed);
        }
    }

    #[test]
    fn entries_beyond_the_values_are_refused() {
        let values = [0.0; 6];
        assert!(Matrix::new(&values, [2, 3], [3, 1]).is_some());
        assert!(Matrix::new(&values, [2, 3], [4, 1]).is_none());
        assert!(Matrix::new(&values, [3, 3], [3, 1]).is_none());
        assert!(Matrix::new(&values, [2, 3], [usize::MAX, 1]).is_none());
        assert!(Matrix::new(&[], [0, 3], [3, 1]).is_some());
    }
}
