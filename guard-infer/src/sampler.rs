//! Choosing the next token from logits.

use guard_core::{Sampling, log_sum_exp};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Chooses tokens for one completion.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

/// Logits of which some is not finite: the model is broken, or its input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotFinite;

impl Sampler {
    /// A sampler whose draws depend on the seed, the prompt and the number of the sample only.
    pub(crate) fn new(sampling: Sampling, seed: u64, prompt: &[u32], sample: usize) -> Self {
        let bytes =
            prompt.iter().flat_map(|id| id.to_le_bytes()).chain((sample as u64).to_le_bytes());
        Self { sampling, rng: ChaCha8Rng::seed_from_u64(seed ^ fnv1a(bytes)) }
    }

    /// The next token.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> Result<u32, NotFinite> {
        if !are_finite(logits) {
            return Err(NotFinite);
        }
        match self.sampling {
            Sampling::TopP { temperature, top_p } => Ok(self.draw(logits, temperature, top_p)),
            _ => Ok(argmax(logits)),
        }
    }

    fn draw(&mut self, logits: &[f32], temperature: f32, top_p: f32) -> u32 {
        let highest = highest(logits);
        let scaled: Vec<f32> = logits.iter().map(|logit| (logit - highest) / temperature).collect();
        let nucleus = nucleus(&scaled, top_p);
        let mass: f64 = nucleus.iter().map(|(_, probability)| f64::from(*probability)).sum();
        let mut rest = self.rng.random::<f64>() * mass;
        for (token, probability) in &nucleus {
            rest -= f64::from(*probability);
            if rest < 0.0 {
                return *token;
            }
        }
        nucleus.last().map_or(0, |(token, _)| *token)
    }
}

/// The FNV-1a hash: stable across compilers, which the standard hasher does not promise.
pub(crate) fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Logits that are looked at together. A vocabulary has some hundred thousand for each token: within such a run
/// nothing depends on what was found before, so that the compiler can compare several at once.
const RUN: usize = 64;

fn are_finite(logits: &[f32]) -> bool {
    let is_one_not = |run: &[f32]| run.iter().fold(false, |one, logit| one | !logit.is_finite());
    !logits.chunks(RUN).any(is_one_not)
}

fn highest(logits: &[f32]) -> f32 {
    let larger = |top, &logit: &f32| if logit > top { logit } else { top };
    logits.iter().fold(f32::NEG_INFINITY, larger)
}

/// The first of the largest logits.
pub(crate) fn argmax(logits: &[f32]) -> u32 {
    let (mut best, mut highest) = (0, f32::NEG_INFINITY);
    for (number, run) in logits.chunks(RUN).enumerate() {
        let top = self::highest(run);
        if top > highest {
            (best, highest) = (number * RUN, top);
        }
    }
    let within = logits[best..].iter().position(|&logit| logit == highest);
    (best + within.unwrap_or(0)) as u32
}

