//! What threads share in a step, and how they share it out.

use std::ops::Range;

use super::attention::{SPAN, partial_size};
use super::cache::OpenPages;
use super::inputs::{InputRows, SharedRows};
use super::lanes::LANES;
use super::llama::PackedLlama;
use super::part::Own;
use super::shared::Shared;
use crate::config::LlamaConfig;

/// Memory that each step uses again.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    projected: Vec<f32>,
    attended: Vec<f32>,
    mixed: Vec<f32>,
    gated: InputRows,
    partials: Vec<f32>,
    last: InputRows,
    own: Vec<Own>,
}

impl Scratch {
    /// Makes room for so many rows, of which `wanted` get logits.
    fn hold(&mut self, model: &PackedLlama, rows: usize, wanted: usize) {
        let PackedLlama { config, forms, .. } = model;
        let &LlamaConfig { hidden_size, intermediate_size, heads, kv_heads, head_dim, .. } = config;
        grow(&mut self.projected, rows * (heads + 2 * kv_heads) * head_dim, 0.0);
        grow(&mut self.attended, rows * heads * head_dim, 0.0);
        grow(&mut self.mixed, rows * hidden_size, 0.0);
        self.gated.hold(*forms, rows, intermediate_size);
        self.last.hold(*forms, wanted, hidden_size);
    }
}

/// One token of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) token: u32,
    pub(super) sequence: usize,
    pub(super) position: usize,
}

/// What all threads of a step share.
pub(super) struct Step<'a> {
    pub(super) places: Vec<Place>,
    pub(super) sequences: Vec<OpenPages>,
    cos: Vec<f32>,
    sin: Vec<f32>,
    /// The places whose logits are wanted.
    pub(super) wanted: &'a [usize],
    pub(super) sharing: Sharing,
    /// Where threads share out spans, all of them.
    pub(super) spans: Vec<Span>,
    /// What queries come to in each span.
    pub(super) partials: Shared<f32>,
    pub(super) projected: Shared<f32>,
    pub(super) attended: Shared<f32>,
    pub(super) mixed: Shared<f32>,
    pub(super) gated: SharedRows,
    pub(super) last: SharedRows,
    pub(super) logits: Shared<f32>,
    pub(super) own: Shared<Own>,
}

/// How threads share out a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Each takes rows of its own through all layers.
    Rows,
    /// All have all rows, and share out the outputs of each product and the heads of attention.
    Heads,
    /// The same, but for the positions of each head, too.
    Spans,
}

/// Some positions of a sequence.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) sequence: usize,
    /// Which of the sequence's spans it is.
    pub(super) number: usize,
    /// The rows of all spans before it.
    pub(super) first_row: usize,
}

/// Tokens of a step from which on each thread takes rows of its own: the weights are then read more often,
/// and threads wait for each other once a layer instead of five times.
const BY_ROWS: usize = 64;

/// Heads for each thread from which on it does not matter that they cannot be shared out evenly.
const EVEN: usize = 4;

impl<'a> Step<'a> {
    /// A step of these places in these sequences.
    pub(super) fn new(
        model: &PackedLlama,
        scratch: &mut Scratch,
        (places, sequences): (Vec<Place>, Vec<OpenPages>),
        wanted: &'a [usize],
        logits: &mut [f32],
        threads: usize,
    ) -> Self {
        let rows = places.len();
        let spans = spans(&places);
        let heads = sequences.len() * model.config.kv_heads;
        let is_uneven = heads < EVEN * threads && spans.len() > sequences.len();
        let sharing = match () {
            () if rows >= BY_ROWS => Sharing::Rows,
            () if is_uneven && threads > 1 => Sharing::Spans,
            () => Sharing::Heads,
        };
        scratch.hold(model, rows, wanted.len());
        if sharing == Sharing::Spans {
            let sums = spans.last().map_or(0, |last| last.first_row + rows);
            let partial = partial_size(model.config.head_dim.next_multiple_of(LANES));
            grow(&mut scratch.partials, sums * model.config.heads * partial, 0.0);
        }
        let threads = threads.max(scratch.own.len());
        scratch.own.resize_with(threads, Own::default);
        let angles = || {
            places.iter().flat_map(|place| {
                model.frequencies.iter().map(|frequency| place.position as f32 * frequency)
            })
        };
        Self {
            cos: angles().map(f32::cos).collect(),
            sin: angles().map(f32::sin).collect(),
            sharing,
            spans,
            partials: Shared::new(&mut scratch.partials),
            places,
            sequences,
            wanted,
            projected: Shared::new(&mut scratch.projected),
            attended: Shared::new(&mut scratch.attended),
            mixed: Shared::new(&mut scratch.mixed),
            gated: scratch.gated.share(),
            last: scratch.last.share(),
            logits: Shared::new(logits),
            own: Shared::new(&mut scratch.own),
        }
    }

    pub(super) fn by_rows(&self) -> bool {
        self.sharing == Sharing::Rows
    }

    /// The rows of a sequence.
    pub(super) fn rows_of(&self, sequence: usize) -> Range<usize> {
        let before = |place: &Place| place.sequence < sequence;
        let start = self.places.partition_point(before);
        start..start + self.places[start..].partition_point(|place| place.sequence == sequence)
    }

    /// Cosines and sines of a row's position.
    pub(super) fn rotation(&self, row: usize) -> (&[f32], &[f32]) {
        let half = self.cos.len() / self.places.len();
        let range = row * half..(row + 1) * half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// The spans of all sequences that places belong to.
fn spans(places: &[Place]) -> Vec<Span> {
    let (mut spans, mut first_row) = (Vec::new(), 0);
    for rows in places.chunk_by(|a, b| a.sequence == b.sequence) {
        let positions = rows.last().map_or(0, |last| last.position + 1);
        for number in 0..positions.div_ceil(SPAN) {
            spans.push(Span { sequence: rows[0].sequence, number, first_row });
            first_row += rows.len();
        }
    }
    spans
}

/// At least so many values.
pub(super) fn grow<T: Clone>(values: &mut Vec<T>, len: usize, value: T) {
    if values.len() < len {
        values.resize(len, value);
    }
}
