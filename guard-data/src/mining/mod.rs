//! Hard samples: what a model gets right in some of its attempts and wrong in others (paper,
//! section 2.2).

mod ensemble;
mod error;
mod generations;
mod pair;
mod report;
mod select;

use std::fmt;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use guard_core::parse::{ParsedOutput, parse_output};
use guard_core::{Answer, Label, Labels, Reason, Task};

use crate::reasoned::ReasonedSample;

pub use ensemble::{EnsembleMember, MergeRule, Merged, merge_ensemble};
pub use error::MiningError;
pub use generations::{GenerationFiles, GenerationRun};
pub use pair::{PreferencePair, Votes, check_pair_path, read_pairs, write_pairs};
pub use report::MiningReport;
pub use select::{Selection, UnknownSelection};

/// A sample and what a model wrote for it, several times. `Debug` shows how many texts there are.
#[derive(Clone)]
#[non_exhaustive]
pub struct Generations {
    /// The sample, whose output holds the labels.
    pub sample: ReasonedSample,
    /// The texts, in the order in which they were drawn.
    pub texts: Vec<String>,
}

impl fmt::Debug for Generations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generations")
            .field("sample", &self.sample)
            .field("texts", &self.texts.len())
            .finish()
    }
}

impl Generations {
    /// The texts that a model wrote for a sample.
    #[must_use]
    pub fn new(sample: ReasonedSample, texts: Vec<String>) -> Self {
        Self { sample, texts }
    }
}

/// What happens to a text without a whole block of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Unparsed {
    /// It is left out, for all tasks (released code).
    #[default]
    Dropped,
    /// It is wrong: a guard that gives no answer blocks. For each task on its own.
    Wrong,
}

/// Which texts may be chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Chosen {
    /// Those that are right on the task of the pair (released code), whatever they say on others.
    #[default]
    RightOnTask,
    /// Those that are right on every labelled task.
    RightOnAll,
}

/// The rules by which pairs are mined.
///
/// A sample gives at most one pair: for the first of the request, the response and the completion
/// on which its texts disagree. What is compared are the parser's answers and the labels that the
/// sample's own output gives; a task without a label, or about a response that is not there, is
/// passed over.
///
/// ```
/// use guard_data::{Exchange, Generations, Mining, ReasonedSample, Selection};
///
/// let text = |steps: &str, label| format!("{steps}\n\nAnswers: \nRequest: {label}\nCompletion: None\nResponse: None\n");
/// let sample = ReasonedSample::new(&Exchange::prompt("How is bread baked?"), text("", "unharmful"));
/// let texts = vec![text("It is food.", "unharmful"), text("It burns.", "harmful")];
/// let mined = Mining::paper(7).mine([Generations::new(sample, texts.clone())]);
/// assert_eq!((&mined.pairs[0].chosen, &mined.pairs[0].rejected), (&texts[0], &texts[1]));
/// assert_eq!(mined.pairs[0].sample_weight, 1.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Mining {
    /// Which of the right, and which of the wrong texts make the pair.
    pub selection: Selection,
    /// Which texts may be chosen.
    pub chosen: Chosen,
    /// What happens to texts without answers.
    pub unparsed: Unparsed,
    /// The weights are from 1 - gamma to 1 + gamma; from 0 to below 1 (paper, equation 3).
    pub gamma: f64,
    /// The seed of random selection.
    pub seed: u64,
}

impl Mining {
    /// As the paper describes it: a right and a wrong text at random, gamma 0.2.
    #[must_use]
    pub fn paper(seed: u64) -> Self {
        Self {
            selection: Selection::Random,
            chosen: Chosen::RightOnTask,
            unparsed: Unparsed::Dropped,
            gamma: 0.2,
            seed,
        }
    }

    /// By the released code's rule: the longest right and the longest wrong text, gamma 0.2.
    ///
    /// Answers and labels are read by this project's parser, and a response is there if the sample has
    /// one. The released script takes the first match of each name in the whole text, and takes a
    /// response that begins with `None` for none: on texts that answer once, both read the same.
    #[must_use]
    pub fn released() -> Self {
        Self { selection: Selection::Longest, ..Self::paper(0) }
    }

