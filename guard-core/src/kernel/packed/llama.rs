//! A LLaMA on packed weights: what it holds, and a step of it.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::attention::{SPAN, partial_size};
use super::cache::{OpenPages, PackedCache, Sizes};
use super::kernels::Level;
use super::lanes::LANES;
use super::matrix::{BLOCK, InputBlock, PackedMatrix};
use super::pages::Pages;
use super::part::{Own, Part};
use super::shared::Shared;
use super::team::Team;
use crate::config::LlamaConfig;
use crate::model::ModelError;

/// A LLaMA for inference on CPUs, with weights that are packed for its kernels: as integers where the file
/// has integers, otherwise as one says.
///
/// What it computes for a token depends on the tokens before it and on nothing else: not on other
/// sequences of the call, not on the pieces in which a text is read, not on the number of threads. All
/// of it is the same to the bit.
///
/// ```
/// use guard_core::{Llama, LlamaConfig, PackedPiece, PackedType, RandomInit, burn::tensor::Device};
///
/// let (config, device) = (LlamaConfig::tiny(64), Device::flex());
/// let model = Llama::random(&config, RandomInit::default(), &device)?.packed(PackedType::Q8_0);
/// let model = model.expect("the model lies in the memory of the CPU");
///
/// let mut cache = model.cache();
/// let logits = model.forward(&mut [PackedPiece::new(&[1, 2, 3], &mut cache)], &[2])?;
/// assert_eq!((logits.len(), cache.len()), (64, 3));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct PackedLlama {
    pub(super) config: LlamaConfig,
    pub(super) embedding: PackedMatrix,
    pub(super) blocks: Vec<PackedBlock>,
    pub(super) norm: Vec<f32>,
    /// `None` when the embedding matrix is the head.
    pub(super) head: Option<PackedMatrix>,
    /// The rotation of each pair of dimensions, in radians a position.
    frequencies: Vec<f32>,
    pub(super) level: Level,
    /// One for each caller that is at work.
    scratch: Mutex<Vec<Scratch>>,
    pages: Arc<Pages>,
}

#[derive(Debug)]
pub(crate) struct PackedBlock {
    pub(crate) attention_norm: Vec<f32>,
    /// Queries, keys and values.
    pub(crate) projections: [PackedMatrix; 3],
    pub(crate) output: PackedMatrix,
    pub(crate) feed_forward_norm: Vec<f32>,
    /// Gate and up, of one grid.
    pub(crate) gated: [PackedMatrix; 2],
    pub(crate) down: PackedMatrix,
}

/// The weights of a model.
#[derive(Debug)]
pub(crate) struct PackedWeights {
    pub(crate) embedding: PackedMatrix,
    pub(crate) blocks: Vec<PackedBlock>,
    pub(crate) norm: Vec<f32>,
    pub(crate) head: Option<PackedMatrix>,
}

impl std::fmt::Debug for PackedLlama {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedLlama")
            .field("config", &self.config)
            .field("bytes", &self.bytes())
            .field("level", &self.level)
            .finish_non_exhaustive()
    }
}

/// Tokens that follow what a sequence has read.
#[derive(Debug)]
pub struct PackedPiece<'a> {
    tokens: &'a [u32],
    cache: &'a mut PackedCache,
}

impl<'a> PackedPiece<'a> {
    /// These tokens, behind those that the cache holds, to which they are added.
    pub fn new(tokens: &'a [u32], cache: &'a mut PackedCache) -> Self {
        Self { tokens, cache }
    }
}

/// Memory that each step uses again.
#[derive(Debug, Default)]
struct Scratch {
    projected: Vec<f32>,
    attended: Vec<f32>,
    mixed: Vec<f32>,
    gated: Vec<f32>,
    gated_blocks: Vec<InputBlock>,
    partials: Vec<f32>,
    last: Vec<f32>,
    last_blocks: Vec<InputBlock>,
    own: Vec<Own>,
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
    pub(super) gated: Shared<f32>,
    pub(super) gated_blocks: Shared<InputBlock>,
    pub(super) last: Shared<f32>,
    pub(super) last_blocks: Shared<InputBlock>,
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

/// Products of a weight and an input in a step up to which one thread does it alone: threads would wait for
/// each other longer than they compute.
const ALONE: usize = 16 << 20;

impl Step<'_> {
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

impl PackedLlama {
    pub(crate) fn new(config: LlamaConfig, frequencies: Vec<f32>, weights: PackedWeights) -> Self {
        let PackedWeights { embedding, blocks, norm, head } = weights;
        let pages = Arc::new(Pages::new(Sizes::new(&config).page()));
        Self {
            config,
            embedding,
            blocks,
            norm,
            head,
            frequencies,
            level: Level::best(),
            scratch: Mutex::default(),
            pages,
        }
    }

    /// The shape of the model.
    #[must_use]
    pub fn config(&self) -> &LlamaConfig {
        &self.config
    }

