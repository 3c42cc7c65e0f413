//! Low-rank adapters (LoRA, arXiv 2106.09685) beside the linear layers.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::block::Block;
use super::linear::Linear;
use super::llama::Llama;
use super::parameters::name_hash;
use crate::generate::OptionsError;

/// A low-rank addition to a linear layer: `y = x W^T + s (x A^T) B^T`, with the scale `s`.
#[derive(Module, Debug)]
pub(super) struct Adapter {
    /// `[rank, d_input]`.
    pub(super) a: Param<Tensor<2>>,
    /// `[d_output, rank]`.
    pub(super) b: Param<Tensor<2>>,
    pub(super) scale: f64,
}

/// The linear layers of a block. In files they go by their names on the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Projection {
    /// Queries of the attention.
    #[serde(rename = "q_proj")]
    Query,
    /// Keys.
    #[serde(rename = "k_proj")]
    Key,
    /// Values.
    #[serde(rename = "v_proj")]
    Value,
    /// Output of the attention.
    #[serde(rename = "o_proj")]
    Output,
    /// Gate of the feed-forward layer.
    #[serde(rename = "gate_proj")]
    Gate,
    /// What the gate multiplies.
    #[serde(rename = "up_proj")]
    Up,
    /// Output of the feed-forward layer.
    #[serde(rename = "down_proj")]
    Down,
}

impl Projection {
    /// All of them, in the order of the forward path.
    pub const ALL: [Self; 7] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Its name on the hub, such as `q_proj`.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.path().rsplit_once('.').map_or("", |(_, name)| name)
    }

    /// Its place in a block.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is no [`Projection`]'s.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no linear layer of a block: expected q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj or down_proj"
)]
pub struct UnknownProjection(pub String);

impl FromStr for Projection {
    type Err = UnknownProjection;

    fn from_str(name: &str) -> Result<Self, UnknownProjection> {
        let found = Self::ALL.into_iter().find(|projection| projection.name() == name);
        found.ok_or_else(|| UnknownProjection(name.to_owned()))
    }
}

/// The shape of a model's adapters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LoraOptions {
    /// The rank, at least 1. Default 8.
    pub rank: usize,
    /// What the scale is made of: `alpha / rank`; finite. Default 16.
    pub alpha: f64,
    /// Divides `alpha` by the square root of the rank instead (rsLoRA, arXiv 2312.03732).
    /// Default no.
    pub rank_stabilised: bool,
    /// The layers that get an adapter, at least one. Default all.
    pub targets: BTreeSet<Projection>,
}

impl Default for LoraOptions {
    fn default() -> Self {
        let targets = BTreeSet::from(Projection::ALL);
        Self { rank: 8, alpha: 16.0, rank_stabilised: false, targets }
    }
}

impl LoraOptions {
    /// The same options with this rank.
    #[must_use]
    pub fn with_rank(mut self, rank: usize) -> Self {
        self.rank = rank;
        self
    }

    /// The same options with this alpha.
    #[must_use]
    pub fn with_alpha(mut self, alpha: f64) -> Self {
        self.alpha = alpha;
        self
    }

    /// The same options with the scale of rsLoRA.
    #[must_use]
    pub fn with_rank_stabilised(mut self) -> Self {
        self.rank_stabilised = true;
        self
    }

    /// The same options for these layers.
    #[must_use]
    pub fn with_targets(mut self, targets: impl IntoIterator<Item = Projection>) -> Self {
        self.targets = targets.into_iter().collect();
        self
    }

    /// What the product of the two matrices is multiplied by.
    #[must_use]
    pub fn scale(&self) -> f64 {
        let rank = self.rank as f64;
        self.alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }

    /// Checks the ranges.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] names the first option that is out of range.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let error = |option, expected, found| Err(OptionsError { option, expected, found });
        if self.rank == 0 {
            return error("rank", "at least 1", self.rank.to_string());
        }
        if !self.alpha.is_finite() {
            return error("alpha", "finite", self.alpha.to_string());
        }
        if self.targets.is_empty() {
            return error("targets", "at least one layer", "none".to_owned());
        }
        Ok(())
    }
}

/// What is known of a layer's adapter beside its values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct AdapterShape {
    pub(crate) rank: usize,
    pub(crate) scale: f64,
}

/// Where the two matrices of an adapter come from.
pub(crate) trait AdapterParts {
    type Error;

    /// `A` of `[rank, d_input]` and `B` of `[d_output, rank]` for the layer of this name.
    fn parts(&mut self, layer: &str, shape: [usize; 2]) -> Result<[Tensor<2>; 2], Self::Error>;
}

/// New adapters: `A` uniform within `1 / sqrt(d_input)` as in PEFT, `B` zero, so that the model
/// is the same before the first step.
struct NewAdapters<'a> {
    rank: usize,
    seed: u64,
    device: &'a Device,
}

