//! A narrower model with the vocabulary of a wider one.

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::llama::Llama;
use super::parameters::{RandomInit, normal};
use crate::config::{ConfigError, LlamaConfig};

/// Rounds of subspace iteration. Directions that are then still mixed have nearly the same variance.
const ROUNDS: usize = 40;

impl Llama {
    /// A new model of another shape with this one's vocabulary. Its blocks are random; its embedding
    /// has the principal components of this one's, so that tokens which mean the like begin alike. Such
    /// a model has to be trained before it is of use.
    ///
    /// The vocabulary size of `config` is not looked at.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] when the configuration is out of range, or wider than this model.
    pub fn narrowed(&self, config: &LlamaConfig, init: RandomInit) -> Result<Self, ConfigError> {
        let [vocab_size, wide] = self.embedding.weight.val().dims();
        let mut config = config.clone();
        config.vocab_size = vocab_size;
        let narrow = config.hidden_size;
        if narrow > wide {
            return Err(ConfigError::OutOfRange {
                field: "hidden_size",
                expected: format!("at most {wide}, as the wider model has"),
                found: narrow.to_string(),
            });
        }
        let mut model = Self::random(&config, init, &self.device())?;
        let matrix = self.embedding.weight.val().cast(burn::tensor::DType::F32);
        let centred = matrix.clone() - matrix.mean_dim(0);
        let covariance = centred.clone().transpose().matmul(centred.clone());
        // A device that fails gives no number: the first loss says so.
        let values = covariance.try_into_vec_as::<f32>();
        let values = values.unwrap_or_else(|_| vec![f32::NAN; wide * wide]);
        let directions = principal_directions(&values, wide, narrow, init.seed);
        let directions = TensorData::new(directions, [narrow, wide]);
        let directions = Tensor::<2>::from_data(directions, &self.device());
        model.embedding.weight = Param::from_tensor(centred.matmul(directions.transpose()));
        Ok(model)
    }
}

/// The directions of most variance as rows, by subspace iteration on a symmetric matrix.
fn principal_directions(matrix: &[f32], size: usize, count: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows: Vec<Vec<f32>> = (0..count)
        .map(|_| std::iter::repeat_with(|| normal(&mut rng)).take(size).collect())
        .collect();
    orthonormalise(&mut rows);
    for _ in 0..ROUNDS {
        for row in &mut rows {
            *row = matrix.chunks_exact(size).map(|line| dot(line, row)).collect();
        }
        orthonormalise(&mut rows);
    }
    rows.concat()
}

/// Gram-Schmidt, in order, so that the first rows keep the most variance.
fn orthonormalise(rows: &mut [Vec<f32>]) {
    for at in 0..rows.len() {
        let (before, rest) = rows.split_at_mut(at);
        let row = &mut rest[0];
        for other in before.iter() {
            let share = dot(other, row);
            row.iter_mut().zip(other).for_each(|(value, other)| *value -= share * other);
        }
        let length = dot(row, row).sqrt().max(f32::MIN_POSITIVE);
        row.iter_mut().for_each(|value| *value /= length);
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn directions_are_those_of_most_variance() {
        // In the plane of two orthogonal directions, 9 along one and 4 along the other; 1 across.
        let (a, b, c) = ([0.6, 0.8, 0.0], [0.8, -0.6, 0.0], [0.0, 0.0, 1.0]);
        let value = |i: usize, j: usize| 9.0 * a[i] * a[j] + 4.0 * b[i] * b[j] + c[i] * c[j];
        let matrix: Vec<f32> = (0..9).map(|at| value(at / 3, at % 3)).collect();
        let found = principal_directions(&matrix, 3, 2, 0);
        assert!((dot(&found[..3], &a).abs() - 1.0).abs() < 1e-4, "{found:?}");
        assert!((dot(&found[3..], &b).abs() - 1.0).abs() < 1e-4, "{found:?}");
    }

    #[test]
    fn tokens_keep_their_distances_as_far_as_there_is_room() {
        let wide = LlamaConfig::tiny(50);
        let init = RandomInit { seed: 3, standard_deviation: 0.5 };
        let model = Llama::random(&wide, init, &Device::default()).unwrap();
        let distances = |model: &Llama| {
            let matrix = model.embedding.weight.val();
            let rows = [0, 1, 2, 3].map(|row| matrix.clone().narrow(0, row, 1));
            let between = |a: usize, b: usize| {
                let apart = rows[a].clone() - rows[b].clone();
                apart.square().sum().try_into_scalar::<f32>().unwrap()
            };
            [between(0, 1), between(0, 2), between(1, 3)]
        };
        let whole = distances(&model);
        // As wide as before, the embedding is only turned.
        let turned = distances(&model.narrowed(&wide, init).unwrap());
        let mut half = wide.clone();
        (half.hidden_size, half.vocab_size) = (wide.hidden_size / 2, 7);
        let narrow = model.narrowed(&half, init).unwrap();
        assert_eq!(narrow.config().vocab_size, 50);
        for ((whole, turned), narrow) in whole.iter().zip(turned).zip(distances(&narrow)) {
            assert!((whole - turned).abs() < 1e-3 * whole, "{whole} {turned}");
            assert!(narrow > 0.2 * whole && narrow < *whole, "{whole} {narrow}");
        }
        let mut wider = wide.clone();
        wider.hidden_size *= 2;
        assert!(model.narrowed(&wider, init).is_err());
    }
}
