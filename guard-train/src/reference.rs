//! The frozen model's log-probabilities, computed once and kept on disk.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use guard_core::{Llama, ModelError, WeightsError};
use guard_data::{LineLog, LineLogError, Observer, Progress};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::encode::PairWeight;
use crate::example::TrainingExample;
use crate::fingerprint::{self, Weights};
use crate::hs_dpo::{AnswerTokens, PreferencePair};
use crate::llama_trainer::batches;
use crate::options::TrainOptions;
use crate::pass::log_probs;

/// Why reference log-probabilities cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// A pair cannot go through the model.
    #[error("pair {pair} cannot be read by the reference model")]
    Model {
        /// The pair, from 0: the row of its source where that is known.
        pair: usize,
        /// What is wrong.
        source: ModelError,
    },
    /// A log-probability is NaN or infinite: the reference model is broken.
    #[error("the reference model gives pair {pair} a log-probability of {found}")]
    NotFinite {
        /// The pair, from 0: the row of its source where that is known.
        pair: usize,
        /// The sum.
        found: f64,
    },
    /// A pair has not two answers of at least one target token each.
    #[error("pair {pair} has {found} answers with something to learn, expected 2")]
    NoPair {
        /// The pair, from 0: the row of its source where that is known.
        pair: usize,
        /// Its answers with target tokens.
        found: usize,
    },
    /// The cache cannot be used.
    #[error(transparent)]
    Cache(#[from] LineLogError),
    /// A line of the cache is not one of ours.
    #[error("{}, line {line}: {reason}; remove the file to compute it again", path.display())]
    Line {
        /// The cache.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The weights could not be read from their device.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The observer ended the run. What was computed is in the cache.
    #[error("stopped after {done} pairs")]
    Stopped {
        /// The pairs that are done.
        done: usize,
    },
}

/// A line of the cache: the sums of log-probabilities of a pair's answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    pair: usize,
    chosen: f64,
    rejected: f64,
}

/// Adds to each pair what the reference model says of it: the model that training starts from,
/// without adapters.
///
/// With a folder, the numbers are kept there in a file named by the hash of model and pairs, so
/// another model, other data or another template never finds them; a run that was stopped goes on.
///
/// # Errors
///
/// [`ReferenceError`] names the pair or the file.
pub fn with_reference(
    model: &Llama,
    pairs: Vec<TrainingExample<PairWeight>>,
    options: &TrainOptions,
    cache: Option<&Path>,
    observer: &mut dyn Observer,
) -> Result<Vec<TrainingExample<PreferencePair>>, ReferenceError> {
    let model = model.without_adapters();
    check(&model, &pairs)?;
    let mut known = vec![None; pairs.len()];
    let mut log = match cache {
        Some(folder) => Some(open(&file_of(folder, &model, &pairs, options)?, &mut known)?),
        None => None,
    };
    let missing: Vec<usize> = (0..pairs.len()).filter(|&pair| known[pair].is_none()).collect();
    let mut done = pairs.len() - missing.len();
    // Few enough pairs at a time that a stop loses little, and sorted by length within them.
    for part in missing.chunks(64) {
        let examples: Vec<_> = part.iter().map(|&pair| &pairs[pair]).collect();
        for batch in batches(&examples, options) {
            let number =
                |example| part.iter().copied().find(|&at| std::ptr::eq(&pairs[at], example));
            let numbers: Vec<usize> = batch.iter().filter_map(|&example| number(example)).collect();
            for line in read(&model, &batch, &numbers, options)? {
                if let Some(log) = &mut log {
                    log.append(json!(line).to_string().as_bytes())?;
                }
                known[line.pair] = Some(line);
            }
        }
        done += part.len();
        let progress =
            Progress::new("reference log-probabilities", done as u64, Some(pairs.len() as u64));
        if observer.on_progress(&progress) == ControlFlow::Break(()) {
            return Err(ReferenceError::Stopped { done });
        }
    }
    let scored = pairs.into_iter().zip(known).filter_map(|(pair, line)| Some(score(pair, line?)));
    Ok(scored.collect())
}