    /// The same rules with another selection.
    #[must_use]
    pub fn with_selection(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// The same rules with other texts that may be chosen.
    #[must_use]
    pub fn with_chosen(mut self, chosen: Chosen) -> Self {
        self.chosen = chosen;
        self
    }

    /// The same rules with another fate of texts without answers.
    #[must_use]
    pub fn with_unparsed(mut self, unparsed: Unparsed) -> Self {
        self.unparsed = unparsed;
        self
    }

    /// The same rules with another width of the weights.
    ///
    /// # Errors
    ///
    /// [`MiningError::Gamma`] unless it is at least 0 and below 1.
    pub fn with_gamma(mut self, gamma: f64) -> Result<Self, MiningError> {
        if !(0.0..1.0).contains(&gamma) {
            return Err(MiningError::Gamma { gamma });
        }
        self.gamma = gamma;
        Ok(self)
    }

    /// The pairs of one file of one model: the weights span the samples that are given together.
    pub fn mine(&self, samples: impl IntoIterator<Item = Generations>) -> Mined {
        let mut mined = Mined::default();
        for generations in samples {
            if let Some(pair) = self.pair(&generations, &mut mined.report) {
                mined.pairs.push(pair);
            }
        }
        weigh(&mut mined.pairs, self.gamma);
        mined
    }

    fn pair(&self, generations: &Generations, report: &mut MiningReport) -> Option<PreferencePair> {
        const ORDER: [Task; 3] = [Task::Request, Task::Response, Task::Completion];
        let sample = &generations.sample;
        let labels = sample.labels();
        let read: Vec<Reading> = generations.texts.iter().map(|text| Reading::of(text)).collect();
        report.record_texts(&read);
        let labelled = ORDER.into_iter().filter(|task| labels.positive(*task).is_some());
        let (task, sides) = labelled
            .map(|task| (task, self.sides(task, &labels, &read)))
            .inspect(|(task, sides)| report.record_task(*task, sides))
            .find(|(_, sides)| sides.is_hard())?;
        let right = self.choosable(&sides.right, &labels, &read);
        let mut rng = self.rng(sample);
        let mut pick = |places: &[usize]| {
            self.selection.pick(places, |place| generations.texts[place].chars().count(), &mut rng)
        };
        let has_text = |place: &usize| !generations.texts[*place].trim().is_empty();
        let wrong: Vec<usize> = sides.wrong.iter().copied().filter(has_text).collect();
        let (Some(chosen), Some(rejected)) = (pick(&right), pick(&wrong)) else {
            report.unpaired += 1;
            return None;
        };
        report.record_pair(task);
        let mut pair = PreferencePair::new(
            sample,
            generations.texts[chosen].as_str(),
            generations.texts[rejected].as_str(),
        );
        pair.task = Some(task);
        pair.votes = Some(sides.votes());
        Some(pair)
    }

    /// The texts that are right and wrong on a task.
    fn sides(&self, task: Task, labels: &Labels, read: &[Reading]) -> Sides {
        let mut sides = Sides::default();
        for (place, reading) in read.iter().enumerate() {
            let counts = match self.unparsed {
                Unparsed::Dropped => reading.is_whole,
                Unparsed::Wrong => true,
            };
            if counts && reading.is_right(task, labels) {
                sides.right.push(place);
            } else if counts {
                sides.wrong.push(place);
            }
        }
        sides
    }

    fn choosable(&self, right: &[usize], labels: &Labels, read: &[Reading]) -> Vec<usize> {
        let right_on_all = |place: &usize| {
            let labelled = |task: &Task| labels.positive(*task).is_some();
            Task::ALL.into_iter().filter(labelled).all(|task| read[*place].is_right(task, labels))
        };
        // A text that was cut off behind its first answer is no example to follow.
        let whole = right.iter().copied().filter(|place| read[*place].is_whole);
        match self.chosen {
            Chosen::RightOnTask => whole.collect(),
            Chosen::RightOnAll => whole.filter(right_on_all).collect(),
        }
    }

    /// Draws that depend on the seed and the sample, not on the samples before it.
    fn rng(&self, sample: &ReasonedSample) -> ChaCha8Rng {
        let mut hasher = Sha256::new();
        hasher.update(self.seed.to_le_bytes());
        hasher.update(&sample.input);
        ChaCha8Rng::from_seed(hasher.finalize().into())
    }
}

/// Pairs, and how they came about.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Mined {
    /// The pairs, in the order of their samples.
    pub pairs: Vec<PreferencePair>,
    /// The counts.
    pub report: MiningReport,
}

/// The places of the texts that are right, and wrong, on a task.
#[derive(Default)]
struct Sides {
    right: Vec<usize>,
    wrong: Vec<usize>,
}

impl Sides {
    fn votes(&self) -> Votes {
        Votes { correct: self.right.len(), incorrect: self.wrong.len() }
    }

    fn is_hard(&self) -> bool {
        !self.right.is_empty() && !self.wrong.is_empty()
    }
}

/// What a text says.
struct Reading {
    labels: Labels,
    /// Whether it names all three tasks, with whatever word.
    is_whole: bool,
}

impl Reading {
    fn of(text: &str) -> Self {
        let parsed = parse_output(text);
        let is_whole =
            is_named(parsed.request) && is_named(parsed.completion) && is_named(parsed.response);
        let ParsedOutput { request, completion, response, .. } = parsed;
        let labels = Labels {
            request: request.given(),
            completion: completion.given(),
            response: response.given(),
        };
        Self { labels, is_whole }
    }

    fn is_right(&self, task: Task, labels: &Labels) -> bool {
        self.labels.positive(task) == labels.positive(task)
    }
}

fn is_named<L: Label>(answer: Answer<L>) -> bool {
    !matches!(answer.undetermined(), Some(Reason::NoAnswers | Reason::MissingAnswer))
}

/// Weights 1 + Norm(incorrect - correct, gamma): from 1 - gamma for the pair that was easiest to
/// 1 + gamma for the hardest; 1 where all are alike (paper, equation 3).
fn weigh(pairs: &mut [PreferencePair], gamma: f64) {
    let hardness = |pair: &PreferencePair| {
        pair.votes.map_or(0.0, |votes| votes.incorrect as f64 - votes.correct as f64)
    };
    let least = pairs.iter().map(hardness).fold(f64::INFINITY, f64::min);
    let most = pairs.iter().map(hardness).fold(f64::NEG_INFINITY, f64::max);
    for pair in pairs {
        if most > least {
            let share = (hardness(pair) - least) / (most - least);
            pair.sample_weight = 1.0 + gamma * (2.0 * share - 1.0);
        }
    }
}

#[cfg(test)]
mod tests;
