//! Each kernel, compiled for all vectors that a processor may have.
#![allow(unsafe_code, reason = "functions for instructions that not every processor has")]

use std::ops::Range;
use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use super::arm::Neon;
use super::attention::{self, HeadPage};
use super::elementwise;
use super::inputs::Inputs;
use super::lanes::{LANES, Lanes, Pair, Portable};
use super::matrix::{InputBlock, PackedMatrix};
use super::product::{self, Sink};
use super::shared::Shared;
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512, Avx512Bf16, AvxVnni};

/// The vectors of a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Plain Rust.
    Portable,
    /// AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX2 with products of bytes.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 with products of bytes.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same with products of brain floats.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// NEON with products of bytes.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Level {
    /// The widest that this processor has.
    pub(crate) fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Self::all().into_iter().last().unwrap_or(Self::Portable))
    }

    /// Whether products of brain floats take them in pairs.
    pub(crate) fn has_pairs(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => true,
            _ => false,
        }
    }

    /// All that this processor has, the widest last.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx2::new().map(|_| Self::Avx2));
            all.extend(AvxVnni::new().map(|_| Self::AvxVnni));
            all.extend(Avx512::new().map(|_| Self::Avx512));
            all.extend(Avx512Bf16::new().map(|_| Self::Avx512Bf16));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(Neon::new().map(|_| Self::Neon));
        all
    }
}

/// Functions that choose one of their forms by the level.
macro_rules! kernels {
    ($($(#[$meta:meta])* fn $name:ident$(<$life:lifetime>)?($($arg:ident: $type:ty),* $(,)?) = $generic:path;)*) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        pub(crate) fn $name$(<$life>)?(level: Level, $($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
                fn avx512_bf16$(<$life>)?(lanes: Avx512Bf16, $($arg: $type),*) {
                    $generic(lanes, $($arg),*);
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,avx2,fma,f16c")]
                fn avx512$(<$life>)?(lanes: Avx512, $($arg: $type),*) {
                    $generic(lanes, $($arg),*);
                }
                #[target_feature(enable = "avxvnni,avx2,fma,f16c")]
                fn avx_vnni$(<$life>)?(lanes: AvxVnni, $($arg: $type),*) {
                    $generic(lanes, $($arg),*);
                }
                #[target_feature(enable = "avx2,fma,f16c")]
                fn avx2$(<$life>)?(lanes: Avx2, $($arg: $type),*) {
                    $generic(lanes, $($arg),*);
                }
                if let (Level::Avx512Bf16, Some(lanes)) = (level, Avx512Bf16::new()) {
                    // SAFETY: there is such a value only where the processor has these instructions.
                    return unsafe { avx512_bf16(lanes, $($arg),*) };
                }
                if let (Level::Avx512, Some(lanes)) = (level, Avx512::new()) {
                    // SAFETY: as above.
                    return unsafe { avx512(lanes, $($arg),*) };
                }
                if let (Level::AvxVnni, Some(lanes)) = (level, AvxVnni::new()) {
                    // SAFETY: as above.
                    return unsafe { avx_vnni(lanes, $($arg),*) };
                }
                if let (Level::Avx2, Some(lanes)) = (level, Avx2::new()) {
                    // SAFETY: as above.
                    return unsafe { avx2(lanes, $($arg),*) };
                }
            }
            #[cfg(target_arch = "aarch64")]
            {
                #[target_feature(enable = "neon,dotprod")]
                fn neon$(<$life>)?(lanes: Neon, $($arg: $type),*) {
                    $generic(lanes, $($arg),*);
                }
                if let (Level::Neon, Some(lanes)) = (level, Neon::new()) {
                    // SAFETY: there is such a value only where the processor has these instructions.
                    return unsafe { neon(lanes, $($arg),*) };
                }
            }
            let _ = level;
            $generic(Portable, $($arg),*);
        }
    )*};
}

kernels! {
    /// The tiles of a matrix times rows of inputs.
    ///
    /// The caller vouches that the memory of `out` exists and that nobody else uses these outputs of these
    /// rows meanwhile.
    fn product(matrix: &PackedMatrix, tiles: Range<usize>, inputs: Inputs<'_>, out: Outputs) = product_of;

    /// `silu(gate) * up`, gate and up being the tiles of two matrices of one grid times rows of inputs, row
    /// by row.
    ///
    /// The caller vouches for `out` as for [`product`].
    fn gated(
        matrices: [&PackedMatrix; 2], tiles: Range<usize>, inputs: Inputs<'_>, out: Shared<f32>,
    ) = gated_of;

    /// A row divided by the root of its mean square, times weights.
    fn rms_norm(row: &[f32], weights: &[f32], epsilon: f32, out: &mut [f32]) = elementwise::rms_norm;

    /// The logarithm of the sum of the exponentials.
    fn log_sum_exp(values: &[f32], out: &mut f64) = elementwise::log_sum_exp;

    /// The probabilities by logits that are divided by a temperature.
    fn softmax(logits: &[f32], temperature: f32, out: &mut [f32]) = elementwise::softmax;

    /// A row in steps, block by block.
    fn quantize(row: &[f32], blocks: &mut [InputBlock]) = elementwise::quantize;

    /// Inputs rounded to brain floats, where they are.
    fn round(row: &mut [f32]) = elementwise::round;

    /// Inputs rounded to brain floats, in pairs.
    fn pair_up(row: &[f32], pairs: &mut [Pair]) = elementwise::pair_up;

    /// Attention of queries of one head to the positions before their limits. Queries and outputs are
    /// `wide` numbers each, a multiple of 16; the keys know no other scale than the queries'.
    fn attend<'a>(
        queries: &[f32], limits: &[usize], wide: usize, pages: &dyn Fn(usize) -> HeadPage<'a>,
        memory: &mut Vec<f32>, out: &mut [f32],
    ) = attention::attend;

    /// The same in one span of positions, as partials.
    fn attend_span<'a>(
        queries: &[f32], limits: &[usize], wide: usize, span: usize,
        pages: &dyn Fn(usize) -> HeadPage<'a>, out: &mut [f32],
    ) = attention::attend_span;

    /// What a query comes to, from its partials in order.
    fn merge(partials: &mut [&mut [f32]], out: &mut [f32]) = attention::merge;
}