fn check(model: &Llama, pairs: &[TrainingExample<PairWeight>]) -> Result<(), ReferenceError> {
    for (place, example) in pairs.iter().enumerate() {
        let pair = example.row_or(place);
        let found = example.answers.iter().filter(|answer| answer.target_tokens() > 0).count();
        if found != 2 || example.answers.len() != 2 {
            return Err(ReferenceError::NoPair { pair, found });
        }
        example.check(model.config()).map_err(|source| ReferenceError::Model { pair, source })?;
    }
    Ok(())
}

fn read(
    model: &Llama,
    batch: &[&TrainingExample<PairWeight>],
    numbers: &[usize],
    options: &TrainOptions,
) -> Result<Vec<Line>, ReferenceError> {
    let first = batch.iter().zip(numbers).map(|(example, &place)| example.row_or(place)).next();
    let log_probs = log_probs(model, batch, options)
        .map_err(|source| ReferenceError::Model { pair: first.unwrap_or(0), source })?;
    let mut rest = log_probs.as_slice();
    let mut lines = Vec::with_capacity(batch.len());
    for (example, &pair) in batch.iter().zip(numbers) {
        let mut sum = |answer: usize| {
            let count = example.answers[answer].target_tokens();
            let (these, after) = rest.split_at(count);
            rest = after;
            let found: f64 = these.iter().copied().map(f64::from).sum();
            if found.is_finite() {
                Ok(found)
            } else {
                Err(ReferenceError::NotFinite { pair: example.row_or(pair), found })
            }
        };
        lines.push(Line { pair, chosen: sum(0)?, rejected: sum(1)? });
    }
    Ok(lines)
}

fn score(pair: TrainingExample<PairWeight>, line: Line) -> TrainingExample<PreferencePair> {
    let tokens = |answer: usize, reference| {
        AnswerTokens::new(pair.answers[answer].target_tokens(), reference)
    };
    let example = PreferencePair::new(tokens(0, line.chosen), tokens(1, line.rejected));
    let example = example.with_weight(pair.example.weight);
    let row = pair.row();
    let scored = TrainingExample::new(pair.answers, example);
    match row {
        Some(row) => scored.with_row(row),
        None => scored,
    }
}

/// The cache of this model and these pairs. How the batches are cut moves the last digits only,
/// and is left out; the precision is not.
fn file_of(
    folder: &Path,
    model: &Llama,
    pairs: &[TrainingExample<PairWeight>],
    options: &TrainOptions,
) -> Result<PathBuf, ReferenceError> {
    let mut hash = Sha256::new_with_prefix(fingerprint::of_model(model, Weights::All)?);
    // Weights change the loss and not what the model says.
    for pair in pairs {
        hash.update(format!("{:?}", pair.answers));
    }
    hash.update(format!("{:?}", options.precision));
    let name = format!("reference-{}.jsonl", &fingerprint::hex(hash)[..32]);
    std::fs::create_dir_all(folder).map_err(|source| LineLogError::Io {
        action: "make",
        path: folder.to_owned(),
        source,
    })?;
    Ok(folder.join(name))
}

/// Opens the cache and reads what it knows. A line that a kill tore is cut off.
fn open(path: &Path, known: &mut [Option<Line>]) -> Result<LineLog, ReferenceError> {
    let mut log = LineLog::open(path)?;
    log.cut_torn_line()?;
    for (number, line) in (1..).zip(log.lines()?) {
        let bad =
            |reason: String| ReferenceError::Line { path: path.to_owned(), line: number, reason };
        let line: Line = serde_json::from_slice(&line?).map_err(|error| bad(error.to_string()))?;
        let finite = line.chosen.is_finite() && line.rejected.is_finite();
        match known.get_mut(line.pair) {
            Some(place) if finite => *place = Some(line),
            Some(_) => return Err(bad("a number is not finite".to_owned())),
            None => return Err(bad(format!("there is no pair {}", line.pair))),
        }
    }
    Ok(log)
}
