//! Rows of inputs, in the forms in which products take them.
#![allow(unsafe_code, reason = "threads write to parts of one memory")]

use std::ops::Range;

use super::kernels::{self, Level};
use super::lanes::Pair;
use super::matrix::{BLOCK, Grid, InputBlock};
use super::shared::Shared;
use super::step::grow;

/// Rows of inputs: as they are, in steps, and in pairs of brain floats. The [`Grid`] of a matrix says which of
/// these it takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    pub(crate) floats: &'a [f32],
    pub(crate) blocks: &'a [InputBlock],
    pub(crate) pairs: &'a [Pair],
    pub(crate) rows: usize,
}

/// The forms that a model's matrices take.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Forms {
    blocks: bool,
    pairs: bool,
    /// Whether the floats themselves are rounded to brain floats, where there are no products of pairs. No
    /// matrix then takes them as they are.
    rounds: bool,
}

impl Forms {
    /// Those of matrices of these grids.
    pub(super) fn of(grids: impl Iterator<Item = Grid>, level: Level) -> Self {
        grids.fold(Self::default(), |forms, grid| match grid {
            Grid::F32 | Grid::F16 | Grid::Bf16 => forms,
            Grid::Bf16Products if level.has_pairs() => Self { pairs: true, ..forms },
            Grid::Bf16Products => Self { rounds: true, ..forms },
            Grid::Eight | Grid::Four | Grid::FourMin => Self { blocks: true, ..forms },
        })
    }

    /// Blocks and pairs of so many inputs from the start of a row on.
    fn sizes(self, inputs: usize) -> (usize, usize) {
        let count = |is_so: bool, each| if is_so { inputs.div_ceil(each) } else { 0 };
        (count(self.blocks, BLOCK), count(self.pairs, 2))
    }
}

/// Memory for rows of inputs.
#[derive(Debug, Default)]
pub(super) struct InputRows {
    floats: Vec<f32>,
    blocks: Vec<InputBlock>,
    pairs: Vec<Pair>,
    forms: Forms,
    rows: usize,
    width: usize,
}

impl InputRows {
    /// So many rows of this width, of which the floats are to be written.
    pub(super) fn hold(&mut self, forms: Forms, rows: usize, width: usize) -> &mut [f32] {
        (self.forms, self.rows, self.width) = (forms, rows, width);
        let (blocks, pairs) = forms.sizes(width);
        grow(&mut self.floats, rows * width, 0.0);
        grow(&mut self.blocks, rows * blocks, InputBlock::ZERO);
        grow(&mut self.pairs, rows * pairs, Pair::ZERO);
        &mut self.floats[..rows * width]
    }

    /// Brings the rows into the other forms.
    pub(super) fn finish(&mut self, level: Level) {
        let shared = self.share();
        for row in 0..self.rows {
            // SAFETY: nobody else has this memory.
            unsafe { shared.finish(level, row, 0..self.width) };
        }
    }

    pub(super) fn get(&self) -> Inputs<'_> {
        let Self { floats, blocks, pairs, rows, .. } = self;
        Inputs { floats, blocks, pairs, rows: *rows }
    }

    pub(super) fn share(&mut self) -> SharedRows {
        SharedRows {
            floats: Shared::new(&mut self.floats),
            blocks: Shared::new(&mut self.blocks),
            pairs: Shared::new(&mut self.pairs),
            forms: self.forms,
            width: self.width,
        }
    }
}

/// Rows of inputs of which several threads write parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct SharedRows {
    pub(super) floats: Shared<f32>,
    blocks: Shared<InputBlock>,
    pairs: Shared<Pair>,
    forms: Forms,
    width: usize,
}

impl SharedRows {
    /// The memory of some rows.
    pub(super) fn rows(self, rows: Range<usize>) -> Self {
        let (blocks, pairs) = self.forms.sizes(self.width);
        let part = |each: usize| rows.start * each..rows.end * each;
        Self {
            floats: self.floats.part(part(self.width)),
            blocks: self.blocks.part(part(blocks)),
            pairs: self.pairs.part(part(pairs)),
            ..self
        }
    }

    /// Some floats of a row, to be written.
    ///
    /// # Safety
    ///
    /// As [`Shared::slice`].
    pub(super) unsafe fn columns<'a>(self, row: usize, columns: Range<usize>) -> &'a mut [f32] {
        let start = row * self.width;
        // SAFETY: the caller vouches.
        unsafe { self.floats.slice(start + columns.start..start + columns.end) }
    }

    /// Brings some columns of a row into the other forms. They begin with a block, and end with one or with the
    /// row.
    ///
    /// # Safety
    ///
    /// The memory still exists. This thread has written the floats of these columns, and nobody else uses them
    /// or their other forms meanwhile.
    pub(super) unsafe fn finish(self, level: Level, row: usize, columns: Range<usize>) {
        let (blocks, pairs) = self.forms.sizes(self.width);
        debug_assert!(columns.start.is_multiple_of(BLOCK) || columns.is_empty());
        debug_assert!(columns.end.is_multiple_of(BLOCK) || columns.end == self.width);
        let (from, to) = (self.forms.sizes(columns.start), self.forms.sizes(columns.end));
        // SAFETY: the caller vouches.
        unsafe {
            let floats = self.columns(row, columns);
            let blocks = self.blocks.slice(row * blocks + from.0..row * blocks + to.0);
            let pairs = self.pairs.slice(row * pairs + from.1..row * pairs + to.1);
            if self.forms.blocks {
                kernels::quantize(level, floats, blocks);
            }
            if self.forms.pairs {
                kernels::pair_up(level, floats, pairs);
            }
            // Last, since the others are made of what the floats were.
            if self.forms.rounds {
                kernels::round(level, floats);
            }
        }
    }

    /// The first rows.
    ///
    /// # Safety
    ///
    /// The memory still exists, and nobody writes to these rows as long as they are used.
    pub(super) unsafe fn read<'a>(self, rows: usize) -> Inputs<'a> {
        let (blocks, pairs) = self.forms.sizes(self.width);
        // SAFETY: the caller vouches.
        unsafe {
            Inputs {
                floats: self.floats.read(0..rows * self.width),
                blocks: self.blocks.read(0..rows * blocks),
                pairs: self.pairs.read(0..rows * pairs),
                rows,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::matrix::tests::noise;
    use super::*;

    /// Steps are those of the inputs, rounded ones or not, on all processors.
    #[test]
    fn forms_do_not_depend_on_each_other() {
        let (rows, width) = (3, 71);
        let floats = noise(rows * width, 1);
        let blocks = |grids: &[Grid], level| {
            let mut inputs = InputRows::default();
            let forms = Forms::of(grids.iter().copied(), level);
            inputs.hold(forms, rows, width).copy_from_slice(&floats);
            inputs.finish(level);
            let bits = inputs.get().blocks.iter().map(|block| (block.scale.to_bits(), block.steps));
            bits.collect::<Vec<_>>()
        };
        let alone = blocks(&[Grid::Eight], Level::Portable);
        assert_eq!(alone.len(), rows * width.div_ceil(BLOCK));
        for level in Level::all() {
            assert_eq!(blocks(&[Grid::Bf16Products, Grid::Eight], level), alone, "{level:?}");
        }
    }
}
