//! Attention of a few queries of one head to the pages of a sequence.

use half::f16;

use super::elementwise::exp;
use super::lanes::{LANES, Lanes};

/// Positions of a page.
pub(crate) const PAGE: usize = 64;

/// The most queries side by side.
pub(crate) const QUERIES: usize = 6;

/// Keys and values of one head in one page, in 16-bit floats. Keys lie in tiles of 16 positions,
/// dimension by dimension; values position by position.
#[derive(Clone, Copy)]
pub(crate) struct HeadPage<'a> {
    pub(crate) keys: &'a [f16],
    pub(crate) values: &'a [f16],
}

/// Positions that are summed up together. Sums of such spans are added up in order, whoever made them: threads
/// can part a long text, and what comes of it is the same.
pub(crate) const SPAN: usize = 4 * PAGE;

/// The numbers of a [`partial`](attend_span): the weighed values of a head of this size, then the highest
/// score and the sum of the weights relative to it.
pub(crate) fn partial_size(wide: usize) -> usize {
    wide + LANES
}

/// Each query sees the positions before its limit. `wide` is the size of a head, a multiple of 16.
///
/// What a query comes to depends on no other one.
#[inline(always)]
pub(super) fn attend<'a, L: Lanes>(
    lanes: L,
    queries: &[f32],
    limits: &[usize],
    wide: usize,
    pages: &dyn Fn(usize) -> HeadPage<'a>,
    memory: &mut Vec<f32>,
    out: &mut [f32],
) {
    let size = partial_size(wide);
    memory.clear();
    memory.resize(2 * QUERIES * size, 0.0);
    let (sums, next) = memory.split_at_mut(QUERIES * size);
    let groups = limits.chunks(QUERIES).zip(queries.chunks(QUERIES * wide));
    for ((limits, queries), out) in groups.zip(out.chunks_mut(QUERIES * wide)) {
        let most = limits.iter().copied().max().unwrap_or(0);
        let sums = &mut sums[..limits.len() * size];
        attend_span(lanes, queries, limits, wide, 0, pages, sums);
        for span in 1..most.div_ceil(SPAN) {
            let next = &mut next[..limits.len() * size];
            attend_span(lanes, queries, limits, wide, span, pages, next);
            for (sums, next) in sums.chunks_exact_mut(size).zip(next.chunks_exact(size)) {
                fold(lanes, sums, next);
            }
        }
        for (sums, out) in sums.chunks_exact(size).zip(out.chunks_exact_mut(wide)) {
            finish(lanes, sums, out);
        }
    }
}

/// What queries come to in one span, as a partial each.
#[inline(always)]
pub(super) fn attend_span<'a, L: Lanes>(
    lanes: L,
    queries: &[f32],
    limits: &[usize],
    wide: usize,
    span: usize,
    pages: &dyn Fn(usize) -> HeadPage<'a>,
    out: &mut [f32],
) {
    let groups = limits.chunks(QUERIES).zip(queries.chunks(QUERIES * wide));
    for ((limits, queries), out) in groups.zip(out.chunks_mut(QUERIES * partial_size(wide))) {
        match limits.len() {
            1 => rows::<L, 1>(lanes, queries, limits, wide, span, pages, out),
            2 => rows::<L, 2>(lanes, queries, limits, wide, span, pages, out),
            3 => rows::<L, 3>(lanes, queries, limits, wide, span, pages, out),
            4 => rows::<L, 4>(lanes, queries, limits, wide, span, pages, out),
            5 => rows::<L, 5>(lanes, queries, limits, wide, span, pages, out),
            _ => rows::<L, QUERIES>(lanes, queries, limits, wide, span, pages, out),
        }
    }
}

/// What a query comes to, from its partials in order.
#[inline(always)]
pub(super) fn merge<L: Lanes>(lanes: L, partials: &mut [&mut [f32]], out: &mut [f32]) {
    let Some((first, others)) = partials.split_first_mut() else { return };
    for next in others {
        fold(lanes, first, next);
    }
    finish(lanes, first, out);
}

/// Adds the partial of the next span to that of those before.
#[inline(always)]
fn fold<L: Lanes>(lanes: L, sums: &mut [f32], next: &[f32]) {
    let wide = sums.len() - LANES;
    let (next, [highest, sum, ..]) = next.split_at(wide) else { return };
    // Nothing of the span is seen. What is no number is.
    if *highest == f32::NEG_INFINITY && *sum == 0.0 {
        return;
    }
    let (values, [before, total, ..]) = sums.split_at_mut(wide) else { return };
    let top = before.max(*highest);
    let (old, new) = ((*before - top).exp(), (*highest - top).exp());
    let (values, _) = values.as_chunks_mut::<LANES>();
    for (value, next) in values.iter_mut().zip(next.as_chunks::<LANES>().0) {
        let kept = lanes.mul(lanes.load(value), lanes.splat(old));
        lanes.store(lanes.mul_add(lanes.load(next), lanes.splat(new), kept), value);
    }
    (*before, *total) = (top, *total * old + sum * new);
}

