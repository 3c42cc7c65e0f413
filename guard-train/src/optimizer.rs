//! AdamW over the trained parameters of a model.

use std::collections::BTreeMap;

use guard_core::{AdamWStep, Gradients, Llama, Moments, NamedTensor, TensorFile, WeightsError};

use crate::options::TrainOptions;

/// AdamW with decoupled decay, as torch computes it. Its state is kept by the names of the
/// parameters, in 32-bit floats.
#[derive(Debug, Default)]
pub(crate) struct AdamW {
    steps: u64,
    moments: BTreeMap<String, Moments>,
}

impl AdamW {
    /// The steps that were made.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// The model after a step along the gradients, each multiplied by `scale`.
    pub(crate) fn step(
        &mut self,
        model: Llama,
        gradients: &Gradients,
        (rate, scale): (f64, f64),
        options: &TrainOptions,
    ) -> Llama {
        self.steps += 1;
        model.map_parameters(&mut |parameter, weight| {
            let Some(gradient) = gradients.get(parameter.id) else { return weight };
            let moments = self.moments.remove(&parameter.name);
            let moments = moments.unwrap_or_else(|| Moments::zeros_like(&weight));
            let decay = if parameter.shape.len() > 1 { options.weight_decay } else { 0.0 };
            let numbers = numbers(self.steps, rate, scale, decay, options);
            let (weight, moments) = numbers.step(weight, gradient, moments);
            self.moments.insert(parameter.name.clone(), moments);
            weight
        })
    }

    /// The state, as files hold it.
    pub(crate) fn tensors(&self) -> Vec<NamedTensor> {
        let named = |kind: &str, name: &str, values: &guard_core::burn::tensor::Tensor<1>| {
            let (name, shape) = (format!("{kind}.{name}"), vec![values.dims()[0]]);
            NamedTensor { name, shape, values: values.clone() }
        };
        let both = |(name, moments): (&String, &Moments)| {
            [named("exp_avg", name, &moments.mean), named("exp_avg_sq", name, &moments.square)]
        };
        self.moments.iter().flat_map(both).collect()
    }

    /// The state of a file, for the trained parameters of `model`; `steps` had been made.
    pub(crate) fn read(file: &TensorFile, steps: u64, model: &Llama) -> Result<Self, WeightsError> {
        let device = model.device();
        let mut moments = BTreeMap::new();
        for parameter in model.parameters().into_iter().filter(|p| p.trained && steps > 0) {
            let shape = [parameter.shape.iter().product()];
            let read =
                |kind: &str| file.read(&format!("{kind}.{}", parameter.name), &shape, &device);
            let both = Moments { mean: read("exp_avg")?, square: read("exp_avg_sq")? };
            moments.insert(parameter.name, both);
        }
        Ok(Self { steps, moments })
    }
}

pub(crate) fn numbers(
    steps: u64,
    rate: f64,
    scale: f64,
    decay: f64,
    options: &TrainOptions,
) -> AdamWStep {
    // Powers beyond any run's length are 0 in any case.
    let power = |beta: f64| beta.powi(i32::try_from(steps).unwrap_or(i32::MAX));
    AdamWStep {
        gradient_scale: scale as f32,
        beta1: options.beta1 as f32,
        beta2: options.beta2 as f32,
        keep: (1.0 - rate * decay) as f32,
        step_size: (rate / (1.0 - power(options.beta1))) as f32,
        root_correction: (1.0 - power(options.beta2)).sqrt() as f32,
        epsilon: options.epsilon as f32,
    }
}