/// The most probable tokens, in falling order, as few as reach `top_p` together, with their probabilities.
///
/// A vocabulary is too long to sort for every token. All that is far below the highest logit is left aside at
/// first, and looked at only where the rest does not reach.
fn nucleus(logits: &[f32], top_p: f32) -> Vec<(u32, f32)> {
    let all = log_sum_exp(logits);
    let highest = highest(logits);
    for reach in [4.0, 12.0, f32::INFINITY] {
        let probable = (0..).zip(logits).filter(|(_, logit)| **logit >= highest - reach);
        let probability = |logit: f32| (f64::from(logit) - all).exp() as f32;
        let mut ranked: Vec<(u32, f32)> =
            probable.map(|(token, &logit)| (token, probability(logit))).collect();
        ranked.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut mass = 0.0;
        let reached = ranked.iter().position(|(_, probability)| {
            mass += f64::from(*probability);
            mass >= f64::from(top_p)
        });
        match reached {
            Some(last) => ranked.truncate(last + 1),
            None if reach.is_finite() => continue,
            None => {}
        }
        return ranked;
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: [f32; 4] = [0.0; 4];

    fn sampler(temperature: f32, top_p: f32, seed: u64) -> Sampler {
        Sampler::new(Sampling::TopP { temperature, top_p }, seed, &[1, 2], 0)
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut greedy = Sampler::new(Sampling::Greedy, 0, &[], 0);
        assert_eq!(greedy.choose(&[0.0, 2.0, 2.0, -1.0]), Ok(1));
    }

    #[test]
    fn fault_t07_logits_that_are_not_finite_choose_nothing() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut greedy = Sampler::new(Sampling::Greedy, 0, &[], 0);
            assert_eq!(greedy.choose(&[0.0, bad]), Err(NotFinite));
            assert_eq!(sampler(1.0, 0.9, 0).choose(&[bad; 3]), Err(NotFinite));
        }
    }

    #[test]
    fn seeds_repeat_and_differ() {
        let draws = |seed| {
            let mut sampler = sampler(1.0, 1.0, seed);
            (0..64).map(|_| sampler.choose(&EVEN).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draws(7), draws(7));
        assert_ne!(draws(7), draws(8));
    }

    #[test]
    fn frequencies_follow_probabilities() {
        // Softmax of ln 1, ln 2, ln 4 at temperature 1: 1/7, 2/7, 4/7.
        let logits = [1.0_f32.ln(), 2.0_f32.ln(), 4.0_f32.ln()];
        let mut sampler = sampler(1.0, 1.0, 3);
        let mut counts = [0_usize; 3];
        (0..7000).for_each(|_| counts[sampler.choose(&logits).unwrap() as usize] += 1);
        for (count, expected) in counts.into_iter().zip([1000, 2000, 4000]) {
            // Four standard deviations of a binomial draw, at most sqrt(7000 / 4) = 42 each.
            assert!(count.abs_diff(expected) < 168, "{counts:?}");
        }
    }

    #[test]
    fn the_first_of_the_largest_is_found_wherever_it_is() {
        for size in [1, RUN - 1, RUN, 5 * RUN + 3] {
            for at in 0..size {
                let mut logits: Vec<f32> = (0..size).map(|i| -((i % 7) as f32)).collect();
                logits[at] = 1.0;
                assert_eq!(argmax(&logits), at as u32);
                logits[size - 1] = 1.0;
                assert_eq!(argmax(&logits), at as u32);
                assert!(are_finite(&logits));
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    logits[at] = bad;
                    assert!(!are_finite(&logits));
                }
            }
        }
        assert_eq!(argmax(&[]), 0);
    }

    #[test]
    fn the_nucleus_is_the_smallest_that_reaches_the_mass() {
        let logits = [0.1_f32, 0.4, 0.2, 0.3].map(f32::ln);
        let tokens = |top_p| nucleus(&logits, top_p).iter().map(|t| t.0).collect::<Vec<_>>();
        assert_eq!(tokens(0.35), [1]);
        assert_eq!(tokens(0.65), [1, 3]);
        assert_eq!(tokens(1.0), [1, 3, 2, 0]);
        let flat = vec![0.0; 4096];
        assert_eq!(nucleus(&flat, 0.5).len(), 2048);
        // A temperature near 0 is greedy.
        for temperature in [1e-3, 1e-30, f32::MIN_POSITIVE] {
            let mut cold = sampler(temperature, 0.95, 1);
            assert_eq!(cold.choose(&[0.5, 3.0, 2.0, -4.0]), Ok(1), "{temperature}");
        }
        // What is far below counts where the rest does not reach, and not before.
        let mut steep = vec![-20.0; 4096];
        steep[7] = 0.0;
        let first = nucleus(&steep, 0.99);
        assert!(first.len() == 1 && first[0].0 == 7 && (first[0].1 - 0.999_991_6).abs() < 1e-6);
        // 3.4 millionths more, of 4,095 that have 8.4 together.
        let found = nucleus(&steep, 0.999_995).len();
        assert!((1500..1800).contains(&found), "{found}");
    }
}
