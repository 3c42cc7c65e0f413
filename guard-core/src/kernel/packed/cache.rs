//! Keys and values of what a sequence has read.
#![allow(unsafe_code, reason = "threads write to heads of one page")]

use std::sync::Arc;

use half::f16;

use super::attention::{HeadPage, PAGE};
use super::lanes::LANES;
use super::pages::{Page, Pages};
use super::shared::Shared;
use crate::config::LlamaConfig;
use crate::model::CacheShape;

/// Keys and values of the tokens that one sequence has read, in 16-bit floats: beyond 65,504 they are
/// infinite, and what is computed from them is no number.
///
/// They lie in pages. A clone shares them until one of the two writes to a page: what many sequences begin
/// with is read once and cloned.
#[derive(Clone)]
pub struct PackedCache {
    sizes: Sizes,
    pages: Vec<Arc<Page>>,
    length: usize,
    /// Where pages come from.
    source: Arc<Pages>,
}

impl std::fmt::Debug for PackedCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { sizes, length, .. } = self;
        f.debug_struct("PackedCache")
            .field("sizes", sizes)
            .field("length", length)
            .finish_non_exhaustive()
    }
}

/// Where keys and values lie in a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Sizes {
    pub(super) fn new(config: &LlamaConfig) -> Self {
        let &LlamaConfig { layers, kv_heads, head_dim, .. } = config;
        Self { layers, kv_heads, head_dim }
    }

    pub(super) fn shape(self, rows: usize) -> CacheShape {
        let Self { layers, kv_heads, head_dim } = self;
        CacheShape { rows, layers, kv_heads, head_dim }
    }

    /// The size of a head in memory.
    fn wide(self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Keys and values of a head.
    fn head(self) -> usize {
        2 * PAGE * self.wide()
    }

    /// The numbers of a page.
    pub(super) fn page(self) -> usize {
        self.layers * self.kv_heads * self.head()
    }

    fn start(self, layer: usize, head: usize) -> usize {
        (layer * self.kv_heads + head) * self.head()
    }
}

impl PackedCache {
    /// Nothing yet, for pages of these sizes.
    pub(super) fn new(sizes: Sizes, source: Arc<Pages>) -> Self {
        Self { sizes, pages: Vec::new(), length: 0, source }
    }

    pub(super) fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The number of tokens that were read.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing was read yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Forgets what was read after the first `length` tokens.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
        self.pages.truncate(self.length.div_ceil(PAGE));
    }

    /// Room for `count` more positions, in pages that nobody else has.
    pub(super) fn open(&mut self, count: usize) -> OpenPages {
        while self.pages.len() * PAGE < self.length + count {
            self.pages.push(Arc::new(self.source.take()));
        }
        let written = self.length / PAGE;
        let open = |(at, page): (usize, &mut Arc<Page>)| match at < written {
            true => Shared::of_read(page),
            false => Shared::new(&mut *Arc::make_mut(page)),
        };
        OpenPages {
            sizes: self.sizes,
            pages: self.pages.iter_mut().enumerate().map(open).collect(),
        }
    }

    /// The positions that were opened are filled.
    pub(super) fn close(&mut self, count: usize) {
        self.length += count;
    }
}

/// The pages of a sequence while threads write to the new ones.
#[derive(Debug)]
pub(super) struct OpenPages {
    sizes: Sizes,
    pages: Vec<Shared<f16>>,
}

impl OpenPages {
    /// Keys and values of a head in a page.
    ///
    /// # Safety
    ///
    /// The cache is still open, and nobody writes to this head as long as they are used.
    pub(super) unsafe fn page<'a>(&self, page: usize, layer: usize, head: usize) -> HeadPage<'a> {
        let (start, size) = (self.sizes.start(layer, head), self.sizes.head());
        // SAFETY: the caller vouches for it.
        let both = unsafe { self.pages[page].read(start..start + size) };
        let (keys, values) = both.split_at(size / 2);
        HeadPage { keys, values }
    }

    /// Writes key and value of a position.
    ///
    /// # Safety
    ///
    /// The cache is still open, the position is among the new ones, and nobody else uses it in this head.
    pub(super) unsafe fn write(
        &self,
        position: usize,
        [layer, head]: [usize; 2],
        key: &[f32],
        value: &[f32],
    ) {
        let (page, within) = (self.pages[position / PAGE], position % PAGE);
        let (start, wide) = (self.sizes.start(layer, head), self.sizes.wide());
        // Keys: tiles of 16 positions, dimension by dimension.
        let tile = start + within / LANES * LANES * wide + within % LANES;
        for (at, &key) in key.iter().enumerate() {
            // SAFETY: the caller vouches for it; numbers of other positions beside it are not touched.
            unsafe { page.set(tile + at * LANES, f16::from_f32(key)) };
        }
        let place = start + PAGE * wide + within * wide;
        for (at, &value) in value.iter().enumerate() {
            // SAFETY: as above.
            unsafe { page.set(place + at, f16::from_f32(value)) };
        }
    }
}
