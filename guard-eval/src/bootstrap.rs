//! Resampling rows to see how far chance moves a score.
//!
//! Rows that share a text are not independent (SafeRLHF holds 318 rows that repeat another), so
//! whole clusters of rows are drawn. A count of right and wrong answers depends only on how often
//! each *kind* of cluster is drawn, and there are few kinds: drawing those numbers from the
//! multinomial distribution gives the same distribution as drawing rows one by one, at a cost that
//! does not grow with the rows.

use std::collections::BTreeMap;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Binomial, Distribution};
use rayon::prelude::*;

use crate::confusion::Confusion;
use crate::curve::Ranking;

/// How rows are resampled. The same seed gives the same draws.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bootstrap {
    /// How many resamples. Default 10,000.
    pub draws: usize,
    /// The seed. Default 0.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { draws: 10_000, seed: 0 }
    }
}

impl Bootstrap {
    /// The same with a seed of its own for the thing of this name, so that draws of different
    /// benchmarks are independent of one another and of their order.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        // FNV-1a: stable over versions and machines, unlike the standard library's hasher.
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, mix);
        Self { seed: self.seed ^ hash, ..self }
    }

    /// Counts of resampled clusters. Each row is the number of its cluster and its count.
    #[must_use]
    pub fn confusions(&self, rows: &[(u32, Confusion)]) -> Vec<Confusion> {
        let rows = rows.iter().map(|(cluster, count)| (*cluster, cells(count)));
        self.resample(rows).into_iter().map(of_cells).collect()
    }

    /// Counts of two guards on the same resampled clusters.
    #[must_use]
    pub fn pairs(&self, rows: &[(u32, [Confusion; 2])]) -> Vec<[Confusion; 2]> {
        let both = |[first, second]: &[Confusion; 2]| {
            let (a, b) = (cells(first), cells(second));
            [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]]
        };
        let rows = rows.iter().map(|(cluster, counts)| (*cluster, both(counts)));
        let split =
            |[a, b, c, d, e, f, g, h]: [u64; 8]| [of_cells([a, b, c, d]), of_cells([e, f, g, h])];
        self.resample(rows).into_iter().map(split).collect()
    }

    /// The average precision of resampled clusters; rows are cluster, score and whether positive.
    /// Draws without a positive row are left out.
    #[must_use]
    pub fn average_precisions(&self, rows: &[(u32, f64, bool)]) -> Vec<f64> {
        let mut sorted = rows.to_vec();
        sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.2.cmp(&b.2)));
        let (sorted, clusters) = numbered(&sorted);
        let draw = |draw: usize| {
            let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
            rng.set_stream(draw as u64);
            let mut drawn = vec![0_u64; clusters];
            for _ in 0..clusters {
                drawn[below(&mut rng, clusters)] += 1;
            }
            let rows = sorted.iter().map(|&(at, score, positive)| (score, positive, drawn[at]));
            Ranking::of_sorted(rows.filter(|(_, _, count)| *count > 0)).average_precision()
        };
        (0..self.draws).into_par_iter().filter_map(draw).collect()
    }

    fn resample<const N: usize>(
        &self,
        rows: impl Iterator<Item = (u32, [u64; N])>,
    ) -> Vec<[u64; N]> {
        let mut clusters: BTreeMap<u32, [u64; N]> = BTreeMap::new();
        for (cluster, counts) in rows {
            let sum = clusters.entry(cluster).or_insert([0; N]);
            sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        let mut kinds: BTreeMap<[u64; N], u64> = BTreeMap::new();
        for counts in clusters.values() {
            *kinds.entry(*counts).or_default() += 1;
        }
        let kinds: Vec<([u64; N], u64)> = kinds.into_iter().collect();
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        (0..self.draws).map(|_| draw_once(&kinds, clusters.len() as u64, &mut rng)).collect()
    }
}

/// The sum of `total` clusters drawn with replacement.
fn draw_once<const N: usize>(
    kinds: &[([u64; N], u64)],
    total: u64,
    rng: &mut ChaCha8Rng,
) -> [u64; N] {
    let mut sum = [0; N];
    let (mut left, mut weight) = (total, total);
    for (counts, clusters) in kinds {
        // Of what is left, each falls on this kind with its share of the remaining weight.
        let share = *clusters as f64 / weight as f64;
        let times = match Binomial::new(left, share.min(1.0)) {
            Ok(binomial) => binomial.sample(rng),
            Err(_) => 0,
        };
        sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += times * count);
        left -= times;
        weight -= clusters;
    }
    sum
}

