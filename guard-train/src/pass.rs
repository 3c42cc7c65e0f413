//! A batch of examples through the model, and back.

use guard_core::burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use guard_core::{Gradients, Llama, ModelError, PackedBatch};

use crate::example::TrainingExample;
use crate::objective::{Contribution, Objective, ObjectiveError, Window, add_numbers};
use crate::options::TrainOptions;

/// Why a batch could not go through the model.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PassError {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
}

/// A batch as the model reads it.
struct Rows<'a, E> {
    examples: &'a [&'a TrainingExample<E>],
    packed: PackedBatch,
    /// Where in the batch each target token is predicted, example by example.
    places: Vec<usize>,
    targets: Vec<u32>,
}

impl<'a, E> Rows<'a, E> {
    /// `None` when there is no token to learn.
    fn new(examples: &'a [&'a TrainingExample<E>]) -> Result<Option<Self>, ModelError> {
        let answers = || examples.iter().flat_map(|example| &example.answers);
        let (mut rows, mut places, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        let mut start = 0;
        for answer in answers().filter(|answer| answer.target_tokens() > 0) {
            places.extend(answer.places().map(|place| start + place));
            targets.extend_from_slice(answer.targets());
            rows.push(answer.read());
            start += answer.read().len();
        }
        if rows.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { examples, packed: PackedBatch::new(&rows)?, places, targets }))
    }

    /// Runs of whole examples with about `chunk` target tokens, so that their logits need not be
    /// computed twice: the range of examples and that of their target tokens.
    fn groups(&self, chunk: usize) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut token = 0;
        for (at, example) in self.examples.iter().enumerate() {
            let end = token + example.target_tokens();
            match groups.last_mut() {
                Some(group) if end - group.tokens.start <= chunk => {
                    group.examples.end = at + 1;
                    group.tokens.end = end;
                }
                _ => groups.push(Group { examples: at..at + 1, tokens: token..end }),
            }
            token = end;
        }
        groups
    }
}

struct Group {
    examples: std::ops::Range<usize>,
    tokens: std::ops::Range<usize>,
}

/// Adds the gradients of a part of a window, and returns what the part contributes.
pub(crate) fn learn<O: Objective>(
    model: &Llama,
    objective: &O,
    examples: &[&TrainingExample<O::Example>],
    window: Window,
    options: &TrainOptions,
    gradients: &mut Gradients,
) -> Result<Contribution, PassError>
where
    O::Example: Clone,
{
    let Some(rows) = Rows::new(examples)? else { return Ok(Contribution::default()) };
    let recording = model.record(rows.packed.clone(), options.record())?;
    let hidden = recording.hidden();
    let (mut total, mut parts) = (Contribution::default(), Vec::new());
    for group in rows.groups(options.head_chunk) {
        let picked = model.gather(hidden.clone(), &rows.places[group.tokens.clone()]);
        let targets = &rows.targets[group.tokens.clone()];
        let pass = model.read_head(picked, targets, options.head_chunk, options.precision)?;
        let part = contribute(objective, &rows.examples[group.examples], pass.log_probs(), window)?;
        parts.push(model.head_backward(pass, &part.coefficients, gradients));
        add(&mut total, &part);
    }
    let d_hidden = scatter(&hidden, &rows.places, Tensor::cat(parts, 0));
    drop(hidden);
    model.backward(recording, d_hidden, gradients);
    Ok(total)
}

/// What a part of a window would contribute, without learning from it.
pub(crate) fn measure<O: Objective>(
    model: &Llama,
    objective: &O,
    examples: &[&TrainingExample<O::Example>],
    window: Window,
    options: &TrainOptions,
) -> Result<Contribution, PassError>
where
    O::Example: Clone,
{
    let mut total = Contribution::default();
    let log_probs = log_probs(model, examples, options)?;
    let mut start = 0;
    for example in examples {
        let end = start + example.target_tokens();
        let part = contribute(objective, &[example], &log_probs[start..end], window)?;
        add(&mut total, &part);
        start = end;
    }
    Ok(total)
}

/// The log-probability of each target token.
pub(crate) fn log_probs<E>(
    model: &Llama,
    examples: &[&TrainingExample<E>],
    options: &TrainOptions,
) -> Result<Vec<f32>, ModelError> {
    let Some(rows) = Rows::new(examples)? else { return Ok(Vec::new()) };
    let hidden = model.read(&rows.packed, options.record())?;
    let picked = model.gather(hidden, &rows.places);
    let pass = model.read_head(picked, &rows.targets, options.head_chunk, options.precision)?;
    Ok(pass.log_probs().to_vec())
}

fn contribute<O: Objective>(
    objective: &O,
    examples: &[&TrainingExample<O::Example>],
    log_probs: &[f32],
    window: Window,
) -> Result<Contribution, ObjectiveError>
where
    O::Example: Clone,
{
    let examples: Vec<_> = examples.iter().map(|example| example.example.clone()).collect();
    let part = objective.contribute(&examples, log_probs, window)?;
    part.check(log_probs.len())?;
    Ok(part)
}

fn add(total: &mut Contribution, part: &Contribution) {
    total.loss += part.loss;
    add_numbers(&mut total.numbers, &part.numbers);
}

/// Zero but for these places.
pub(crate) fn scatter(near: &Tensor<2>, places: &[usize], values: Tensor<2>) -> Tensor<2> {
    let indices: Vec<i32> = places.iter().map(|&place| place as i32).collect();
    let indices = TensorData::new(indices, [places.len()]);
    let indices = Tensor::<1, Int>::from_data(indices, &near.device());
    near.zeros_like().select_assign(0, indices, values, IndexingUpdateOp::Add)
}
