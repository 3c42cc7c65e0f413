//! Matrices of weights, packed for products.

use half::f16;
use rayon::prelude::*;

use super::lanes::{Bytes, Floats, LANES, Pair};

/// Inputs of a block, which share a scale.
pub(crate) const BLOCK: usize = 32;

/// Lines of bytes of a block of 16 outputs: 8-bit weights, 4-bit ones.
const EIGHT_LINES: usize = BLOCK / 4;
const FOUR_LINES: usize = BLOCK / 8;

/// How weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grid {
    /// As 32-bit floats.
    F32,
    /// As 16-bit floats, which are computed with in 32 bits.
    F16,
    /// As the upper halves of 32-bit floats, in which they are computed with.
    Bf16,
    /// The same, and inputs are rounded to such halves before they are multiplied.
    Bf16Products,
    /// In 255 steps round zero, as GGUF's `Q8_0`.
    Eight,
    /// In 16 steps from -8 on, as `Q4_0`.
    Four,
    /// In 16 steps from a minimum on, as `Q4_1`.
    FourMin,
}

impl Grid {
    /// Whether weights are steps of a scale, rather than floats.
    pub(crate) fn has_steps(self) -> bool {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::Bf16Products => false,
            Self::Eight | Self::Four | Self::FourMin => true,
        }
    }
}

/// The scale of each output of a tile in one block.
pub(super) type Scales = [f16; LANES];

/// A matrix of `[outputs, inputs]`: tiles of 16 outputs, of which each has blocks of 32 inputs. The bytes
/// of a block are those of all outputs for four inputs after four; in 4 bits, the low halves are the
/// first 16 inputs and the high halves the others. Brain floats lie in the same way, two inputs after two, and
/// other floats one after one. What fills the last tile and block is zero.
#[derive(Debug)]
pub(crate) struct PackedMatrix {
    grid: Grid,
    outputs: usize,
    inputs: usize,
    floats: Vec<Floats>,
    halves: Vec<[f16; LANES]>,
    scales: Vec<Scales>,
    minima: Vec<Scales>,
    bytes: Vec<Bytes>,
}

/// 32 weights of one output: steps times a scale, from a minimum on where the grid has one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Steps {
    pub(crate) scale: f16,
    pub(crate) minimum: f16,
    pub(crate) steps: [i8; BLOCK],
}

