//! The derivatives of a loss by the parameters that are trained.

use std::collections::BTreeMap;

use burn::module::ParamId;
use burn::tensor::Tensor;

use super::product::Precision;
use crate::kernel::{self, Before};

/// A sum of gradients, by parameter, in 32-bit floats. Gradients of several batches add up.
#[derive(Clone, Debug, Default)]
pub struct Gradients {
    by_parameter: BTreeMap<ParamId, Tensor<1>>,
    /// Memory of earlier gradients, to be written anew.
    spare: BTreeMap<ParamId, Tensor<1>>,
}

impl Gradients {
    /// No gradients yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a gradient, of the parameter's shape, to what is there.
    pub fn add<const D: usize>(&mut self, parameter: ParamId, gradient: Tensor<D>) {
        let gradient: Tensor<1> = gradient.reshape([-1]);
        let sum = match self.by_parameter.remove(&parameter) {
            Some(sum) => sum + gradient,
            None => gradient,
        };
        self.by_parameter.insert(parameter, sum);
    }

    /// Adds `a b`, of the parameter's shape, to what is there: in place where there is a kernel.
    pub(super) fn add_product(
        &mut self,
        parameter: ParamId,
        precision: Precision,
        [a, b]: [Tensor<2>; 2],
    ) {
        let sum = self.by_parameter.remove(&parameter).map(|sum| (sum, Before::Kept));
        let spare = || self.spare.remove(&parameter).map(|spare| (spare, Before::Overwritten));
        if let Some((memory, before)) = sum.or_else(spare) {
            match kernel::product_into(precision, [&a, &b], memory, before) {
                Ok(sum) => return self.set(parameter, sum),
                Err(sum) if before == Before::Kept => self.set(parameter, sum),
                Err(_) => {}
            }
        }
        self.add(parameter, precision.product(a, b));
    }

    /// Forgets all gradients. On CPUs their memory is kept for the next ones.
    pub fn clear(&mut self) {
        let old = std::mem::take(&mut self.by_parameter);
        self.spare.extend(old.into_iter().filter(|(_, gradient)| kernel::serves(gradient)));
    }

    /// The gradient of a parameter, row by row; `None` when nothing flowed back to it.
    #[must_use]
    pub fn get(&self, parameter: ParamId) -> Option<&Tensor<1>> {
        self.by_parameter.get(&parameter)
    }

    /// Takes the gradient of a parameter out: a step then leaves the parameter as it is.
    pub fn take(&mut self, parameter: ParamId) -> Option<Tensor<1>> {
        self.by_parameter.remove(&parameter)
    }

    /// Puts a changed gradient in the place of another.
    pub(super) fn set(&mut self, parameter: ParamId, gradient: Tensor<1>) {
        self.by_parameter.insert(parameter, gradient);
    }

    /// All gradients, in the order of their parameters' ids.
    pub fn iter(&self) -> impl Iterator<Item = (ParamId, &Tensor<1>)> {
        self.by_parameter.iter().map(|(id, gradient)| (*id, gradient))
    }

    /// Whether nothing flowed back at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_parameter.is_empty()
    }

    /// The Euclidean norm of all gradients as one vector, in 64-bit floats over the parameters;
    /// not finite when one of them is not.
    #[must_use]
    pub fn norm(&self) -> f64 {
        let squares = self.by_parameter.values().map(|gradient| {
            kernel::square_sum(gradient).unwrap_or_else(|| {
                let sum = gradient.clone().square().sum();
                sum.try_into_scalar::<f32>().map_or(f64::NAN, f64::from)
            })
        });
        squares.sum::<f64>().sqrt()
    }
}
