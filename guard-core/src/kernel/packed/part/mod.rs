//! What one thread does of a step.
//!
//! Memory is shared, and threads part it by rows, by outputs or by heads. Where one reads what another wrote,
//! both have met at a barrier in between.
#![allow(unsafe_code, reason = "threads write to parts of one memory")]

mod heads;

use std::ops::Range;

use super::kernels::{self, Level, Outputs};
use super::lanes::LANES;
use super::llama::{PackedBlock, PackedLlama};
use super::matrix::{BLOCK, InputBlock, PackedMatrix};
use super::shared::Shared;
use super::step::{Sharing, Step, grow};
use super::team::Member;
use super::tiles::Inputs;
use crate::config::LlamaConfig;

/// What each thread has for itself.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// The residual stream of its rows.
    x: Vec<f32>,
    inputs: RowInputs,
    queries: Vec<f32>,
    limits: Vec<usize>,
    /// What queries come to.
    answers: Vec<f32>,
    sums: Vec<f32>,
    key: Vec<f32>,
}

/// Rows ready for a product.
#[derive(Debug, Default)]
struct RowInputs {
    floats: Vec<f32>,
    blocks: Vec<InputBlock>,
    rows: usize,
}

impl RowInputs {
    fn get(&self) -> Inputs<'_> {
        Inputs { floats: &self.floats, blocks: &self.blocks, rows: self.rows }
    }

    /// So many rows of floats, to be filled.
    fn begin(&mut self, rows: usize, width: usize) -> &mut [f32] {
        self.rows = rows;
        grow(&mut self.floats, rows * width, 0.0);
        grow(&mut self.blocks, rows * width.div_ceil(BLOCK), InputBlock::ZERO);
        &mut self.floats[..rows * width]
    }

    fn quantize(&mut self, level: Level, width: usize) {
        let rows = self
            .floats
            .chunks_exact(width)
            .zip(self.blocks.chunks_exact_mut(width.div_ceil(BLOCK)));
        for (floats, blocks) in rows.take(self.rows) {
            kernels::quantize(level, floats, blocks);
        }
    }
}

/// One thread at a step.
pub(super) struct Part<'a> {
    model: &'a PackedLlama,
    step: &'a Step<'a>,
    member: &'a Member<'a>,
    /// The rows that this thread takes through the layers.
    rows: Range<usize>,
    own: &'a mut Own,
}

impl<'a> Part<'a> {
    pub(super) fn new(model: &'a PackedLlama, step: &'a Step<'a>, member: &'a Member<'a>) -> Self {
        let rows = match step.by_rows() {
            true => member.share(step.places.len()),
            false => 0..step.places.len(),
        };
        // SAFETY: each thread takes its own.
        let own = unsafe { &mut step.own.slice(member.index()..member.index() + 1)[0] };
        Self { model, step, member, rows, own }
    }

    pub(super) fn run(mut self) {
        self.embed();
        for (layer, block) in self.model.blocks.iter().enumerate() {
            self.norm(&block.attention_norm);
            self.attention(layer, block);
            self.norm(&block.feed_forward_norm);
            self.feed_forward(block);
        }
        self.logits();
    }

    fn level(&self) -> Level {
        self.model.level
    }