/// A row of weights as it is read: floats for a matrix of floats, steps for all others.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Row<'a> {
    Floats(&'a [f32]),
    Steps(&'a [Steps]),
}

impl PackedMatrix {
    /// Packs the rows that `read` hands on for each output, in parallel. It has memory to use, and is told
    /// whether the row is finite.
    pub(crate) fn pack<M: Default + Send>(
        grid: Grid,
        [outputs, inputs]: [usize; 2],
        read: impl Fn(usize, &mut M, &mut dyn FnMut(Row<'_>) -> bool) + Sync,
    ) -> Self {
        let mut matrix = Self::zeros(grid, [outputs, inputs]);
        let blocks = matrix.blocks();
        let pieces = matrix.pieces();
        pieces.into_par_iter().enumerate().for_each_init(
            M::default,
            |memory, (tile, mut piece)| {
                for lane in 0..LANES.min(outputs - tile * LANES) {
                    read(tile * LANES + lane, memory, &mut |row| {
                        piece.set(grid, lane, row, blocks)
                    });
                }
            },
        );
        matrix
    }

    fn zeros(grid: Grid, [outputs, inputs]: [usize; 2]) -> Self {
        let (tiles, blocks) = (outputs.div_ceil(LANES), inputs.div_ceil(BLOCK));
        let count = |is_so: bool, each: usize| if is_so { tiles * each } else { 0 };
        let lines = match grid {
            Grid::F32 | Grid::F16 => 0,
            Grid::Bf16 | Grid::Bf16Products => inputs.div_ceil(2),
            Grid::Eight => blocks * EIGHT_LINES,
            Grid::Four | Grid::FourMin => blocks * FOUR_LINES,
        };
        Self {
            grid,
            outputs,
            inputs,
            floats: vec![Floats([0.0; LANES]); count(grid == Grid::F32, inputs)],
            halves: vec![[f16::ZERO; LANES]; count(grid == Grid::F16, inputs)],
            scales: vec![[f16::ZERO; LANES]; count(grid.has_steps(), blocks)],
            minima: vec![[f16::ZERO; LANES]; count(grid == Grid::FourMin, blocks)],
            bytes: vec![Bytes::ZERO; tiles * lines],
        }
    }

    pub(crate) fn grid(&self) -> Grid {
        self.grid
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    pub(crate) fn blocks(&self) -> usize {
        self.inputs.div_ceil(BLOCK)
    }

    pub(crate) fn tiles(&self) -> usize {
        self.outputs.div_ceil(LANES)
    }

    /// The memory that the weights take.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&self.floats[..])
            + size_of_val(&self.halves[..])
            + size_of_val(&self.scales[..])
            + size_of_val(&self.minima[..])
            + size_of_val(&self.bytes[..])
    }

    /// The part of a tile in one of the vectors, each of which has as many entries for all tiles.
    fn part<'a, T>(&self, all: &'a [T], tile: usize) -> &'a [T] {
        let each = all.len() / self.tiles().max(1);
        &all[tile * each..][..each]
    }

    #[inline(always)]
    pub(super) fn tile_floats(&self, tile: usize) -> &[Floats] {
        self.part(&self.floats, tile)
    }

    #[inline(always)]
    pub(super) fn tile_f16(&self, tile: usize) -> &[[f16; LANES]] {
        self.part(&self.halves, tile)
    }

    #[inline(always)]
    pub(super) fn tile_scales(&self, tile: usize) -> &[Scales] {
        self.part(&self.scales, tile)
    }

    #[inline(always)]
    pub(super) fn tile_minima(&self, tile: usize) -> &[Scales] {
        self.part(&self.minima, tile)
    }

    #[inline(always)]
    pub(super) fn tile_bytes(&self, tile: usize) -> &[Bytes] {
        self.part(&self.bytes, tile)
    }

    /// The tiles, to be filled.
    fn pieces(&mut self) -> Vec<Piece<'_>> {
        fn cut<T>(values: &mut [T], tiles: usize) -> std::slice::ChunksMut<'_, T> {
            let each = values.len() / tiles.max(1);
            values.chunks_mut(each.max(1))
        }
        let tiles = self.tiles();
        let (mut floats, mut halves) = (cut(&mut self.floats, tiles), cut(&mut self.halves, tiles));
        let mut scales = cut(&mut self.scales, tiles);
        let (mut minima, mut bytes) = (cut(&mut self.minima, tiles), cut(&mut self.bytes, tiles));
        (0..tiles)
            .map(|_| Piece {
                floats: floats.next().unwrap_or_default(),
                halves: halves.next().unwrap_or_default(),
                scales: scales.next().unwrap_or_default(),
                minima: minima.next().unwrap_or_default(),
                bytes: bytes.next().unwrap_or_default(),
            })
            .collect()
    }

    /// The weights of one output, as floats.
    pub(crate) fn row(&self, output: usize, out: &mut [f32]) {
        let (tile, lane) = (output / LANES, output % LANES);
        fn take<T>(out: &mut [f32], lines: &[T], weight: impl Fn(&T) -> f32) {
            out.iter_mut().zip(lines).for_each(|(out, line)| *out = weight(line));
        }
        match self.grid {
            Grid::F32 => return take(out, self.tile_floats(tile), |line| line.0[lane]),
            Grid::F16 => return take(out, self.tile_f16(tile), |line| line[lane].to_f32()),
            Grid::Bf16 | Grid::Bf16Products => {
                let lines = self.tile_bytes(tile);
                for (out, line) in out.chunks_mut(2).zip(lines) {
                    out.copy_from_slice(&line.pair(lane).floats()[..out.len()]);
                }
                return;
            }
            Grid::Eight | Grid::Four | Grid::FourMin => {}
        }
        let (bytes, scales) = (self.tile_bytes(tile), self.tile_scales(tile));
        for (block, out) in out.chunks_mut(BLOCK).enumerate() {
            let scale = scales[block][lane].to_f32();
            for (input, out) in out.iter_mut().enumerate() {
                let byte = |line: usize| bytes[line].four(lane)[input % 4];
                let half = |line: usize| {
                    let byte = byte(line);
                    f32::from(if input < BLOCK / 2 { byte & 15 } else { byte >> 4 })
                };
                *out = match self.grid {
                    Grid::F32 | Grid::F16 | Grid::Bf16 | Grid::Bf16Products => 0.0,
                    Grid::Eight => {
                        scale * (f32::from(byte(block * EIGHT_LINES + input / 4)) - 128.0)
                    }
                    Grid::Four => scale * (half(block * FOUR_LINES + input / 4 % 4) - 8.0),
                    Grid::FourMin => {
                        let minimum = self.tile_minima(tile)[block][lane].to_f32();
                        scale * half(block * FOUR_LINES + input / 4 % 4) + minimum
                    }
                };
            }
        }
    }
}

/// A tile in the making.
struct Piece<'a> {
    floats: &'a mut [Floats],
    halves: &'a mut [[f16; LANES]],
    scales: &'a mut [Scales],
    minima: &'a mut [Scales],
    bytes: &'a mut [Bytes],
}

