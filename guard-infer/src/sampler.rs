//! Choosing the next token from logits.

use std::cmp::Ordering;

use guard_core::{Sampling, softmax};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Chooses tokens for one completion.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

/// Memory that draws use again.
#[derive(Debug, Default)]
pub(crate) struct Draws {
    probabilities: Vec<f32>,
    nucleus: Vec<Candidate>,
}

/// A token and its probability.
type Candidate = (u32, f32);

/// Logits of which some is not finite: the model is broken, or its input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotFinite;

impl Sampler {
    /// A sampler whose draws depend on the seed, the prompt and the number of the sample only.
    pub(crate) fn new(sampling: Sampling, seed: u64, prompt: &[u32], sample: usize) -> Self {
        let bytes =
            prompt.iter().flat_map(|id| id.to_le_bytes()).chain((sample as u64).to_le_bytes());
        let rng = ChaCha8Rng::seed_from_u64(seed ^ fnv1a(bytes));
        Self { sampling, rng }
    }

    /// The next token.
    pub(crate) fn choose(&mut self, logits: &[f32], memory: &mut Draws) -> Result<u32, NotFinite> {
        if !are_finite(logits) {
            return Err(NotFinite);
        }
        match self.sampling {
            Sampling::TopP { temperature, top_p } => {
                softmax(logits, temperature, &mut memory.probabilities);
                nucleus(&memory.probabilities, top_p, &mut memory.nucleus);
                Ok(self.draw(&memory.nucleus))
            }
            _ => Ok(argmax(logits)),
        }
    }