/// Where the outputs of a product go: rows of `width` numbers, of which the matrix gives those from
/// `start` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outputs {
    pub(crate) values: Shared<f32>,
    pub(crate) width: usize,
    pub(crate) start: usize,
    /// Whether the outputs are added to what is there.
    pub(crate) add: bool,
}

/// The outputs of a matrix with so many of them.
struct Ungated {
    to: Outputs,
    outputs: usize,
}

impl<L: Lanes> Sink<L, 1> for Ungated {
    #[inline(always)]
    fn put(&mut self, lanes: L, row: usize, tile: usize, [sums]: [L::F; 1]) {
        let first = tile * LANES;
        let count = (self.outputs - first).min(LANES);
        let at = row * self.to.width + self.to.start + first;
        // SAFETY: the caller of `product` vouches for it.
        let place = unsafe { self.to.values.slice(at..at + count) };
        if let Ok(place) = <&mut [f32; LANES]>::try_from(&mut *place) {
            let sums = if self.to.add { lanes.add(lanes.load(place), sums) } else { sums };
            return lanes.store(sums, place);
        }
        let mut values = [0.0; LANES];
        lanes.store(sums, &mut values);
        for (place, value) in place.iter_mut().zip(values) {
            *place = if self.to.add { *place + value } else { value };
        }
    }
}

struct Gated {
    to: Shared<f32>,
    width: usize,
}

impl<L: Lanes> Sink<L, 2> for Gated {
    #[inline(always)]
    fn put(&mut self, lanes: L, row: usize, tile: usize, [gate, up]: [L::F; 2]) {
        let mut values = [0.0; LANES];
        lanes.store(lanes.mul(elementwise::silu(lanes, gate), up), &mut values);
        let first = tile * LANES;
        let count = (self.width - first).min(LANES);
        let at = row * self.width + first;
        // SAFETY: the caller of `gated` vouches for it.
        unsafe { self.to.slice(at..at + count) }.copy_from_slice(&values[..count]);
    }
}

#[inline(always)]
fn product_of<L: Lanes>(
    lanes: L,
    matrix: &PackedMatrix,
    tiles: Range<usize>,
    inputs: Inputs<'_>,
    out: Outputs,
) {
    let mut sink = Ungated { to: out, outputs: matrix.outputs() };
    product::product(lanes, matrix, tiles, inputs, &mut sink);
}