#[inline(always)]
fn finish<L: Lanes>(lanes: L, sums: &[f32], out: &mut [f32]) {
    let (values, [_, total, ..]) = sums.split_at(out.len()) else { return };
    let (out, _) = out.as_chunks_mut::<LANES>();
    for (out, value) in out.iter_mut().zip(values.as_chunks::<LANES>().0) {
        lanes.store(lanes.div(lanes.load(value), lanes.splat(*total)), out);
    }
}

#[inline(always)]
fn rows<'a, L: Lanes, const R: usize>(
    lanes: L,
    queries: &[f32],
    limits: &[usize],
    wide: usize,
    span: usize,
    pages: &dyn Fn(usize) -> HeadPage<'a>,
    out: &mut [f32],
) {
    let start = span * SPAN;
    let most = limits.iter().copied().max().unwrap_or(0).min(start + SPAN);
    let mut scores = [[0.0_f32; PAGE]; R];
    let (mut highest, mut sums) = ([f32::NEG_INFINITY; R], [0.0_f32; R]);
    out.fill(0.0);
    let end = most.div_ceil(PAGE);
    for page in start / PAGE..end {
        // Pages lie far apart: what is read next is fetched while this is computed.
        let HeadPage { keys, values } = pages(page);
        let next = if page + 1 < end { pages(page + 1).keys } else { &[] };
        let count = (most - page * PAGE).min(PAGE);
        score::<L, R>(lanes, queries, wide, (keys, values), count, &mut scores);
        let (mut factors, mut visible) = ([0.0; R], [0; R]);
        for r in 0..R {
            visible[r] = limits[r].saturating_sub(page * PAGE).min(PAGE);
            factors[r] = soften(lanes, &mut scores[r], visible[r], &mut highest[r], &mut sums[r]);
        }
        add_values::<L, R>(lanes, &scores, (factors, visible), wide, (values, next), out);
    }
    for (row, (highest, sum)) in
        out.chunks_exact_mut(partial_size(wide)).zip(highest.into_iter().zip(sums))
    {
        (row[wide], row[wide + 1]) = (highest, sum);
    }
}

/// Numbers of a line of the cache.
const LINE: usize = 32;

/// The products of all queries with the keys of a page. What comes `next` is fetched meanwhile.
#[inline(always)]
fn score<L: Lanes, const R: usize>(
    lanes: L,
    queries: &[f32],
    wide: usize,
    (keys, next): (&[f16], &[f16]),
    count: usize,
    scores: &mut [[f32; PAGE]; R],
) {
    for tile in (0..count.div_ceil(LANES)).step_by(if L::TWO_TILES { 2 } else { 1 }) {
        if L::TWO_TILES {
            score_tiles::<L, R, 2>(lanes, queries, wide, (keys, next), tile, scores);
        } else {
            score_tiles::<L, R, 1>(lanes, queries, wide, (keys, next), tile, scores);
        }
    }
}

/// The same for `T` tiles.
#[inline(always)]
fn score_tiles<L: Lanes, const R: usize, const T: usize>(
    lanes: L,
    queries: &[f32],
    wide: usize,
    (keys, next): (&[f16], &[f16]),
    tile: usize,
    scores: &mut [[f32; PAGE]; R],
) {
    let (keys, _) = keys.as_chunks::<LANES>();
    let tiles: [&[[f16; LANES]]; T] =
        std::array::from_fn(|next| &keys[(tile + next) * wide..][..wide]);
    let mut sums = [[lanes.splat(0.0); T]; R];
    for at in 0..wide {
        if let Some(value) = next.get((tile / T * wide + at) * LINE) {
            lanes.prefetch(value);
        }
        let mut keys = [lanes.load_f16(&tiles[0][at]); T];
        for t in 1..T {
            keys[t] = lanes.load_f16(&tiles[t][at]);
        }
        for r in 0..R {
            let query = lanes.splat(queries[r * wide + at]);
            for t in 0..T {
                sums[r][t] = lanes.mul_add(keys[t], query, sums[r][t]);
            }
        }
    }
    for r in 0..R {
        let (places, _) = scores[r].as_chunks_mut::<LANES>();
        for t in 0..T {
            lanes.store(sums[r][t], &mut places[tile + t]);
        }
    }
}

