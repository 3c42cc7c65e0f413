//! What one thread does of a step.
//!
//! Memory is shared, and threads part it by rows, by outputs or by heads. Where one reads what another wrote,
//! both have met at a barrier in between.
#![allow(unsafe_code, reason = "threads write to parts of one memory")]

use std::ops::Range;

use super::attention::{HeadPage, partial_size};
use super::elementwise::rotate;
use super::kernels::{self, Level, Outputs};
use super::lanes::LANES;
use super::llama::{PackedBlock, PackedLlama, Place, Sharing, Span, Step, grow};
use super::matrix::{BLOCK, InputBlock, PackedMatrix};
use super::product::Inputs;
use super::shared::Shared;
use super::team::Member;
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

    /// Rows attend to rows of other threads, which have to be written first. Late rows see more than early
    /// ones, so that each thread has some of both.
    fn attend_by_rows(&mut self, layer: usize, width: usize) {
        let heads = self.config().kv_heads;
        for head in 0..heads {
            self.write([layer, head], self.rows.clone(), width);
        }
        self.member.wait();
        let (index, parts, rows) =
            (self.member.index(), 2 * self.member.size(), self.step.places.len());
        let part = |part: usize| rows * part / parts..rows * (part + 1) / parts;
        for head in 0..heads {
            self.attend([layer, head], part(index), width);
            self.attend([layer, head], part(parts - 1 - index), width);
        }
    }

    /// Each head of each sequence is one thread's.
    fn attend_by_heads(&mut self, layer: usize, width: usize) {
        let heads = self.config().kv_heads;
        for item in self.items(self.step.sequences.len() * heads) {
            let (sequence, head) = (item / heads, item % heads);
            let rows = self.step.rows_of(sequence);
            self.write([layer, head], rows.clone(), width);
            self.attend([layer, head], rows, width);
        }
    }

    /// Each span of each head of each sequence is one thread's: few heads see many positions.
    fn attend_by_spans(&mut self, layer: usize, width: usize) {
        let heads = self.config().kv_heads;
        let sequences = self.step.sequences.len() * heads;
        for item in self.items(sequences) {
            let (sequence, head) = (item / heads, item % heads);
            self.write([layer, head], self.step.rows_of(sequence), width);
        }
        self.member.wait();
        for item in self.items(self.step.spans.len() * heads) {
            self.attend_in_span(&self.step.spans[item / heads], [layer, item % heads], width);
        }
        self.member.wait();
        for item in self.items(sequences) {
            self.merge(item / heads, item % heads);
        }
    }

    /// This thread's of so many things.
    fn items(&self, count: usize) -> impl Iterator<Item = usize> + use<> {
        (self.member.index()..count).step_by(self.member.size())
    }

    /// What was projected of a row.
    fn projected(&self, row: usize, width: usize) -> &'a [f32] {
        // SAFETY: written before the barrier, or by this thread.
        unsafe { self.step.projected.read(row * width..(row + 1) * width) }
    }

    /// Writes the keys and values of rows into the caches.
    fn write(&mut self, [layer, head]: [usize; 2], rows: Range<usize>, width: usize) {
        let &LlamaConfig { heads, kv_heads, head_dim, .. } = self.config();
        let mut key = std::mem::take(&mut self.own.key);
        grow(&mut key, head_dim, 0.0);
        for row in rows {
            let Place { sequence, position, .. } = self.step.places[row];
            let projected = self.projected(row, width);
            let at = |head: usize| &projected[head * head_dim..][..head_dim];
            let (cos, sin) = self.step.rotation(row);
            rotate(at(heads + head), cos, sin, 1.0, &mut key);
            let value = at(heads + kv_heads + head);
            let cache = &self.step.sequences[sequence];
            // SAFETY: one thread writes a position of a head, and others read it behind a barrier only.
            unsafe { cache.write(position, [layer, head], &key[..head_dim], value) };
        }
        self.own.key = key;
    }

    /// Attention of the queries of rows that share a head of keys and values.
    fn attend(&mut self, place: [usize; 2], rows: Range<usize>, width: usize) {
        let mut row = rows.start;
        while row < rows.end {
            let sequence = self.step.places[row].sequence;
            let rest = &self.step.places[row..rows.end];
            let same = rest.iter().take_while(|place| place.sequence == sequence).count();
            self.attend_in(sequence, place, row..row + same, width);
            row += same;
        }
    }

    /// The same for rows of one sequence.
    fn attend_in(
        &mut self,
        sequence: usize,
        [layer, head]: [usize; 2],
        rows: Range<usize>,
        width: usize,
    ) {
        let wide = self.wide();
        self.ask(head, rows.clone(), width);
        let mut memory = std::mem::take(&mut self.own.answers);
        let Own { queries, limits, sums, .. } = &mut *self.own;
        grow(&mut memory, queries.len(), 0.0);
        let answers = &mut memory[..queries.len()];
        let cache = &self.step.sequences[sequence];
        // SAFETY: what lies below the limits was written before the barrier or by this thread, and nobody
        // writes to this layer any more.
        let page = |page: usize| -> HeadPage<'_> { unsafe { cache.page(page, layer, head) } };
        kernels::attend(self.model.level, queries, limits, wide, &page, sums, answers);
        for (query, from) in answers.chunks_exact(wide).enumerate() {
            self.answer(head, rows.start, query, from);
        }
        self.own.answers = memory;
    }

    /// What a sequence's queries come to in one span.
    fn attend_in_span(&mut self, span: &Span, [layer, head]: [usize; 2], width: usize) {
        let wide = self.wide();
        let rows = self.step.rows_of(span.sequence);
        self.ask(head, rows.clone(), width);
        let each = rows.len() * self.group() * partial_size(wide);
        let start = span.first_row * self.config().heads * partial_size(wide) + head * each;
        // SAFETY: each head of each span is one thread's.
        let out = unsafe { self.step.partials.slice(start..start + each) };
        let cache = &self.step.sequences[span.sequence];
        // SAFETY: written before the barrier, and nobody writes to this layer any more.
        let page = |page: usize| -> HeadPage<'_> { unsafe { cache.page(page, layer, head) } };
        let Own { queries, limits, .. } = &*self.own;
        kernels::attend_span(self.model.level, queries, limits, wide, span.number, &page, out);
    }

    /// Puts the spans of a head of a sequence together.
    fn merge(&mut self, sequence: usize, head: usize) {
        let (wide, group) = (self.wide(), self.group());
        let size = partial_size(wide);
        let rows = self.step.rows_of(sequence);
        let spans = self.step.spans.iter().filter(|span| span.sequence == sequence);
        let starts: Vec<usize> = spans
            .map(|span| {
                let heads = span.first_row * self.config().heads;
                (heads + head * rows.len() * group) * size
            })
            .collect();
        let mut answer = std::mem::take(&mut self.own.answers);
        grow(&mut answer, wide, 0.0);
        for query in 0..rows.len() * group {
            let partial = |start: &usize| {
                let start = start + query * size;
                // SAFETY: written before the barrier; each head of a sequence is one thread's now.
                unsafe { self.step.partials.slice(start..start + size) }
            };
            let mut partials: Vec<&mut [f32]> = starts.iter().map(partial).collect();
            kernels::merge(self.level(), &mut partials, &mut answer[..wide]);
            self.answer(head, rows.start, query, &answer[..wide]);
        }
        self.own.answers = answer;
    }

    /// The size of a head in memory.
    fn wide(&self) -> usize {
        self.config().head_dim.next_multiple_of(LANES)
    }

    /// Heads of queries that share one of keys and values.
    fn group(&self) -> usize {
        self.config().heads / self.config().kv_heads
    }

    /// Makes the queries of rows that share a head of keys and values, and how far each sees.
    fn ask(&mut self, head: usize, rows: Range<usize>, width: usize) {
        let head_dim = self.config().head_dim;
        let (group, wide) = (self.group(), self.wide());
        let scale = 1.0 / (head_dim as f32).sqrt();
        let mut queries = std::mem::take(&mut self.own.queries);
        queries.clear();
        queries.resize(rows.len() * group * wide, 0.0);
        self.own.limits.clear();
        for (query, to) in queries.chunks_exact_mut(wide).enumerate() {
            let (row, number) = (rows.start + query / group, head * group + query % group);
            let from = &self.projected(row, width)[number * head_dim..][..head_dim];
            let (cos, sin) = self.step.rotation(row);
            rotate(from, cos, sin, scale, &mut to[..head_dim]);
            self.own.limits.push(self.step.places[row].position + 1);
        }
        self.own.queries = queries;
    }

    /// Keeps what a query of rows from `first` on has come to.
    fn answer(&self, head: usize, first: usize, query: usize, from: &[f32]) {
        let &LlamaConfig { heads, head_dim, .. } = self.config();
        let (row, number) =
            (first + query / self.group(), head * self.group() + query % self.group());
        let start = (row * heads + number) * head_dim;
        // SAFETY: each head of each row is one thread's.
        let to = unsafe { self.step.attended.slice(start..start + head_dim) };
        to.copy_from_slice(&from[..head_dim]);
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