impl AdapterParts for NewAdapters<'_> {
    type Error = std::convert::Infallible;

    fn parts(
        &mut self,
        layer: &str,
        [outputs, inputs]: [usize; 2],
    ) -> Result<[Tensor<2>; 2], Self::Error> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ name_hash(layer));
        let bound = (inputs as f32).sqrt().recip();
        let draw = || rng.random_range(-bound..bound);
        let values: Vec<f32> = std::iter::repeat_with(draw).take(self.rank * inputs).collect();
        let a = TensorData::new(values, [self.rank, inputs]);
        Ok([Tensor::from_data(a, self.device), Tensor::zeros([outputs, self.rank], self.device)])
    }
}

impl Llama {
    /// The model with new adapters, in 32-bit floats; those that it had are dropped. Equal seeds
    /// give equal adapters.
    ///
    /// # Errors
    ///
    /// [`OptionsError`] names the first option that is out of range.
    pub fn with_new_adapters(self, options: &LoraOptions, seed: u64) -> Result<Self, OptionsError> {
        options.validate()?;
        let device = self.device();
        let mut parts = NewAdapters { rank: options.rank, seed, device: &device };
        match self.with_adapters(options, &mut parts) {
            Ok(model) => Ok(model),
            Err(never) => match never {},
        }
    }

    pub(crate) fn with_adapters<P: AdapterParts>(
        mut self,
        options: &LoraOptions,
        parts: &mut P,
    ) -> Result<Self, P::Error> {
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            for (projection, linear) in block.linears_mut() {
                linear.adapter = None;
                if options.targets.contains(&projection) {
                    let name = layer_name(layer, projection);
                    let [a, b] = parts.parts(&name, linear.weight.val().dims())?;
                    let [a, b] = [a, b].map(Param::from_tensor);
                    linear.adapter = Some(Adapter { a, b, scale: options.scale() });
                }
            }
        }
        Ok(self)
    }

    /// Each layer that could have an adapter, by its name on the hub, with the one that it has.
    pub(crate) fn adapter_shapes(&self) -> Vec<(String, Projection, Option<AdapterShape>)> {
        let shape = |adapter: &Adapter| {
            let [rank, _] = adapter.a.val().dims();
            AdapterShape { rank, scale: adapter.scale }
        };
        let of_block = |(layer, block): (usize, &Block)| {
            block.linears().map(|(projection, linear)| {
                (layer_name(layer, projection), projection, linear.adapter.as_ref().map(shape))
            })
        };
        self.blocks.iter().enumerate().flat_map(of_block).collect()
    }

    /// Whether any layer has an adapter. Such a model is trained in its adapters alone.
    #[must_use]
    pub fn has_adapters(&self) -> bool {
        let with =
            |block: &Block| block.linears().iter().any(|(_, linear)| linear.adapter.is_some());
        self.blocks.iter().any(with)
    }

    /// The scale of each adapter by the name of its layer: no parameter holds it.
    #[must_use]
    pub fn adapter_scales(&self) -> Vec<(String, f64)> {
        let shapes = self.adapter_shapes().into_iter();
        shapes.filter_map(|(layer, _, shape)| Some((layer, shape?.scale))).collect()
    }

    /// The model as it was before its adapters. The weights are shared, not copied.
    #[must_use]
    pub fn without_adapters(&self) -> Self {
        self.clone().map_linears(|linear| linear.adapter = None)
    }

    /// The model with its adapters added to the weights: the same function in plain layers.
    #[must_use]
    pub fn merge_adapters(self) -> Self {
        self.map_linears(|linear| {
            if let Some(Adapter { a, b, scale }) = linear.adapter.take() {
                let weight = linear.weight.val();
                let dtype = weight.dtype();
                let added = b.val().matmul(a.val()) * scale;
                let sum = weight.cast(added.dtype()) + added;
                linear.weight = Param::from_tensor(sum.cast(dtype));
            }
        })
    }

    fn map_linears(mut self, mut change: impl FnMut(&mut Linear)) -> Self {
        for block in &mut self.blocks {
            block.linears_mut().into_iter().for_each(|(_, linear)| change(linear));
        }
        self
    }
}

fn layer_name(layer: usize, projection: Projection) -> String {
    format!("model.layers.{layer}.{}", projection.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_name_layers_as_the_hub_does_and_have_no_unknown_key() {
        for projection in Projection::ALL {
            let written = serde_json::to_string(&projection).unwrap();
            assert_eq!(written, format!("\"{}\"", projection.name()));
        }
        let read = |json: &str| serde_json::from_str::<LoraOptions>(json);
        let options = read(r#"{"rank": 4, "targets": ["q_proj", "down_proj"]}"#).unwrap();
        let targets = [Projection::Query, Projection::Down];
        assert_eq!(options, LoraOptions::default().with_rank(4).with_targets(targets));
        assert_eq!(read(&serde_json::to_string(&options).unwrap()).unwrap(), options);
        for (json, name) in [(r#"{"r": 4}"#, "`r`"), (r#"{"targets": ["c_attn"]}"#, "c_attn")] {
            let error = read(json).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
