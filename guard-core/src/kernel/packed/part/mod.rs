//! What one thread does of a step.
//!
//! Memory is shared, and threads part it by rows, by outputs or by heads. Where one reads what another wrote,
//! both have met at a barrier in between.
#![allow(unsafe_code, reason = "threads write to parts of one memory")]

mod heads;

use std::ops::Range;

use super::inputs::{InputRows, Inputs};
use super::kernels::{self, Level, Outputs};
use super::lanes::LANES;
use super::llama::{PackedBlock, PackedLlama};
use super::matrix::PackedMatrix;
use super::shared::Shared;
use super::step::{Sharing, Step, grow};
use super::team::Member;
use crate::config::LlamaConfig;

/// What each thread has for itself.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// The residual stream of its rows.
    x: Vec<f32>,
    inputs: InputRows,
    queries: Vec<f32>,
    limits: Vec<usize>,
    /// What queries come to.
    answers: Vec<f32>,
    sums: Vec<f32>,
    key: Vec<f32>,
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
        for (layer, block) in self.model.weights.blocks.iter().enumerate() {
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
            self.model.weights.embedding.row(place.token as usize, x);
        }
    }

    fn norm(&mut self, weights: &[f32]) {
        let config = self.config();
        let (level, hidden, epsilon) =
            (self.level(), config.hidden_size, config.rms_norm_eps as f32);
        let Own { x, inputs, .. } = &mut *self.own;
        let out = inputs.hold(self.model.forms, self.rows.len(), hidden);
        for (x, out) in x.chunks_exact(hidden).zip(out.chunks_exact_mut(hidden)) {
            kernels::rms_norm(level, x, weights, epsilon, out);
        }
        inputs.finish(level);
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
        self.own.inputs.hold(self.model.forms, rows, wide).copy_from_slice(attended);
        self.own.inputs.finish(level);
        let inputs = std::mem::take(&mut self.own.inputs);
        self.add(&block.output, inputs.get());
        self.own.inputs = inputs;
    }

    fn feed_forward(&mut self, block: &PackedBlock) {
        let inner = self.config().intermediate_size;
        let (rows, level) = (self.rows.len(), self.level());
        let gated = self.step.gated.rows(self.rows.clone());
        let [gate, up] = &block.gated;
        let tiles = self.tiles(gate);
        let columns = (tiles.start * LANES).min(inner)..(tiles.end * LANES).min(inner);
        kernels::gated(level, [gate, up], tiles, self.own.inputs.get(), gated.floats);
        for row in 0..rows {
            // SAFETY: this thread's columns of its rows, which are whole blocks.
            unsafe { gated.finish(level, row, columns.clone()) };
        }
        self.meet();
        // SAFETY: written before the barrier, or by this thread.
        self.add(&block.down, unsafe { gated.read(rows) });
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
        let (config, weights) = (self.config(), &self.model.weights);
        let (hidden, level) = (config.hidden_size, self.level());
        for (index, &place) in self.step.wanted.iter().enumerate() {
            let is_mine = match self.step.by_rows() {
                true => self.rows.contains(&place),
                false => self.member.index() == 0,
            };
            if is_mine {
                let x = &self.own.x[(place - self.rows.start) * hidden..][..hidden];
                let epsilon = config.rms_norm_eps as f32;
                // SAFETY: one thread writes each row.
                unsafe {
                    let out = self.step.last.columns(index, 0..hidden);
                    kernels::rms_norm(level, x, &weights.norm, epsilon, out);
                    self.step.last.finish(level, index, 0..hidden);
                }
            }
        }
        self.member.wait();
        // SAFETY: written before the barrier.
        let inputs = unsafe { self.step.last.read(self.step.wanted.len()) };
        let matrix = weights.head.as_ref().unwrap_or(&weights.embedding);
        let (values, width) = (self.step.logits, config.vocab_size);
        let out = Outputs { values, width, start: 0, add: false };
        let tiles = self.member.share(matrix.tiles());
        kernels::product(level, matrix, tiles, inputs, out);
    }
}
