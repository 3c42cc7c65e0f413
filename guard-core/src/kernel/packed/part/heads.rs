//! How threads share out the attention of a step.
#![allow(unsafe_code, reason = "threads write to parts of one memory")]

use std::ops::Range;

use super::super::attention::{HeadPage, partial_size};
use super::super::elementwise::rotate;
use super::super::kernels;
use super::super::lanes::LANES;
use super::super::step::{Place, Span, grow};
use super::{Own, Part};
use crate::config::LlamaConfig;

impl<'a> Part<'a> {
    /// Rows attend to rows of other threads, which have to be written first. Late rows see more than early
    /// ones, so that each thread has some of both.
    pub(super) fn attend_by_rows(&mut self, layer: usize, width: usize) {
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
    pub(super) fn attend_by_heads(&mut self, layer: usize, width: usize) {
        let heads = self.config().kv_heads;
        for item in self.items(self.step.sequences.len() * heads) {
            let (sequence, head) = (item / heads, item % heads);
            let rows = self.step.rows_of(sequence);
            self.write([layer, head], rows.clone(), width);
            self.attend([layer, head], rows, width);
        }
    }

    /// Each span of each head of each sequence is one thread's: few heads see many positions.
    pub(super) fn attend_by_spans(&mut self, layer: usize, width: usize) {
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
}
