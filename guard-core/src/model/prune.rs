//! A smaller model out of a larger one.

use std::collections::HashSet;

use burn::module::Param;
use burn::tensor::{Int, Tensor, TensorData};

use super::linear::Linear;
use super::llama::Llama;
use super::step::ModelError;

impl Llama {
    /// A smaller model: of this one's blocks those with these numbers, in this order, and of its
    /// vocabulary these tokens, which are numbered anew from 0. What is left has the weights that
    /// it had. Such a model has to be trained before it is of use; it learns faster than a random
    /// one.
    ///
    /// # Errors
    ///
    /// [`ModelError`] when nothing would be left, there is no such block or token, a block is named
    /// twice, or the token that begins a text, or all that end one, would be lost.
    pub fn pruned(&self, layers: &[usize], tokens: &[u32]) -> Result<Self, ModelError> {
        if layers.is_empty() || tokens.is_empty() {
            return Err(ModelError::NothingLeft);
        }
        let vocab_size = self.config.vocab_size;
        if let Some(&id) = tokens.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(ModelError::TokenOutOfRange { id, vocab_size });
        }
        let mut seen = HashSet::new();
        if let Some(&layer) = layers.iter().find(|&&layer| !seen.insert(layer)) {
            return Err(ModelError::LayerTwice { layer });
        }
        let config = &self.config;
        let lost = |id: &u32| !tokens.contains(id);
        if let Some(id) = config.bos.filter(lost) {
            return Err(ModelError::TokenLost { id });
        }
        if let Some(&id) = config.eos.first().filter(|_| config.eos.iter().all(lost)) {
            return Err(ModelError::TokenLost { id });
        }
        let block = |&layer: &usize| {
            let block = self.blocks.get(layer).cloned();
            block.ok_or(ModelError::LayerOutOfRange { layer, layers: self.blocks.len() })
        };
        let blocks = layers.iter().map(block).collect::<Result<Vec<_>, _>>()?;
        let rows = |matrix: &Param<Tensor<2>>| {
            let ids: Vec<i32> = tokens.iter().map(|&id| id as i32).collect();
            let data = TensorData::new(ids, [tokens.len()]);
            matrix.val().select(0, Tensor::<1, Int>::from_data(data, &self.device()))
        };
        let number = |old: u32| {
            tokens.iter().position(|&id| id == old).and_then(|new| u32::try_from(new).ok())
        };
        let mut model = self.clone();
        model.embedding.weight = Param::from_tensor(rows(&self.embedding.weight));
        model.head = self.head.as_ref().map(|head| Linear::new(rows(&head.weight)));
        model.blocks = blocks;
        model.frozen_blocks = 0;
        model.config.layers = layers.len();
        model.config.vocab_size = tokens.len();
        model.config.bos = self.config.bos.and_then(number);
        model.config.eos = self.config.eos.iter().filter_map(|&end| number(end)).collect();
        Ok(model)
    }

    /// The model with all weights of one block's queries zero. Its heads then look at every position
    /// alike, and what it adds is a mean over the text: a good start for a block that is to learn
    /// what a text is about. Training finds queries again. An adapter of the queries is dropped.
    ///
    /// # Errors
    ///
    /// [`ModelError::LayerOutOfRange`] when there is no such block.
    pub fn with_uniform_attention(mut self, layer: usize) -> Result<Self, ModelError> {
        let layers = self.blocks.len();
        let block =
            self.blocks.get_mut(layer).ok_or(ModelError::LayerOutOfRange { layer, layers })?;
        let query = &mut block.attention.query;
        *query = Linear::new(query.weight.val().zeros_like());
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::config::LlamaConfig;
    use crate::model::{RandomInit, TokenBatch};

    fn logits(model: &Llama, ids: &[u32]) -> Vec<f32> {
        let hidden = model.forward(&TokenBatch::new(&[ids]).unwrap(), None).unwrap();
        model.logits(hidden).try_into_vec_as::<f32>().unwrap()
    }

    #[test]
    fn what_is_left_computes_as_before() {
        let device = Device::default();
        for tied in [true, false] {
            let mut config = LlamaConfig::tiny(40);
            config.tied_head = tied;
            (config.bos, config.eos) = (None, vec![7, 39]);
            let model = Llama::random(&config, RandomInit::default(), &device).unwrap();
            let every: Vec<usize> = (0..config.layers).collect();
            let tokens = [3, 7, 11, 30];
            let small = model.pruned(&every, &tokens).unwrap();
            assert_eq!((small.config().vocab_size, small.config().eos.as_slice()), (4, &[1][..]));
            let (found, whole) = (logits(&small, &[2, 0, 3]), logits(&model, &[11, 3, 30]));
            let kept = whole.chunks(40).flat_map(|row| tokens.map(|id| row[id as usize]));
            for (found, expected) in found.iter().zip(kept) {
                assert!((found - expected).abs() < 1e-5, "{found} {expected}");
            }
            let first = model.pruned(&[0], &tokens).unwrap();
            assert_eq!(first.config().layers, 1);
            assert_ne!(logits(&first, &[2, 0, 3]), found);
        }
    }

    #[test]
    fn a_block_with_uniform_attention_sees_no_order() {
        let mut config = LlamaConfig::tiny(40);
        (config.layers, config.bos, config.eos) = (1, None, Vec::new());
        let init = RandomInit { seed: 1, standard_deviation: 0.3 };
        let model = Llama::random(&config, init, &Device::default()).unwrap();
        let last = |model: &Llama, ids: &[u32]| logits(model, ids).split_off(40 * (ids.len() - 1));
        let apart = |model: &Llama| {
            let (a, b) = (last(model, &[1, 2, 3, 9]), last(model, &[3, 1, 2, 9]));
            a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        assert!(apart(&model) > 1e-3);
        assert!(apart(&model.clone().with_uniform_attention(0).unwrap()) < 1e-5);
        let missing = ModelError::LayerOutOfRange { layer: 1, layers: 1 };
        assert_eq!(model.with_uniform_attention(1).unwrap_err(), missing);
    }

    #[test]
    fn what_is_not_there_is_refused() {
        let mut config = LlamaConfig::tiny(40);
        (config.bos, config.eos) = (None, Vec::new());
        let model = Llama::random(&config, RandomInit::default(), &Device::default()).unwrap();
        assert_eq!(model.pruned(&[], &[1]).unwrap_err(), ModelError::NothingLeft);
        assert_eq!(model.pruned(&[0], &[]).unwrap_err(), ModelError::NothingLeft);
        assert_eq!(model.pruned(&[0, 0], &[1]).unwrap_err(), ModelError::LayerTwice { layer: 0 });
        let layers = model.config().layers;
        let missing = ModelError::LayerOutOfRange { layer: layers, layers };
        assert_eq!(model.pruned(&[layers], &[1]).unwrap_err(), missing);
        let mut config = LlamaConfig::tiny(40);
        (config.bos, config.eos) = (Some(1), vec![2, 3]);
        let model = Llama::random(&config, RandomInit::default(), &Device::default()).unwrap();
        let lost = |id| ModelError::TokenLost { id };
        assert_eq!(model.pruned(&[0], &[2, 5]).unwrap_err(), lost(1));
        assert_eq!(model.pruned(&[0], &[1, 5]).unwrap_err(), lost(2));
        assert_eq!(model.pruned(&[0], &[1, 3]).unwrap().config().eos, [1]);
        let outside = ModelError::TokenOutOfRange { id: 40, vocab_size: 40 };
        assert_eq!(model.pruned(&[0], &[40]).unwrap_err(), outside);
    }
}