    /// The memory that the matrices take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of_block = |block: &PackedBlock| {
            let matrices = block.projections.iter().chain(&block.gated);
            matrices.chain([&block.output, &block.down]).map(PackedMatrix::bytes).sum::<usize>()
        };
        let ends = [Some(&self.embedding), self.head.as_ref()];
        ends.into_iter().flatten().map(PackedMatrix::bytes).sum::<usize>()
            + self.blocks.iter().map(of_block).sum::<usize>()
    }

    /// An empty cache for one sequence.
    #[must_use]
    pub fn cache(&self) -> PackedCache {
        PackedCache::new(Sizes::new(&self.config), Arc::clone(&self.pages))
    }

    /// Reads the tokens of all pieces, each behind what its cache holds, and gives the logits over the
    /// vocabulary behind those at the places `wanted`, one after the other. Places are counted through all
    /// pieces.
    ///
    /// Steps that are worth all threads take turns with those of other callers; small ones run on the
    /// caller's thread, side by side.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when there is no piece or one without a token, a token is not in the vocabulary, a
    /// sequence leaves the model's context, or a cache is another model's. The caches are unchanged then.
    ///
    /// # Panics
    ///
    /// When there are not so many places as is wanted.
    pub fn forward(
        &self,
        pieces: &mut [PackedPiece<'_>],
        wanted: &[usize],
    ) -> Result<Vec<f32>, ModelError> {
        let mut logits = Vec::new();
        self.forward_into(pieces, wanted, &mut logits)?;
        Ok(logits)
    }

    /// The same into memory that has been used before, which saves asking the system for it at each step. What
    /// is in it is lost.
    ///
    /// # Errors
    ///
    /// As [`PackedLlama::forward`].
    ///
    /// # Panics
    ///
    /// As [`PackedLlama::forward`].
    pub fn forward_into(
        &self,
        pieces: &mut [PackedPiece<'_>],
        wanted: &[usize],
        logits: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let tokens: usize = pieces.iter().map(|piece| piece.tokens.len()).sum();
        let is_small = tokens * self.config.parameter_count() < ALONE;
        let team = if is_small { Team::alone() } else { Team::global() };
        self.forward_by(team, pieces, wanted, logits)
    }

    /// Does the same with each of some things, on the threads that a step takes: for what has to be done with
    /// the logits of many texts before the next one.
    ///
    /// # Panics
    ///
    /// When `work` does.
    pub fn for_each<T: Send>(&self, items: &mut [T], work: impl Fn(&mut T) + Sync) {
        let team = if items.len() < 2 { Team::alone() } else { Team::global() };
        share_out(team, items, work);
    }

    fn forward_by(
        &self,
        team: &Team,
        pieces: &mut [PackedPiece<'_>],
        wanted: &[usize],
        logits: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        self.check(pieces)?;
        let mut places = Vec::new();
        let mut sequences = Vec::new();
        for (sequence, piece) in pieces.iter_mut().enumerate() {
            let start = piece.cache.len();
            let tokens = piece.tokens.iter().enumerate();
            places.extend(tokens.map(|(at, &token)| Place {
                token,
                sequence,
                position: start + at,
            }));
            sequences.push(piece.cache.open(piece.tokens.len()));
        }
        assert!(wanted.iter().all(|&place| place < places.len()), "no such place");
        logits.resize(wanted.len() * self.config.vocab_size, 0.0);
        let kept = || self.scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = kept().pop().unwrap_or_default();
        let step = self.step(&mut scratch, (places, sequences), wanted, logits, team.size());
        team.run(&|member| Part::new(self, &step, member).run());
        drop(step);
        kept().push(scratch);
        for piece in pieces {
            piece.cache.close(piece.tokens.len());
        }
        Ok(())
    }

    fn check(&self, pieces: &[PackedPiece<'_>]) -> Result<(), ModelError> {
        if pieces.is_empty() {
            return Err(ModelError::EmptyBatch);
        }
        let (vocab_size, limit) = (self.config.vocab_size, self.config.max_positions);
        let sizes = Sizes::new(&self.config);
        for piece in pieces {
            if piece.tokens.is_empty() {
                return Err(ModelError::EmptyBatch);
            }
            if let Some(&id) = piece.tokens.iter().find(|&&id| id as usize >= vocab_size) {
                return Err(ModelError::TokenOutOfRange { id, vocab_size });
            }
            let tokens = piece.cache.len() + piece.tokens.len();
            if tokens > limit {
                return Err(ModelError::ContextFull { tokens, limit });
            }
            if piece.cache.sizes() != sizes {
                let (expected, found) = (sizes.shape(1), piece.cache.sizes().shape(1));
                return Err(ModelError::CacheMismatch { expected, found });
            }
        }
        Ok(())
    }

    fn step<'a>(
        &self,
        scratch: &mut Scratch,
        (places, sequences): (Vec<Place>, Vec<OpenPages>),
        wanted: &'a [usize],
        logits: &mut [f32],
        threads: usize,
    ) -> Step<'a> {
        let &LlamaConfig { hidden_size, intermediate_size, heads, kv_heads, head_dim, .. } =
            &self.config;
        let rows = places.len();
        grow(&mut scratch.projected, rows * (heads + 2 * kv_heads) * head_dim, 0.0);
        grow(&mut scratch.attended, rows * heads * head_dim, 0.0);
        grow(&mut scratch.mixed, rows * hidden_size, 0.0);
        grow(&mut scratch.gated, rows * intermediate_size, 0.0);
        let blocks = intermediate_size.div_ceil(BLOCK);
        grow(&mut scratch.gated_blocks, rows * blocks, InputBlock::ZERO);
        grow(&mut scratch.last, wanted.len() * hidden_size, 0.0);
        let blocks = hidden_size.div_ceil(BLOCK);
        grow(&mut scratch.last_blocks, wanted.len() * blocks, InputBlock::ZERO);
        let spans = spans(&places);
        let is_uneven =
            sequences.len() * kv_heads < EVEN * threads && spans.len() > sequences.len();
        let sharing = match () {
            () if rows >= BY_ROWS => Sharing::Rows,
            () if is_uneven && threads > 1 => Sharing::Spans,
            () => Sharing::Heads,
        };
        let sums = spans.last().map_or(0, |last| last.first_row + rows);
        let partial = partial_size(head_dim.next_multiple_of(LANES));
        let partials = if sharing == Sharing::Spans { sums * heads * partial } else { 0 };
        grow(&mut scratch.partials, partials, 0.0);
        let threads = threads.max(scratch.own.len());
        scratch.own.resize_with(threads, Own::default);
        let angles = || {
            places.iter().flat_map(|place| {
                self.frequencies.iter().map(|frequency| place.position as f32 * frequency)
            })
        };
        Step {
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
            gated: Shared::new(&mut scratch.gated),
            gated_blocks: Shared::new(&mut scratch.gated_blocks),
            last: Shared::new(&mut scratch.last),
            last_blocks: Shared::new(&mut scratch.last_blocks),
            logits: Shared::new(logits),
            own: Shared::new(&mut scratch.own),
        }
    }
}

fn share_out<T: Send>(team: &Team, items: &mut [T], work: impl Fn(&mut T) + Sync) {
    let each = items.len().div_ceil(team.size()).max(1);
    let parts: Vec<Mutex<&mut [T]>> = items.chunks_mut(each).map(Mutex::new).collect();
    team.run(&|member| {
        if let Some(part) = parts.get(member.index()) {
            part.lock().unwrap_or_else(PoisonError::into_inner).iter_mut().for_each(&work);
        }
    });
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

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::model::{Llama, RandomInit};
    use crate::weights::PackedType;

    #[test]
    fn items_are_shared_out_between_threads() {
        for (threads, count) in [(1, 5), (2, 0), (3, 1), (3, 100)] {
            let mut items: Vec<usize> = (0..count).collect();
            share_out(&Team::new(threads), &mut items, |item| *item = *item * 2 + 1);
            assert!(items.iter().enumerate().all(|(at, item)| *item == 2 * at + 1));
        }
    }

    /// However many threads there are and however they share out a step: the same bits.
    #[test]
    fn threads_change_nothing() {
        let mut config = LlamaConfig::tiny(96);
        config.max_positions = 2048;
        let init = RandomInit { standard_deviation: 0.3, ..RandomInit::default() };
        let model = Llama::random(&config, init, &Device::flex()).unwrap();
        let model = model.packed(PackedType::Q8_0).unwrap();
        let tokens: Vec<u32> = (0..500).map(|at| at * 7919 % 96).collect();
        let read = |threads: usize| {
            let team = Team::new(threads);
            let (mut cache, mut found) = (model.cache(), Vec::new());
            let mut rest = &tokens[..];
            // By rows, and by heads or spans of few and of many positions.
            for count in [1, 20, 100, 3, 200, 1, 63, 7, 1, 104] {
                let (piece, others) = rest.split_at(count);
                rest = others;
                let all: Vec<usize> = (0..count).collect();
                let mut fork = cache.clone();
                let mut pieces = [PackedPiece::new(piece, &mut cache)];
                let mut logits = Vec::new();
                model.forward_by(&team, &mut pieces, &all, &mut logits).unwrap();
                // Beside a shorter text.
                let mut company = model.cache();
                let mut pieces = [
                    PackedPiece::new(&piece[..1], &mut company),
                    PackedPiece::new(piece, &mut fork),
                ];
                let mut beside = vec![f32::NAN; 5];
                model.forward_by(&team, &mut pieces, &[count], &mut beside).unwrap();
                assert_eq!(logits.rchunks(96).next().unwrap(), beside);
                found.extend(logits);
            }
            assert!(rest.is_empty());
            found
        };
        let alone = read(1);
        for threads in [2, 3, 5] {
            assert_eq!(read(threads), alone, "{threads} threads");
        }
    }
}
