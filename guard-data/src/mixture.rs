//! Several sources as one.

use std::fmt;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::sample::Sample;
use crate::source::{SampleSource, Samples, SourceError};

/// Sources mixed by weight: a source of weight 2 gives each of its samples twice, one of weight 0.5
/// gives each with a probability of one half.
///
/// The sources take turns at random, in proportion to their weights, and each keeps its own order.
/// The same seed gives the same samples in the same order. Second and further copies of a sample
/// have `#2` and so on behind their id. Errors of a source come through once.
///
/// ```
/// use guard_data::{InMemorySource, Mixture, Sample, SampleSource};
///
/// let source = |name| InMemorySource::new(name, vec![Sample::new("1", name, "hi")]);
/// let mixture = Mixture::new("both", 7).with(source("a"), 1.0)?.with(source("b"), 2.0)?;
/// assert_eq!(mixture.samples()?.count(), 3);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Mixture {
    name: String,
    seed: u64,
    parts: Vec<(Arc<dyn SampleSource>, f64)>,
}

impl Mixture {
    /// A mixture of nothing so far.
    pub fn new(name: impl Into<String>, seed: u64) -> Self {
        Self { name: name.into(), seed, parts: Vec::new() }
    }

    /// The same mixture with one more source.
    ///
    /// # Errors
    ///
    /// [`WeightError`] for a weight that is not above 0 and at most 1,000.
    pub fn with(
        mut self,
        source: impl SampleSource + 'static,
        weight: f64,
    ) -> Result<Self, WeightError> {
        if !(weight > 0.0 && weight <= 1000.0) {
            return Err(WeightError { source_name: source.name().to_owned(), weight });
        }
        self.parts.push((Arc::new(source), weight));
        Ok(self)
    }

    fn open(&self, part: usize) -> Result<Part<'_>, SourceError> {
        let (source, weight) = &self.parts[part];
        // Each source draws from a stream of its own: another weight of one source changes
        // nothing about which samples the others give.
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(part as u64 + 1);
        Ok(Part { samples: copies(source.samples()?, *weight, rng), weight: *weight })
    }
}

impl fmt::Debug for Mixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts.iter().map(|(source, weight)| (source.name(), weight));
        f.debug_struct("Mixture")
            .field("name", &self.name)
            .field("seed", &self.seed)
            .field("parts", &parts.collect::<Vec<_>>())
            .finish()
    }
}

/// A weight that no source can have.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the weight of `{source_name}` must be above 0 and at most 1000, found {weight}")]
pub struct WeightError {
    /// The name of the source.
    pub source_name: String,
    /// The weight that it was to have.
    pub weight: f64,
}

impl SampleSource for Mixture {
    fn name(&self) -> &str {
        &self.name
    }

    fn samples(&self) -> Result<Samples<'_>, SourceError> {
        let parts = (0..self.parts.len()).map(|part| self.open(part));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let mut turns = Turns { parts, rng: ChaCha8Rng::seed_from_u64(self.seed) };
        Ok(Box::new(std::iter::from_fn(move || turns.next_sample())))
    }
}

struct Part<'a> {
    samples: Samples<'a>,
    weight: f64,
}

struct Turns<'a> {
    parts: Vec<Part<'a>>,
    rng: ChaCha8Rng,
}

impl Turns<'_> {
    /// The next sample of a source that is drawn among those that still have some.
    fn next_sample(&mut self) -> Option<Result<Sample, SourceError>> {
        while !self.parts.is_empty() {
            let total: f64 = self.parts.iter().map(|part| part.weight).sum();
            let mut draw = self.rng.random_range(0.0..total);
            let chosen = self.parts.iter().position(|part| {
                draw -= part.weight;
                draw < 0.0
            });
            let chosen = chosen.unwrap_or(self.parts.len() - 1);
            match self.parts[chosen].samples.next() {
                Some(sample) => return Some(sample),
                None => drop(self.parts.remove(chosen)),
            }
        }
        None
    }
}

/// Each sample as often as the weight says.
fn copies(samples: Samples<'_>, weight: f64, mut rng: ChaCha8Rng) -> Samples<'_> {
    Box::new(samples.flat_map(move |sample| {
        let draw: f64 = rng.random();
        let count = weight.floor() as usize + usize::from(draw < weight.fract());
        match sample {
            Ok(sample) => (1..=count).map(|copy| Ok(numbered(&sample, copy))).collect(),
            Err(error) => vec![Err(error)],
        }
    }))
}

fn numbered(sample: &Sample, copy: usize) -> Sample {
    let mut sample = sample.clone();
    if copy > 1 {
        sample.id = format!("{}#{copy}", sample.id);
    }
    sample
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::InMemorySource;

    fn source(name: &str, count: usize) -> InMemorySource {
        let samples = (0..count).map(|id| Sample::new(id.to_string(), name, "p")).collect();
        InMemorySource::new(name, samples)
    }

    fn read(mixture: &Mixture) -> Vec<(String, String)> {
        let samples = mixture.samples().unwrap().map(Result::unwrap);
        samples.map(|sample| (sample.source, sample.id)).collect()
    }

    #[test]
    fn weights_are_copies_and_a_seed_is_an_order() {
        let mix = |seed| {
            let mixture = Mixture::new("m", seed);
            mixture.with(source("a", 1000), 0.5).unwrap().with(source("b", 100), 2.25).unwrap()
        };
        let read_once = read(&mix(1));
        assert_eq!(read_once, read(&mix(1)), "the same seed");
        assert_ne!(read_once, read(&mix(2)), "another seed");
        let count = |name: &str| read_once.iter().filter(|(source, _)| source == name).count();
        // Half of 1,000, and 100 twice with a quarter a third time: four deviations are 63 and 17.
        assert!((437..=563).contains(&count("a")), "{}", count("a"));
        assert!((208..=242).contains(&count("b")), "{}", count("b"));
        assert!(read_once.contains(&("b".into(), "0#2".into())));
        let places = read_once.iter().enumerate().filter(|(_, (name, _))| name == "b");
        let first_half = places.filter(|(place, _)| *place < read_once.len() / 2).count();
        assert!(first_half > 50, "sources take turns");
    }

    #[test]
    fn all_samples_come_once_at_weight_one() {
        let mixture = Mixture::new("m", 3).with(source("a", 50), 1.0).unwrap();
        let mixture = mixture.with(source("b", 70), 1.0).unwrap();
        let mut all = read(&mixture);
        let of_a: Vec<_> = all.iter().filter(|(name, _)| name == "a").map(|(_, id)| id).collect();
        let expected: Vec<String> = (0..50).map(|id| id.to_string()).collect();
        assert_eq!(of_a, expected.iter().collect::<Vec<_>>(), "each keeps its order");
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 120);
    }

    #[test]
    fn impossible_weights_are_refused() {
        for weight in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e6] {
            assert!(Mixture::new("m", 0).with(source("a", 1), weight).is_err());
        }
    }
}