/// Turns the scores of a page into weights relative to the highest score so far. Gives the factor of what
/// was weighed before.
#[inline(always)]
fn soften<L: Lanes>(
    lanes: L,
    scores: &mut [f32; PAGE],
    visible: usize,
    highest: &mut f32,
    sum: &mut f32,
) -> f32 {
    if visible == 0 {
        scores.fill(0.0);
        return 1.0;
    }
    scores[visible..].fill(f32::NEG_INFINITY);
    let (vectors, _) = scores.as_chunks_mut::<LANES>();
    let mut top = lanes.load(&vectors[0]);
    for vector in &vectors[1..] {
        top = lanes.max(top, lanes.load(vector));
    }
    let before = *highest;
    *highest = before.max(lanes.largest(top));
    let lift = lanes.splat(-*highest);
    for vector in vectors.iter_mut() {
        let weights = exp(lanes, lanes.add(lanes.load(vector), lift));
        lanes.store(weights, vector);
    }
    scores[visible..].fill(0.0);
    let (vectors, _) = scores.as_chunks::<LANES>();
    let mut total = lanes.load(&vectors[0]);
    for vector in &vectors[1..] {
        total = lanes.add(total, lanes.load(vector));
    }
    let factor = if before == f32::NEG_INFINITY { 0.0 } else { (before - *highest).exp() };
    *sum = *sum * factor + lanes.sum(total);
    factor
}

/// Adds the weighed values of the visible positions of a page to what was there times a factor. What comes
/// `next` is fetched meanwhile.
#[inline(always)]
fn add_values<L: Lanes, const R: usize>(
    lanes: L,
    weights: &[[f32; PAGE]; R],
    factors: ([f32; R], [usize; R]),
    wide: usize,
    values: (&[f16], &[f16]),
    out: &mut [f32],
) {
    let mut first = 0;
    while L::TWO_TILES && first + 2 * LANES <= wide {
        add_vectors::<L, R, 2>(lanes, weights, factors, [wide, first], values, out);
        first += 2 * LANES;
    }
    while first < wide {
        add_vectors::<L, R, 1>(lanes, weights, factors, [wide, first], values, out);
        first += LANES;
    }
}

