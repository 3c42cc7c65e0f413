//! A LLaMA on packed weights: what it holds, and a step of it.

use std::sync::{Arc, Mutex, PoisonError};

use super::cache::{PackedCache, Sizes};
use super::inputs::Forms;
use super::kernels::Level;
use super::log_sum_exp;
use super::matrix::PackedMatrix;
use super::pages::Pages;
use super::part::Part;
use super::step::{Place, Scratch, Step};
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
    pub(super) weights: PackedWeights,
    /// The rotation of each pair of dimensions, in radians a position.
    pub(super) frequencies: Vec<f32>,
    pub(super) level: Level,
    pub(super) forms: Forms,
    /// One for each caller that is at work.
    scratch: Mutex<Vec<Scratch>>,
    /// The same for the logits of those who want no more than probabilities.
    logits: Mutex<Vec<Vec<f32>>>,
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
    /// `None` when the embedding matrix is the head.
    pub(crate) head: Option<PackedMatrix>,
}

impl PackedWeights {
    fn matrices(&self) -> impl Iterator<Item = &PackedMatrix> {
        let of_blocks = self.blocks.iter().flat_map(|block| {
            let matrices = block.projections.iter().chain(&block.gated);
            matrices.chain([&block.output, &block.down])
        });
        of_blocks.chain([&self.embedding]).chain(&self.head)
    }
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

/// Products of a weight and an input in a step up to which one thread does it alone: threads would wait for
/// each other longer than they compute.
const ALONE: usize = 16 << 20;

/// Numbers to be looked at that are worth all threads.
const SHARED_NUMBERS: usize = 1 << 16;

/// The memory of logits that is worth keeping, in bytes: those behind a long text are many.
const KEPT_LOGITS: usize = 32 << 20;

impl PackedLlama {
    pub(crate) fn new(config: LlamaConfig, frequencies: Vec<f32>, weights: PackedWeights) -> Self {
        let level = Level::best();
        let forms = Forms::of(weights.matrices().map(PackedMatrix::grid), level);
        let pages = Arc::new(Pages::new(Sizes::new(&config).page()));
        Self {
            config,
            weights,
            frequencies,
            level,
            forms,
            scratch: Mutex::default(),
            logits: Mutex::default(),
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
        self.weights.matrices().map(PackedMatrix::bytes).sum()
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
        self.forward_by(Team::of_caller(is_small), pieces, wanted, logits)
    }

    /// How many threads a step takes: as many as the processor runs, or as `RAYON_NUM_THREADS` says.
    #[must_use]
    pub fn threads() -> usize {
        Team::threads()
    }

    /// Does something of which all steps run on the caller's thread. Where as many callers are at work as there
    /// are threads, each gets on faster alone than all threads with one after the other: they need not wait for
    /// each other within a step. What is computed is the same.
    pub fn on_this_thread<R>(work: impl FnOnce() -> R) -> R {
        Team::without(work)
    }

    /// Reads as [`PackedLlama::forward`] does, and gives the logarithm of the probability of each of some tokens
    /// behind a place: pairs of a place, in rising order, and a token.
    ///
    /// ```
    /// # use guard_core::{Llama, LlamaConfig, PackedPiece, PackedType, RandomInit, burn::tensor::Device};
    /// # let (config, device) = (LlamaConfig::tiny(64), Device::flex());
    /// # let model = Llama::random(&config, RandomInit::default(), &device)?.packed(PackedType::Q8_0);
    /// # let model = model.expect("the model lies in the memory of the CPU");
    /// let mut cache = model.cache();
    /// let mut pieces = [PackedPiece::new(&[1, 2, 3], &mut cache)];
    /// // That 3 follows 2, and that 4 or 5 follow 3.
    /// let found = model.log_probabilities(&mut pieces, &[(1, 3), (2, 4), (2, 5)])?;
    /// assert!(found.len() == 3 && found.iter().all(|&logarithm| logarithm < 0.0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`PackedLlama::forward`], also for tokens that are asked for.
    ///
    /// # Panics
    ///
    /// When a place is none or stands behind a later one.
    pub fn log_probabilities(
        &self,
        pieces: &mut [PackedPiece<'_>],
        wanted: &[(usize, u32)],
    ) -> Result<Vec<f64>, ModelError> {
        assert!(wanted.is_sorted_by_key(|(place, _)| place), "places in rising order");
        let vocab_size = self.config.vocab_size;
        if let Some(&(_, id)) = wanted.iter().find(|(_, id)| *id as usize >= vocab_size) {
            return Err(ModelError::TokenOutOfRange { id, vocab_size });
        }
        let same: Vec<&[(usize, u32)]> = wanted.chunk_by(|a, b| a.0 == b.0).collect();
        let places: Vec<usize> = same.iter().map(|same| same[0].0).collect();
        let kept = || self.logits.lock().unwrap_or_else(PoisonError::into_inner);
        let mut logits = kept().pop().unwrap_or_default();
        self.forward_into(pieces, &places, &mut logits)?;
        let mut found = vec![0.0; wanted.len()];
        let mut rest = &mut found[..];
        let mut rows = Vec::new();
        for (same, logits) in same.into_iter().zip(logits.chunks_exact(vocab_size)) {
            let (own, others) = rest.split_at_mut(same.len());
            rest = others;
            rows.push((same, logits, own));
        }
        Self::for_each(&mut rows, logits.len(), |(same, logits, found)| {
            let all = log_sum_exp(logits);
            for (found, (_, id)) in found.iter_mut().zip(*same) {
                *found = f64::from(logits[*id as usize]) - all;
            }
        });
        if size_of_val(&logits[..]) <= KEPT_LOGITS {
            kept().push(logits);
        }
        Ok(found)
    }

    /// Does the same with each of some things, which look at so many numbers together, on the threads that a step
    /// takes if that is worth it: for what has to be done with the logits of many texts before the next step.
    /// Steps within `work` run on the thread that it has.
    ///
    /// # Panics
    ///
    /// When `work` does.
    pub fn for_each<T: Send>(items: &mut [T], numbers: usize, work: impl Fn(&mut T) + Sync) {
        let is_little = items.len() < 2 || numbers < SHARED_NUMBERS;
        share_out(Team::of_caller(is_little), items, work);
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
        let step = Step::new(self, &mut scratch, (places, sequences), wanted, logits, team.size());
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
}

fn share_out<T: Send>(team: &Team, items: &mut [T], work: impl Fn(&mut T) + Sync) {
    let each = items.len().div_ceil(team.size()).max(1);
    let parts: Vec<Mutex<&mut [T]>> = items.chunks_mut(each).map(Mutex::new).collect();
    team.run(&|member| {
        if let Some(part) = parts.get(member.index()) {
            let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
            // The team is taken: a step within would wait for itself.
            Team::without(|| part.iter_mut().for_each(&work));
        }
    });
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
            let team = Team::new(threads);
            share_out(&team, &mut items, |item| {
                // Would never come back on the same team.
                assert_eq!(Team::of_caller(false).size(), 1);
                *item = *item * 2 + 1;
            });
            assert!(items.iter().enumerate().all(|(at, item)| *item == 2 * at + 1));
        }
    }

    /// However many threads there are and however they share out a step: the same bits. With all vectors that this
    /// processor has, also where threads write parts of rows that no block or pair fills.
    #[test]
    fn threads_change_nothing() {
        let mut config = LlamaConfig::tiny(96);
        (config.max_positions, config.intermediate_size) = (2048, 103);
        let init = RandomInit { standard_deviation: 0.3, ..RandomInit::default() };
        let model = Llama::random(&config, init, &Device::flex()).unwrap();
        let all = Level::all().into_iter().map(|level| (PackedType::Bf16, level));
        for (kind, level) in all.chain([(PackedType::Q8_0, Level::best())]) {
            let mut model = model.packed(kind).unwrap();
            model.level = level;
            model.forms = Forms::of(model.weights.matrices().map(PackedMatrix::grid), level);
            let alone = logits_by(&model, 1);
            for threads in [2, 3, 5] {
                let found = logits_by(&model, threads);
                assert_eq!(found, alone, "{kind} {level:?} {threads} threads");
            }
        }
    }

    /// The logits behind some hundred tokens, by so many threads.
    fn logits_by(model: &PackedLlama, threads: usize) -> Vec<f32> {
        let tokens: Vec<u32> = (0..500).map(|at| at * 7919 % 96).collect();
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
            let mut pieces =
                [PackedPiece::new(&piece[..1], &mut company), PackedPiece::new(piece, &mut fork)];
            let mut beside = vec![f32::NAN; 5];
            model.forward_by(&team, &mut pieces, &[count], &mut beside).unwrap();
            assert_eq!(logits.rchunks(96).next().unwrap(), beside);
            found.extend(logits);
        }
        assert!(rest.is_empty());
        found
    }
}