#[inline(always)]
fn gated_of<L: Lanes>(
    lanes: L,
    matrices: [&PackedMatrix; 2],
    tiles: Range<usize>,
    inputs: Inputs<'_>,
    out: Shared<f32>,
) {
    let mut sink = Gated { to: out, width: matrices[0].outputs() };
    product::two_products(lanes, matrices, tiles, inputs, &mut sink);
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use proptest::prelude::*;

    use super::super::inputs::{Forms, InputRows};
    use super::super::matrix::tests::{noise, packed};
    use super::super::matrix::{BLOCK, Grid, Row, Steps};
    use super::*;

    const GRIDS: [Grid; 7] = [
        Grid::F32,
        Grid::F16,
        Grid::Bf16,
        Grid::Bf16Products,
        Grid::Eight,
        Grid::Four,
        Grid::FourMin,
    ];

    /// Rows as a matrix of this grid takes them.
    fn rows_of(level: Level, grid: Grid, floats: &[f32], width: usize) -> InputRows {
        let mut rows = InputRows::default();
        let forms = Forms::of([grid].into_iter(), level);
        rows.hold(forms, floats.len() / width, width).copy_from_slice(floats);
        rows.finish(level);
        rows
    }

    /// The sums in 64 bits, of what the matrix and the inputs really hold.
    fn expected(matrix: &PackedMatrix, inputs: Inputs<'_>, row: usize) -> Vec<f64> {
        let width = matrix.inputs();
        let input = |at: usize| match matrix.grid() {
            Grid::F32 | Grid::F16 | Grid::Bf16 => f64::from(inputs.floats[row * width + at]),
            Grid::Bf16Products => bf16::from_f32(inputs.floats[row * width + at]).to_f64(),
            Grid::Eight | Grid::Four | Grid::FourMin => {
                let block = &inputs.blocks[row * width.div_ceil(BLOCK) + at / BLOCK];
                f64::from(block.steps[at % BLOCK]) * f64::from(block.scale)
            }
        };
        let mut weights = vec![0.0; width];
        let sum = |output: usize| {
            matrix.row(output, &mut weights);
            weights.iter().enumerate().map(|(at, &weight)| f64::from(weight) * input(at)).sum()
        };
        (0..matrix.outputs()).map(sum).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// With all vectors that this processor has.
        #[test]
        fn products_are_those_of_the_schoolbook(
            rows in 1..14_usize, width in 1..150_usize, outputs in 1..100_usize, seed: u16,
        ) {
            let seed = usize::from(seed);
            let floats = noise(rows * width, seed);
            let weights = noise(outputs * width, seed + 1);
            for grid in GRIDS {
                let matrix = packed(grid, &weights, [outputs, width]);
                let steps = rows_of(Level::Portable, grid, &floats, width);
                let sums: Vec<_> =
                    (0..rows).map(|row| expected(&matrix, steps.get(), row)).collect();
                for level in Level::all() {
                    let [all, last] = [&floats[..], &floats[(rows - 1) * width..]]
                        .map(|floats| rows_of(level, grid, floats, width));
                    let inputs = all.get();
                    let wide = outputs + 3;
                    let mut values = vec![1.0; rows * wide];
                    for add in [false, true] {
                        let out = Outputs { values: Shared::new(&mut values), width: wide, start: 2, add };
                        let middle = matrix.tiles() / 2;
                        product(level, &matrix, 0..middle, inputs, out);
                        product(level, &matrix, middle..matrix.tiles(), inputs, out);
                    }
                    for (row, sums) in values.chunks_exact(wide).zip(&sums) {
                        prop_assert_eq!([row[0], row[1], row[wide - 1]], [1.0; 3]);
                        for (found, sum) in row[2..].iter().zip(sums) {
                            let apart = (f64::from(*found) - 2.0 * sum).abs();
                            prop_assert!(apart < 2e-4, "{grid:?} {level:?}: {found} {sum}");
                        }
                    }
                    // The same bits in whatever company.
                    let mut alone = vec![0.0; outputs];
                    let values_alone = Shared::new(&mut alone);
                    let out = Outputs { values: values_alone, width: outputs, start: 0, add: false };
                    product(level, &matrix, 0..matrix.tiles(), last.get(), out);
                    for (alone, both) in alone.iter().zip(&values[(rows - 1) * wide + 2..]) {
                        prop_assert_eq!(2.0 * alone, *both);
                    }
                }
            }
        }
    }

    #[test]
    fn gated_outputs_are_the_products_of_both() {
        let (rows, width, outputs) = (19, 65, 40);
        let floats = noise(rows * width, 1);
        let weights = [2, 3].map(|seed| noise(outputs * width, seed));
        for grid in GRIDS {
            let [gate, up] = weights.each_ref().map(|w| packed(grid, w, [outputs, width]));
            for level in Level::all() {
                let inputs = rows_of(level, grid, &floats, width);
                let mut values = vec![f32::NAN; rows * outputs];
                gated(level, [&gate, &up], 0..gate.tiles(), inputs.get(), Shared::new(&mut values));
                for (row, found) in values.chunks_exact(outputs).enumerate() {
                    let [gate, up] = [&gate, &up].map(|matrix| expected(matrix, inputs.get(), row));
                    for ((found, gate), up) in found.iter().zip(gate).zip(up) {
                        let expected = gate / (1.0 + (-gate).exp()) * up;
                        let apart = (f64::from(*found) - expected).abs();
                        assert!(apart < 1e-3, "{grid:?} {level:?}: {found} {expected}");
                    }
                }
            }
        }
    }

    /// Sums of bytes are exact, also of those that are farthest from zero.
    #[test]
    fn no_bytes_are_too_large() {
        let width = 3 * BLOCK;
        let steps = |steps: [i8; BLOCK]| Steps { scale: f16::ONE, minimum: f16::ZERO, steps };
        for (weight, input) in [(-128_i8, 127_i8), (-128, -127), (127, 127), (127, -127)] {
            let matrix = PackedMatrix::pack(Grid::Eight, [1, width], |_, (), set| {
                set(Row::Steps(&[steps([weight; BLOCK]); 3]));
            });
            let floats = vec![f32::from(input); width];
            for level in Level::all() {
                let inputs = rows_of(level, Grid::Eight, &floats, width);
                let mut sum = [f32::NAN];
                let out = Outputs { values: Shared::new(&mut sum), width: 1, start: 0, add: false };
                product(level, &matrix, 0..1, inputs.get(), out);
                let expected = width as f32 * f32::from(weight) * f32::from(input);
                assert_eq!(sum, [expected], "{level:?}: {weight} times {input}");
            }
        }
    }
}
