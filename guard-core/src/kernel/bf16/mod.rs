//! Products of matrices whose entries are 16-bit brain floats (bf16), summed in 32-bit floats.
//!
//! The factors come as 32-bit floats and are rounded while they are packed. Processors with tile
//! registers (AMX) multiply them several times faster than 32-bit floats, those with AVX-512 BF16
//! up to twice as fast; on others the rounded values go through the product of 32-bit floats, which
//! gives the same result but for the order of sums and for numbers below 2^-126, which those
//! instructions take for zero.

#![allow(unsafe_code, reason = "the output is not cleared first")]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod blocks;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod vectors;

use half::bf16;
use rayon::prelude::*;

use super::Before;
use super::product::{self, Matrix, Output};

/// How a 32-bit float is written in brain floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// The nearest one: 8 bits of the significand.
    One,
    /// The nearest one, and the nearest to what is left: 16 bits. A product of two is the sum of
    /// three products, the least of the four left out.
    Two,
}

/// `a b` in a new vector, row by row.
pub(super) fn product(parts: Parts, a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    let write = |output| multiply(parts, a, b, output, Before::Overwritten);
    // SAFETY: the whole product is written.
    unsafe { product::written(a.rows() * b.columns(), write) }
}

/// `output = a b` or `output += a b`, row by row, on all threads.
///
/// # Panics
///
/// When the sizes do not fit.
pub(super) fn multiply(parts: Parts, a: Matrix<'_>, b: Matrix<'_>, output: Output, before: Before) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if amx::available() {
        // SAFETY: the processor has the instructions.
        return unsafe { blocks::multiply::<amx::Tiles>(parts, a, b, output, before) };
    }
    #[cfg(target_arch = "x86_64")]
    if parts == Parts::One && vectors::available() {
        // SAFETY: the processor has the instructions.
        return unsafe { blocks::multiply::<vectors::Vectors>(parts, a, b, output, before) };
    }
    multiply_rounded(parts, a, b, output, before);
}

/// [`multiply`] through the product of 32-bit floats.
fn multiply_rounded(parts: Parts, a: Matrix<'_>, b: Matrix<'_>, output: Output, before: Before) {
    match parts {
        Parts::One => {
            let (left, right) = (rounded(a), rounded(b));
            let (rows, inner, columns) = (a.rows(), a.columns(), b.columns());
            let a = Matrix::row_major(&left, rows, inner);
            product::shared(a, Matrix::row_major(&right, inner, columns), output, before);
        }
        // 32-bit floats are no slower here, and more exact.
        Parts::Two => product::shared(a, b, output, before),
    }
}

/// The entries of a matrix, row by row, each the nearest brain float.
fn rounded(matrix: Matrix<'_>) -> Vec<f32> {
    let columns = matrix.columns();
    let mut values = vec![0.0; matrix.rows() * columns];
    values.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, values)| {
        for (column, value) in values.iter_mut().enumerate() {
            *value = bf16::from_f32(matrix.entry(row, column)).to_f32();
        }
    });
    values
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn noise(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 + seed) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    fn view(values: &[f32], [rows, columns]: [usize; 2], transposed: bool) -> Matrix<'_> {
        match transposed {
            true => Matrix::row_major(values, columns, rows).transposed(),
            false => Matrix::row_major(values, rows, columns),
        }
    }

    /// What `parts` keep of a value.
    fn kept(parts: Parts, value: f32) -> f64 {
        let first = bf16::from_f32(value).to_f32();
        match parts {
            Parts::One => f64::from(first),
            Parts::Two => f64::from(first) + bf16::from_f32(value - first).to_f64(),
        }
    }

    fn check(parts: Parts, [rows, inner, columns]: [usize; 3], transposed: [bool; 2]) {
        let (left, right) = (noise(rows * inner, 1), noise(inner * columns, 2));
        let a = view(&left, [rows, inner], transposed[0]);
        let b = view(&right, [inner, columns], transposed[1]);
        let before = noise(rows * columns, 3);
        let mut sum = before.clone();
        multiply(parts, a, b, Output::of(&mut sum), Before::Kept);
        let found = product(parts, a, b);
        let mut sums = vec![("tiles, or the best there is", sum)];
        let mut without = before.clone();
        multiply_rounded(parts, a, b, Output::of(&mut without), Before::Kept);
        sums.push(("32-bit floats", without));
        #[cfg(target_arch = "x86_64")]
        if parts == Parts::One && vectors::available() {
            let mut sum = before.clone();
            let output = Output::of(&mut sum);
            // SAFETY: the processor has the instructions.
            unsafe { blocks::multiply::<vectors::Vectors>(parts, a, b, output, Before::Kept) };
            sums.push(("vectors", sum));
        }
        // Of two parts the least of four products is left out, and what the parts do not hold,
        // which is 2^-17 of a factor.
        let tolerance = (inner as f64 + 1.0) * if parts == Parts::One { 1e-6 } else { 2e-5 };
        for row in 0..rows {
            for column in 0..columns {
                let term = |at| kept(parts, a.entry(row, at)) * kept(parts, b.entry(at, column));
                let expected: f64 = (0..inner).map(term).sum();
                let at = row * columns + column;
                let apart = (f64::from(found[at]) - expected).abs();
                assert!(apart < tolerance, "{parts:?} {row},{column}: {apart}");
                for (way, sum) in &sums {
                    let apart = (f64::from(sum[at]) - expected - f64::from(before[at])).abs();
                    assert!(apart < tolerance + 1e-6, "{parts:?}, {way} {row},{column}: {apart}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn products_are_those_of_the_rounded_factors(
            sizes in [0_usize..70, 0_usize..70, 0_usize..70], left: bool, right: bool, two: bool,
        ) {
            check(if two { Parts::Two } else { Parts::One }, sizes, [left, right]);
        }
    }

    /// More than one chunk of each dimension, and more than one task.
    #[test]
    fn large_products_are_made_in_chunks() {
        for parts in [Parts::One, Parts::Two] {
            for transposed in [[false, false], [false, true], [true, false]] {
                check(parts, [2100, 33, 40], transposed);
                check(parts, [40, 33, 2100], transposed);
                check(parts, [35, 2100, 37], transposed);
            }
        }
    }

    #[test]
    fn strides_need_not_be_1() {
        let values = noise(2 * 40 * 50, 4);
        let spread = Matrix::new(&values, [40, 50], [100, 2]).unwrap();
        let dense: Vec<f32> = (0..40 * 50).map(|at| values[at / 50 * 100 + at % 50 * 2]).collect();
        let other = noise(50 * 20, 5);
        let other = Matrix::row_major(&other, 50, 20);
        let expected = product(Parts::One, Matrix::row_major(&dense, 40, 50), other);
        assert_eq!(product(Parts::One, spread, other), expected);
        let expected =
            product(Parts::One, other.transposed(), Matrix::row_major(&dense, 40, 50).transposed());
        assert_eq!(product(Parts::One, other.transposed(), spread.transposed()), expected);
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let (bad, good) = ([f32::NAN, 1.0, 2.0, 3.0], [1.0; 4]);
        let (a, b) = (Matrix::row_major(&bad, 2, 2), Matrix::row_major(&good, 2, 2));
        for parts in [Parts::One, Parts::Two] {
            let found = product(parts, a, b);
            assert!(found[0].is_nan() && found[1].is_nan() && found[2] == 5.0, "{found:?}");
        }
    }
}