    fn draw(&mut self, nucleus: &[Candidate]) -> u32 {
        let mut rest = self.rng.random::<f64>() * mass(nucleus);
        for (token, probability) in nucleus {
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

/// The largest. Eight at a time: each comparison waits for the one before it.
fn highest(values: &[f32]) -> f32 {
    let larger = |top: f32, value: f32| if value > top { value } else { top };
    let (eights, rest) = values.as_chunks::<8>();
    let mut tops = [f32::NEG_INFINITY; 8];
    for eight in eights {
        for (top, value) in tops.iter_mut().zip(eight) {
            *top = larger(*top, *value);
        }
    }
    tops.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
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

/// The most probable tokens, as few as reach `top_p` together, in their own order.
///
/// A vocabulary is too long to be ranked for every token. What is far less probable than the first is left
/// aside, and looked at only where the rest does not reach.
fn nucleus(probabilities: &[f32], top_p: f32, kept: &mut Vec<Candidate>) {
    let enough = f64::from(top_p);
    let most = highest(probabilities);
    for least in [most * 1e-3, most * 1e-6, 0.0] {
        keep_from(probabilities, least, kept);
        if mass(kept) >= enough {
            break;
        }
    }
    // All of them sum up to 1 but for rounding.
    if top_p < 1.0 {
        let count = reach(kept, enough);
        kept.truncate(count);
        kept.sort_unstable_by_key(|(token, _)| *token);
    }
}

/// The tokens that have at least this probability.
fn keep_from(probabilities: &[f32], least: f32, kept: &mut Vec<Candidate>) {
    /// Few tokens have: as many as these are passed over at once.
    const FEW: usize = 16;
    kept.clear();
    for (few, first) in probabilities.chunks(FEW).zip((0..).step_by(FEW)) {
        if highest(few) >= least {
            let numbered = (first..).zip(few.iter().copied());
            kept.extend(numbered.filter(|(_, probability)| *probability >= least));
        }
    }
}

fn mass(candidates: &[Candidate]) -> f64 {
    candidates.iter().map(|(_, probability)| f64::from(*probability)).sum()
}

/// Puts the most probable candidates first, and says how many of them reach `enough` together: all, where they
/// do not.
fn reach(candidates: &mut [Candidate], enough: f64) -> usize {
    let falling =
        |a: &Candidate, b: &Candidate| -> Ordering { b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)) };
    // Those before `low` are among them and have `before` together; those from `high` on are not.
    let (mut low, mut high, mut before) = (0, candidates.len(), 0.0);
    while low < high {
        let middle = low + (high - low) / 2;
        candidates[low..high].select_nth_unstable_by(middle - low, falling);
        let upper = mass(&candidates[low..middle]);
        let with_middle = before + upper + f64::from(candidates[middle].1);
        if before + upper >= enough {
            high = middle;
        } else if with_middle >= enough {
            return middle + 1;
        } else {
            (low, before) = (middle + 1, with_middle);
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVEN: [f32; 4] = [0.0; 4];

    /// The next token, in memory of its own.
    fn choose(sampler: &mut Sampler, logits: &[f32]) -> Result<u32, NotFinite> {
        sampler.choose(logits, &mut Draws::default())
    }

    fn sampler(temperature: f32, top_p: f32, seed: u64) -> Sampler {
        Sampler::new(Sampling::TopP { temperature, top_p }, seed, &[1, 2], 0)
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        let mut greedy = Sampler::new(Sampling::Greedy, 0, &[], 0);
        assert_eq!(choose(&mut greedy, &[0.0, 2.0, 2.0, -1.0]), Ok(1));
    }

    #[test]
    fn fault_t07_logits_that_are_not_finite_choose_nothing() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut greedy = Sampler::new(Sampling::Greedy, 0, &[], 0);
            assert_eq!(choose(&mut greedy, &[0.0, bad]), Err(NotFinite));
            assert_eq!(choose(&mut sampler(1.0, 0.9, 0), &[bad; 3]), Err(NotFinite));
        }
    }

    #[test]
    fn seeds_repeat_and_differ() {
        let draws = |seed| {
            let mut sampler = sampler(1.0, 1.0, seed);
            (0..64).map(|_| choose(&mut sampler, &EVEN).unwrap()).collect::<Vec<_>>()
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
        (0..7000).for_each(|_| counts[choose(&mut sampler, &logits).unwrap() as usize] += 1);
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
        let found = |probabilities: &[f32], top_p| {
            let mut kept = vec![(9, 9.0)];
            nucleus(probabilities, top_p, &mut kept);
            kept.iter().map(|t| t.0).collect::<Vec<_>>()
        };
        let four = [0.1, 0.4, 0.2, 0.3];
        assert_eq!(found(&four, 0.35), [1]);
        assert_eq!(found(&four, 0.65), [1, 3]);
        assert_eq!(found(&four, 0.75), [1, 2, 3]);
        assert_eq!(found(&four, 1.0), [0, 1, 2, 3]);
        let flat = vec![1.0 / 4096.0; 4096];
        assert_eq!(found(&flat, 0.5), (0..2048).collect::<Vec<_>>());
        assert_eq!(found(&flat, 1.0).len(), 4096);
        // A temperature near 0 is greedy.
        for temperature in [1e-3, 1e-30, f32::MIN_POSITIVE] {
            let mut cold = sampler(temperature, 0.95, 1);
            assert_eq!(choose(&mut cold, &[0.5, 3.0, 2.0, -4.0]), Ok(1), "{temperature}");
        }
        // What is far below counts where the rest does not reach, and not before.
        let mut steep = vec![2e-9; 4096];
        steep[7] = 0.999_991_6;
        assert_eq!(found(&steep, 0.99), [7]);
        // 3.4 millionths more, at 2 billionths each.
        let count = found(&steep, 0.999_995).len();
        assert!((1650..1750).contains(&count), "{count}");
    }

    /// Ranked in full, as the definition has it.
    fn ranked(probabilities: &[f32], top_p: f32) -> Vec<u32> {
        let mut all: Vec<Candidate> = (0..).zip(probabilities.iter().copied()).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut sum = 0.0;
        let count = all.iter().take_while(|(_, probability)| {
            let goes_on = sum < f64::from(top_p);
            sum += f64::from(*probability);
            goes_on
        });
        let mut tokens: Vec<u32> = count.map(|(token, _)| *token).collect();
        tokens.sort_unstable();
        tokens
    }

    proptest::proptest! {
        #[test]
        fn the_nucleus_is_that_of_a_full_ranking(
            logits in proptest::collection::vec(-12.0_f32..4.0, 1..600),
            // Halves, so that some are equal.
            is_coarse: bool, temperature in 0.2_f32..2.0, top_p in 0.01_f32..0.999,
        ) {
            let coarse = |logit: &f32| if is_coarse { (logit * 2.0).round() / 2.0 } else { *logit };
            let logits: Vec<f32> = logits.iter().map(coarse).collect();
            let (mut probabilities, mut kept) = (Vec::new(), Vec::new());
            softmax(&logits, temperature, &mut probabilities);
            nucleus(&probabilities, top_p, &mut kept);
            let found: Vec<u32> = kept.iter().map(|t| t.0).collect();
            // Sums in another order may differ where they just reach: then by one token.
            let expected = ranked(&probabilities, top_p);
            let sum: f64 = mass(&kept);
            let is_close = (sum - f64::from(top_p)).abs() < 1e-9 && found.len().abs_diff(expected.len()) <= 1;
            proptest::prop_assert!(found == expected || is_close, "{found:?} {expected:?}");
        }
    }
}