impl Piece<'_> {
    /// Sets the weights of one output; says whether they are finite.
    fn set(&mut self, grid: Grid, lane: usize, row: Row<'_>, blocks: usize) -> bool {
        match row {
            Row::Floats(row) => {
                for (line, weight) in self.floats.iter_mut().zip(row) {
                    line.0[lane] = *weight;
                }
                for (line, weight) in self.halves.iter_mut().zip(row) {
                    line[lane] = f16::from_f32(*weight);
                }
                // Rounded, a weight may be beyond all numbers.
                let mut is_finite = row.iter().all(|weight| weight.is_finite());
                for (line, weights) in self.bytes.iter_mut().zip(row.chunks(2)) {
                    let pair = Pair::nearest([weights[0], *weights.get(1).unwrap_or(&0.0)]);
                    is_finite &= pair.floats().iter().all(|weight| weight.is_finite());
                    line.set_pair(lane, pair);
                }
                is_finite
            }
            Row::Steps(steps) => {
                for (block, steps) in steps.iter().take(blocks).enumerate() {
                    self.set_block(grid, lane, block, steps);
                }
                steps.iter().all(|steps| steps.scale.is_finite() && steps.minimum.is_finite())
            }
        }
    }

    fn set_block(&mut self, grid: Grid, lane: usize, block: usize, steps: &Steps) {
        self.scales[block][lane] = steps.scale;
        match grid {
            Grid::F32 | Grid::F16 | Grid::Bf16 | Grid::Bf16Products => {}
            Grid::Eight => {
                let lines = &mut self.bytes[block * EIGHT_LINES..][..EIGHT_LINES];
                for (line, four) in lines.iter_mut().zip(steps.steps.as_chunks::<4>().0) {
                    // -128 becomes 0.
                    line.set_four(lane, four.map(|s| s.cast_unsigned() ^ 128));
                }
            }
            Grid::Four | Grid::FourMin => {
                if let Some(minima) = self.minima.get_mut(block) {
                    minima[lane] = steps.minimum;
                }
                let lines = &mut self.bytes[block * FOUR_LINES..][..FOUR_LINES];
                let (low, high) = steps.steps.split_at(BLOCK / 2);
                let fours = low.as_chunks::<4>().0.iter().zip(high.as_chunks::<4>().0);
                for (line, (low, high)) in lines.iter_mut().zip(fours) {
                    let both = |at: usize| low[at].cast_unsigned() | high[at].cast_unsigned() << 4;
                    line.set_four(lane, std::array::from_fn(both));
                }
            }
        }
    }
}

/// 32 inputs in steps of one scale.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InputBlock {
    /// From -127 to 127.
    pub(super) steps: [i8; BLOCK],
    pub(super) scale: f32,
    /// The sum of the steps.
    pub(super) sum: i32,
}

impl InputBlock {
    pub(crate) const ZERO: Self = Self { steps: [0; BLOCK], scale: 0.0, sum: 0 };
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::weights::row;

    pub(in super::super) fn noise(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|at| ((at * 7919 + seed * 31) % 2003) as f32 / 1001.5 - 1.0).collect()
    }

    pub(in super::super) fn packed(grid: Grid, weights: &[f32], shape: [usize; 2]) -> PackedMatrix {
        let inputs = shape[1];
        PackedMatrix::pack(grid, shape, |output, memory, set| {
            set(row(grid, &weights[output * inputs..][..inputs], memory));
        })
    }

    #[test]
    fn rows_come_back_within_half_a_step() {
        for shape in [[1, 1], [5, 32], [16, 33], [40, 96]] {
            let [outputs, inputs] = shape;
            let weights = noise(outputs * inputs, outputs);
            // A step is the reach of the grid by its steps; Q4_0 loses half a step more at one end.
            let grids = [
                (Grid::F32, 0.0),
                (Grid::F16, 0.0003),
                (Grid::Bf16, 0.002),
                (Grid::Bf16Products, 0.002),
                (Grid::Eight, 0.005),
                (Grid::Four, 0.13),
                (Grid::FourMin, 0.07),
            ];
            for (grid, most) in grids {
                let matrix = packed(grid, &weights, shape);
                let mut row = vec![f32::NAN; inputs];
                for (output, expected) in weights.chunks_exact(inputs).enumerate() {
                    matrix.row(output, &mut row);
                    for (found, expected) in row.iter().zip(expected) {
                        assert!((found - expected).abs() <= most, "{grid:?}: {found} {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn it_is_told_what_is_not_finite_when_it_is_rounded() {
        for (weight, is_finite) in [(f32::MAX, false), (3e38, true), (f32::NAN, false)] {
            PackedMatrix::pack(Grid::Bf16Products, [1, 3], |_, (), set| {
                assert_eq!(set(Row::Floats(&[1.0, 2.0, weight])), is_finite, "{weight}");
            });
        }
    }

    #[test]
    fn weights_take_the_memory_of_their_grid() {
        let weights = noise(64 * 64, 0);
        let bits = |grid| 8 * packed(grid, &weights, [64, 64]).bytes() / (64 * 64);
        let floats = [Grid::F32, Grid::F16, Grid::Bf16, Grid::Bf16Products];
        assert_eq!(floats.map(bits), [32, 16, 16, 16]);
        assert_eq!(packed(Grid::Eight, &weights, [64, 64]).bytes(), 64 * 64 * 34 / 32);
        assert_eq!(packed(Grid::Four, &weights, [64, 64]).bytes(), 64 * 64 * 18 / 32);
        assert_eq!(packed(Grid::FourMin, &weights, [64, 64]).bytes(), 64 * 64 * 20 / 32);
    }
}