    fn config(&self) -> &'a LlamaConfig {
        &self.model.config
    }

    /// Waits where threads need what others have computed of the same rows.
    fn meet(&self) {
        if !self.step.by_rows() {
            self.member.wait();
        }
    }

    /// This thread's tiles of a matrix, in pairs, which are whole blocks of a next one's inputs.
    fn tiles(&self, matrix: &PackedMatrix) -> Range<usize> {
        let tiles = matrix.tiles();
        if self.step.by_rows() {
            return 0..tiles;
        }
        let pairs = self.member.share(tiles.div_ceil(2));
        (2 * pairs.start).min(tiles)..(2 * pairs.end).min(tiles)
    }

    /// The memory of this thread's rows.
    fn own_rows<T>(&self, values: Shared<T>, width: usize) -> Shared<T> {
        values.part(self.rows.start * width..self.rows.end * width)
    }

    fn embed(&mut self) {
        let hidden = self.config().hidden_size;
        grow(&mut self.own.x, self.rows.len() * hidden, 0.0);
        let places = &self.step.places[self.rows.clone()];
        for (place, x) in places.iter().zip(self.own.x.chunks_exact_mut(hidden)) {
            self.model.embedding.row(place.token as usize, x);
        }
    }

    fn norm(&mut self, weights: &[f32]) {
        let config = self.config();
        let (level, hidden, epsilon) =
            (self.level(), config.hidden_size, config.rms_norm_eps as f32);
        let Own { x, inputs, .. } = &mut *self.own;
        let out = inputs.begin(self.rows.len(), hidden);
        for (x, out) in x.chunks_exact(hidden).zip(out.chunks_exact_mut(hidden)) {
            kernels::rms_norm(level, x, weights, epsilon, out);
        }
        inputs.quantize(level, hidden);
    }

    fn attention(&mut self, layer: usize, block: &PackedBlock) {
        let width = block.projections.iter().map(PackedMatrix::outputs).sum();
        let values = self.own_rows(self.step.projected, width);
        let mut start = 0;
        for matrix in &block.projections {
            let out = Outputs { values, width, start, add: false };
            let inputs = self.own.inputs.get();
            kernels::product(self.level(), matrix, self.tiles(matrix), inputs, out);
            start += matrix.outputs();
        }
        self.meet();
        match self.step.sharing {
            Sharing::Rows => self.attend_by_rows(layer, width),
            Sharing::Heads => self.attend_by_heads(layer, width),
            Sharing::Spans => self.attend_by_spans(layer, width),
        }
        self.member.wait();
        let wide = self.config().heads * self.config().head_dim;
        let (rows, level) = (self.rows.len(), self.level());
        // SAFETY: written before the barrier, or by this thread.
        let attended = unsafe { self.own_rows(self.step.attended, wide).read(0..rows * wide) };
        self.own.inputs.begin(rows, wide).copy_from_slice(attended);
        self.own.inputs.quantize(level, wide);
        let inputs = std::mem::take(&mut self.own.inputs);
        self.add(&block.output, inputs.get());
        self.own.inputs = inputs;
    }

    fn feed_forward(&mut self, block: &PackedBlock) {
        let inner = self.config().intermediate_size;
        let (rows, level, blocks) = (self.rows.len(), self.level(), inner.div_ceil(BLOCK));
        let gated = self.own_rows(self.step.gated, inner);
        let quantized = self.own_rows(self.step.gated_blocks, blocks);
        let [gate, up] = &block.gated;
        let tiles = self.tiles(gate);
        let columns = (tiles.start * LANES).min(inner)..(tiles.end * LANES).min(inner);
        kernels::gated(level, [gate, up], tiles, self.own.inputs.get(), gated);
        let within = columns.start.div_ceil(BLOCK)..columns.end.div_ceil(BLOCK);
        for row in 0..rows {
            // SAFETY: this thread's columns of its rows, which are whole blocks.
            let (floats, blocks) = unsafe {
                (
                    gated.read(row * inner + columns.start..row * inner + columns.end),
                    quantized.slice(row * blocks + within.start..row * blocks + within.end),
                )
            };
            kernels::quantize(level, floats, blocks);
        }
        self.meet();
        // SAFETY: written before the barrier, or by this thread.
        let (floats, blocks) =
            unsafe { (gated.read(0..rows * inner), quantized.read(0..rows * blocks)) };
        self.add(&block.down, Inputs { floats, blocks, rows });
    }

    /// Adds the products with inputs to the residual stream.
    fn add(&mut self, matrix: &PackedMatrix, inputs: Inputs<'_>) {
        let width = self.config().hidden_size;
        let (level, tiles, len) = (self.level(), self.tiles(matrix), self.rows.len() * width);
        if self.step.by_rows() {
            let values = Shared::new(&mut self.own.x[..len]);
            let out = Outputs { values, width, start: 0, add: true };
            return kernels::product(level, matrix, tiles, inputs, out);
        }
        let out = Outputs { values: self.step.mixed, width, start: 0, add: false };
        kernels::product(level, matrix, tiles, inputs, out);
        self.member.wait();
        // SAFETY: written before the barrier; who writes to it next comes to another one before.
        let mixed = unsafe { self.step.mixed.read(0..len) };
        self.own.x.iter_mut().zip(mixed).for_each(|(x, mixed)| *x += mixed);
    }

    fn logits(&mut self) {
        let config = self.config();
        let (hidden, level) = (config.hidden_size, self.level());
        let blocks = hidden.div_ceil(BLOCK);
        for (index, &place) in self.step.wanted.iter().enumerate() {
            let is_mine = match self.step.by_rows() {
                true => self.rows.contains(&place),
                false => self.member.index() == 0,
            };
            if is_mine {
                // SAFETY: one thread writes each row.
                let (out, quantized) = unsafe {
                    (
                        self.step.last.slice(index * hidden..(index + 1) * hidden),
                        self.step.last_blocks.slice(index * blocks..(index + 1) * blocks),
                    )
                };
                let x = &self.own.x[(place - self.rows.start) * hidden..][..hidden];
                let epsilon = config.rms_norm_eps as f32;
                kernels::rms_norm(level, x, &self.model.norm, epsilon, out);
                kernels::quantize(level, out, quantized);
            }
        }
        self.member.wait();
        let rows = self.step.wanted.len();
        // SAFETY: written before the barrier.
        let (floats, blocks) = unsafe {
            (self.step.last.read(0..rows * hidden), self.step.last_blocks.read(0..rows * blocks))
        };
        let inputs = Inputs { floats, blocks, rows };
        let matrix = self.model.head.as_ref().unwrap_or(&self.model.embedding);
        let (values, width) = (self.step.logits, config.vocab_size);
        let out = Outputs { values, width, start: 0, add: false };
        let tiles = self.member.share(matrix.tiles());
        kernels::product(level, matrix, tiles, inputs, out);
    }
}