/// The same for `V` vectors of the head, from dimension `first` on.
#[inline(always)]
fn add_vectors<L: Lanes, const R: usize, const V: usize>(
    lanes: L,
    weights: &[[f32; PAGE]; R],
    (factors, visible): ([f32; R], [usize; R]),
    [wide, first]: [usize; 2],
    (values, next): (&[f16], &[f16]),
    out: &mut [f32],
) {
    let (values, _) = values.as_chunks::<LANES>();
    let (out, _) = out.as_chunks_mut::<LANES>();
    let (each, first, size) = (wide / LANES, first / LANES, partial_size(wide) / LANES);
    let each_time = if L::TWO_TILES { 2 } else { 1 };
    let mut sums = [[lanes.splat(0.0); V]; R];
    for r in 0..R {
        for v in 0..V {
            let before = lanes.load(&out[r * size + first + v]);
            sums[r][v] = lanes.mul(before, lanes.splat(factors[r]));
        }
    }
    let (mut seen_by_all, mut seen) = (PAGE, 0);
    for visible in visible {
        (seen_by_all, seen) = (seen_by_all.min(visible), seen.max(visible));
    }
    for (position, values) in values.chunks_exact(each).take(seen).enumerate() {
        if let Some(value) = next.get((first / each_time * PAGE + position) * LINE) {
            lanes.prefetch(value);
        }
        let mut vectors = [lanes.load_f16(&values[first]); V];
        for v in 1..V {
            vectors[v] = lanes.load_f16(&values[first + v]);
        }
        for r in 0..R {
            // A value that is no number would be none times a weight of 0, too.
            if position >= seen_by_all && position >= visible[r] {
                continue;
            }
            let weight = lanes.splat(weights[r][position]);
            for v in 0..V {
                sums[r][v] = lanes.mul_add(vectors[v], weight, sums[r][v]);
            }
        }
    }
    for r in 0..R {
        for v in 0..V {
            lanes.store(sums[r][v], &mut out[r * size + first + v]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::kernels::{self, Level};
    use super::super::matrix::tests::noise;
    use super::*;

    /// Keys and values of positions, in pages.
    fn pages(keys: &[f32], values: &[f32], wide: usize) -> Vec<(Vec<f16>, Vec<f16>)> {
        let positions = keys.len() / wide;
        let page = |page: usize| {
            let mut both = (vec![f16::ZERO; PAGE * wide], vec![f16::ZERO; PAGE * wide]);
            for within in 0..PAGE.min(positions - page * PAGE) {
                for at in 0..wide {
                    let from = (page * PAGE + within) * wide + at;
                    let tile = within / LANES * LANES * wide + at * LANES + within % LANES;
                    both.0[tile] = f16::from_f32(keys[from]);
                    both.1[within * wide + at] = f16::from_f32(values[from]);
                }
            }
            both
        };
        (0..positions.div_ceil(PAGE)).map(page).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Against sums in 64 bits, with all vectors that this processor has.
        #[test]
        fn it_is_attention(count in 1..10_usize, positions in 1..400_usize, vectors in 1..5_usize, seed: u16) {
            let wide = vectors * LANES;
            let seed = usize::from(seed);
            let round = |value: f32| f16::from_f32(value).to_f32();
            let [keys, values]: [Vec<f32>; 2] = [seed, seed + 1]
                .map(|seed| noise(positions * wide, seed).into_iter().map(round).collect());
            let queries = noise(count * wide, seed + 2);
            let limits: Vec<usize> = (0..count).map(|at| 1 + (at * 31 + seed) % positions).collect();
            let pages = pages(&keys, &values, wide);
            let page = |page: usize| HeadPage { keys: &pages[page].0, values: &pages[page].1 };
            for level in Level::all() {
                let mut out = vec![f32::NAN; count * wide];
                let mut memory = Vec::new();
                kernels::attend(level, &queries, &limits, wide, &page, &mut memory, &mut out);
                for (row, &limit) in limits.iter().enumerate() {
                    let query = &queries[row * wide..][..wide];
                    let score = |position: usize| -> f64 {
                        let key = &keys[position * wide..][..wide];
                        query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum()
                    };
                    let weights: Vec<f64> = (0..limit).map(|at| score(at).exp()).collect();
                    let sum: f64 = weights.iter().sum();
                    for at in 0..wide {
                        let value = |position: usize| f64::from(values[position * wide + at]);
                        let expected: f64 =
                            weights.iter().enumerate().map(|(at, weight)| weight / sum * value(at)).sum();
                        let found = f64::from(out[row * wide + at]);
                        prop_assert!((found - expected).abs() < 1e-4, "{level:?}: {found} {expected}");
                    }
                    // The same bits in whatever company.
                    let mut alone = vec![f32::NAN; wide];
                    kernels::attend(level, query, &[limit], wide, &page, &mut memory, &mut alone);
                    prop_assert_eq!(&alone[..], &out[row * wide..][..wide]);
                    // And from spans that were summed up apart.
                    let mut parts = vec![vec![f32::NAN; partial_size(wide)]; limit.div_ceil(SPAN)];
                    for (span, part) in parts.iter_mut().enumerate() {
                        kernels::attend_span(level, query, &[limit], wide, span, &page, part);
                    }
                    let mut parts: Vec<&mut [f32]> = parts.iter_mut().map(Vec::as_mut_slice).collect();
                    kernels::merge(level, &mut parts, &mut alone);
                    prop_assert_eq!(&alone[..], &out[row * wide..][..wide]);
                }
            }
        }
    }

    #[test]
    fn what_a_query_does_not_see_changes_nothing() {
        let mut values = vec![1.0; 3 * LANES];
        values[2 * LANES..].fill(f32::INFINITY);
        let pages = pages(&[0.5; 3 * LANES], &values, LANES);
        let page = |page: usize| HeadPage { keys: &pages[page].0, values: &pages[page].1 };
        for level in Level::all() {
            let mut out = [0.0; 2 * LANES];
            let memory = &mut Vec::new();
            kernels::attend(level, &[1.0; 2 * LANES], &[2, 3], LANES, &page, memory, &mut out);
            assert_eq!(out[..LANES], [1.0; LANES], "{level:?}");
            assert!(out[LANES..].iter().all(|value| value.is_infinite()), "{level:?}");
        }
    }

    #[test]
    fn a_score_that_is_no_number_leaves_none() {
        // In the only span, and in a later one.
        for (positions, broken) in [(1, 0), (SPAN + 9, SPAN)] {
            let mut keys = vec![0.5; positions * LANES];
            keys[broken * LANES..].fill(f32::NAN);
            let pages = pages(&keys, &vec![1.0; positions * LANES], LANES);
            let page = |page: usize| HeadPage { keys: &pages[page].0, values: &pages[page].1 };
            for level in Level::all() {
                let (query, memory, mut out) = ([1.0; LANES], &mut Vec::new(), [0.0; LANES]);
                kernels::attend(level, &query, &[positions], LANES, &page, memory, &mut out);
                assert!(out.iter().all(|value| value.is_nan()), "{level:?} {positions}");
            }
        }
    }
}
