//! The batches of a window on one device or on several.

use guard_core::burn::module::Module;
use guard_core::burn::tensor::Device;
use guard_core::{Gradients, Llama};

use crate::example::TrainingExample;
use crate::objective::{Contribution, Objective, Window};
use crate::options::TrainOptions;
use crate::pass::{PassError, learn};

type Batches<'a, E> = [Vec<&'a TrainingExample<E>>];

/// The gradients of a window on the model's device, in the memory of `cleared` ones, and what each
/// batch contributes.
pub(crate) fn learn_on<O>(
    model: &Llama,
    others: &[Device],
    objective: &O,
    batches: &Batches<'_, O::Example>,
    window: Window,
    options: &TrainOptions,
    cleared: Gradients,
) -> Result<(Gradients, Vec<Contribution>), PassError>
where
    O: Objective + Sync,
    O::Example: Clone + Sync,
{
    let alone = |model: &Llama, batches: &Batches<'_, O::Example>, mut gradients: Gradients| {
        let learn =
            |batch: &Vec<_>| learn(model, objective, batch, window, options, &mut gradients);
        let parts = batches.iter().map(learn).collect::<Result<Vec<_>, _>>()?;
        Ok::<_, PassError>((gradients, parts))
    };
    if others.is_empty() || batches.len() < 2 {
        return alone(model, batches, cleared);
    }
    let shares = share(batches, others.len() + 1);
    let (own, theirs) =
        shares.split_first().map_or((&[][..], &[][..]), |(own, theirs)| (own.as_slice(), theirs));
    std::thread::scope(|scope| {
        let alone = &alone;
        let running: Vec<_> = others
            .iter()
            .zip(theirs)
            .map(|(device, share)| {
                scope
                    .spawn(move || alone(&model.clone().to_device(device), share, Gradients::new()))
            })
            .collect();
        let (mut gradients, mut parts) = alone(model, own, cleared)?;
        let device = model.device();
        // In the order of the devices, so that the sums are the same each time.
        for thread in running {
            let (of_device, more) = match thread.join() {
                Ok(learnt) => learnt?,
                Err(panic) => std::panic::resume_unwind(panic),
            };
            for (parameter, gradient) in of_device.iter() {
                gradients.add(parameter, gradient.clone().to_device(&device));
            }
            parts.extend(more);
        }
        Ok((gradients, parts))
    })
}

/// The batches in as many shares, of about as many tokens: each goes to who has the least.
fn share<'a, E>(batches: &Batches<'a, E>, count: usize) -> Vec<Vec<Vec<&'a TrainingExample<E>>>> {
    let mut shares: Vec<(usize, Vec<_>)> = (0..count).map(|_| (0, Vec::new())).collect();
    for batch in batches {
        if let Some((tokens, share)) = shares.iter_mut().min_by_key(|(tokens, _)| *tokens) {
            *tokens += batch.iter().map(|example| example.tokens()).sum::<usize>();
            share.push(batch.clone());
        }
    }
    shares.into_iter().map(|(_, share)| share).collect()
}