/// The rows with clusters numbered from 0 on, and how many there are. Clusters are numbered by what
/// is in them, so that the order of the rows does not matter.
fn numbered(rows: &[(u32, f64, bool)]) -> (Vec<(usize, f64, bool)>, usize) {
    let mut contents: BTreeMap<u32, Vec<(u64, bool)>> = BTreeMap::new();
    for (cluster, score, positive) in rows {
        contents.entry(*cluster).or_default().push((score.to_bits(), *positive));
    }
    let mut order: Vec<(Vec<(u64, bool)>, u32)> = contents
        .into_iter()
        .map(|(cluster, mut content)| {
            content.sort_unstable();
            (content, cluster)
        })
        .collect();
    order.sort_unstable();
    let numbers: BTreeMap<u32, usize> =
        order.iter().enumerate().map(|(number, (_, cluster))| (*cluster, number)).collect();
    let rows = rows.iter().map(|&(cluster, score, positive)| (numbers[&cluster], score, positive));
    (rows.collect(), numbers.len())
}

/// A number below `limit` by multiplying (Lemire), whose bias of 2^-32 is far below the draws.
fn below(rng: &mut ChaCha8Rng, limit: usize) -> usize {
    ((u64::from(rng.next_u32()) * limit as u64) >> 32) as usize
}

fn cells(count: &Confusion) -> [u64; 4] {
    [count.true_positives, count.false_positives, count.true_negatives, count.false_negatives]
}

fn of_cells(
    [true_positives, false_positives, true_negatives, false_negatives]: [u64; 4],
) -> Confusion {
    Confusion { true_positives, false_positives, true_negatives, false_negatives }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(right: u32, wrong: u32) -> Vec<(u32, Confusion)> {
        let hit = Confusion { true_positives: 1, ..Confusion::default() };
        let miss = Confusion { false_negatives: 1, ..Confusion::default() };
        (0..right + wrong).map(|row| (row, if row < right { hit } else { miss })).collect()
    }

    #[test]
    fn draws_have_the_spread_of_the_binomial() {
        let draws = Bootstrap::default().confusions(&rows(80, 20));
        assert_eq!(draws.len(), 10_000);
        assert!(draws.iter().all(|draw| draw.total() == 100));
        let recalls: Vec<f64> = draws.iter().map(|draw| draw.recall().value()).collect();
        let mean = recalls.iter().sum::<f64>() / 1e4;
        let variance = recalls.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / 1e4;
        assert!((mean - 0.8).abs() < 0.002, "{mean}");
        // 0.8 x 0.2 / 100, with a standard error of 1.4 percent at 10,000 draws.
        assert!((variance / 0.0016 - 1.0).abs() < 0.07, "{variance}");
    }

    #[test]
    fn clusters_are_drawn_whole() {
        let clustered: Vec<_> =
            rows(80, 20).into_iter().map(|(row, count)| (row / 10, count)).collect();
        for draw in Bootstrap::default().confusions(&clustered) {
            assert_eq!((draw.true_positives % 10, draw.false_negatives % 10), (0, 0));
        }
    }

    #[test]
    fn seeds_repeat_and_names_differ() {
        let draws = |bootstrap: Bootstrap| bootstrap.confusions(&rows(8, 2));
        let bootstrap = Bootstrap { draws: 50, seed: 7 };
        assert_eq!(draws(bootstrap), draws(bootstrap));
        assert_ne!(draws(bootstrap.named("a")), draws(bootstrap.named("b")));
    }

    #[test]
    fn the_order_of_the_rows_does_not_matter() {
        let mut turned = rows(8, 2);
        turned.reverse();
        let bootstrap = Bootstrap { draws: 50, seed: 7 };
        assert_eq!(bootstrap.confusions(&turned), bootstrap.confusions(&rows(8, 2)));
    }

    #[test]
    fn nothing_draws_nothing() {
        let bootstrap = Bootstrap { draws: 3, seed: 0 };
        assert_eq!(bootstrap.confusions(&[]), [Confusion::default(); 3]);
        assert_eq!(bootstrap.average_precisions(&[(0, 0.5, false)]), [] as [f64; 0]);
    }

    #[test]
    fn average_precision_does_not_depend_on_the_order_of_rows() {
        // Ties, and clusters of one to three rows.
        let rows: Vec<_> =
            (0..60_u32).map(|i| (i * i % 31, f64::from(i % 4) / 4.0, i % 3 != 0)).collect();
        // The same rows from the last to the first, with other numbers for the clusters.
        let turned: Vec<_> = rows.iter().rev().map(|&(c, s, p)| (100 - c, s, p)).collect();
        let bootstrap = Bootstrap { draws: 50, seed: 1 };
        assert_eq!(bootstrap.average_precisions(&rows), bootstrap.average_precisions(&turned));
    }

    #[test]
    fn average_precision_varies_about_its_value() {
        let rows: Vec<_> = (0..200).map(|i| (i, f64::from(i) / 200.0, i % 3 != 0)).collect();
        let bootstrap = Bootstrap { draws: 500, seed: 1 };
        let draws = bootstrap.average_precisions(&rows);
        let whole = Ranking::new(rows.iter().map(|&(_, score, p)| (score, p))).unwrap();
        let mean = draws.iter().sum::<f64>() / draws.len() as f64;
        assert!((mean - whole.average_precision().unwrap()).abs() < 0.02);
    }
}
