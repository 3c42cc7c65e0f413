//! From stored tensors to packed weights, without a model of floats in between.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;

use super::encoding::Encoding;
use super::error::{LoadReport, WeightsError};
use super::load::{LoadOptions, checked};
use super::names::{EMBEDDING, HEAD};
use super::store::{StoredTensor, TensorStore};
use crate::config::LlamaConfig;
use crate::kernel::packed::{
    Grid, PackedBlock, PackedLlama, PackedMatrix, PackedWeights, Row, Steps,
};
use crate::model::{Llama, frequencies};

/// How matrices of floats are packed. Integers of a file stay what they are: `Q8_0`, `Q4_0` and `Q4_1` to
/// the bit, `Q4_K` with the scales of its sub-blocks as 16-bit floats, `Q6_K` in steps of 8 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PackedType {
    /// As 32-bit floats: the same numbers as those of the file.
    #[default]
    F32,
    /// In blocks of 32 with 8-bit steps of one scale: a quarter of the memory and several times the speed.
    Q8_0,
    /// In blocks of 32 with 4-bit steps from a minimum on. The loss of a large model is small, that of a
    /// small one is not.
    Q4_1,
}

/// The name of a packed type that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown type `{0}`: expected f32, q8_0 or q4_1")]
pub struct UnknownPackedType(String);

impl fmt::Display for PackedType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::Q8_0 => "q8_0",
            Self::Q4_1 => "q4_1",
        })
    }
}

impl FromStr for PackedType {
    type Err = UnknownPackedType;

    fn from_str(name: &str) -> Result<Self, UnknownPackedType> {
        [Self::F32, Self::Q8_0, Self::Q4_1]
            .into_iter()
            .find(|kind| kind.to_string() == name)
            .ok_or_else(|| UnknownPackedType(name.to_owned()))
    }
}

impl PackedType {
    fn grid(self) -> Grid {
        match self {
            Self::F32 => Grid::F32,
            Self::Q8_0 => Grid::Eight,
            Self::Q4_1 => Grid::FourMin,
        }
    }
}

/// Loads a model straight into packed weights, in parallel.
pub(super) fn load_packed(
    store: &TensorStore,
    config: &LlamaConfig,
    floats: PackedType,
    options: LoadOptions,
) -> Result<(PackedLlama, LoadReport), WeightsError> {
    let mut report = checked(store, config, options, &Device::flex())?;
    let stored = Stored { store, floats, check_finite: options.check_finite };
    let weights = stored.weights(config)?;
    let model = PackedLlama::new(config.clone(), frequencies(config), weights);
    report.bytes = model.bytes();
    Ok((model, report))
}

struct Stored<'a> {
    store: &'a TensorStore,
    floats: PackedType,
    check_finite: bool,
}

impl Stored<'_> {
    fn weights(&self, config: &LlamaConfig) -> Result<PackedWeights, WeightsError> {
        let blocks = (0..config.layers).map(|layer| self.block(layer));
        Ok(PackedWeights {
            embedding: self.matrix(EMBEDDING)?,
            blocks: blocks.collect::<Result<_, _>>()?,
            norm: self.vector("model.norm.weight")?,
            head: if config.tied_head { None } else { Some(self.matrix(HEAD)?) },
        })
    }

    fn block(&self, layer: usize) -> Result<PackedBlock, WeightsError> {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let matrix = |part: &str| self.matrix(&name(part));
        let [gate, up] = ["mlp.gate_proj", "mlp.up_proj"].map(name);
        // The two are computed side by side, in one grid.
        let [one, other] = [self.grid(self.tensor(&gate)?), self.grid(self.tensor(&up)?)];
        let grid = if one == other { one } else { Grid::F32 };
        Ok(PackedBlock {
            attention_norm: self.vector(&name("input_layernorm"))?,
            projections: [
                matrix("self_attn.q_proj")?,
                matrix("self_attn.k_proj")?,
                matrix("self_attn.v_proj")?,
            ],
            output: matrix("self_attn.o_proj")?,
            feed_forward_norm: self.vector(&name("post_attention_layernorm"))?,
            gated: [self.pack(&gate, grid)?, self.pack(&up, grid)?],
            down: matrix("mlp.down_proj")?,
        })
    }

    fn tensor(&self, name: &str) -> Result<&StoredTensor, WeightsError> {
        self.store.tensors.get(name).ok_or_else(|| {
            let missing = vec![name.to_owned()];
            WeightsError::Mismatch(Box::new(LoadReport { missing, ..LoadReport::default() }))
        })
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let tensor = self.tensor(name)?;
        let values = self.store.read::<f32>(tensor)?;
        let is_finite = values.iter().all(|value| value.is_finite());
        self.finite(name, tensor, is_finite)?;
        Ok(values)
    }

    fn matrix(&self, name: &str) -> Result<PackedMatrix, WeightsError> {
        self.pack(name, self.grid(self.tensor(name)?))
    }

    fn grid(&self, tensor: &StoredTensor) -> Grid {
        match tensor.encoding {
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => self.floats.grid(),
            Encoding::Q8_0 | Encoding::Q6K => Grid::Eight,
            Encoding::Q4_0 => Grid::Four,
            Encoding::Q4_1 | Encoding::Q4K => Grid::FourMin,
        }
    }

    fn pack(&self, name: &str, grid: Grid) -> Result<PackedMatrix, WeightsError> {
        let tensor = self.tensor(name)?;
        let &[outputs, inputs] = tensor.shape.as_slice() else {
            return Err(WeightsError::Mismatch(Box::default()));
        };
        let rows = self.store.rows(tensor)?;
        let keeps_steps = grid == self.grid(tensor);
        let broken = AtomicBool::new(false);
        let matrix =
            PackedMatrix::pack(grid, [outputs, inputs], |output, memory: &mut Memory, set| {
                let bytes = rows.row(output);
                let Memory { floats, steps } = memory;
                steps.clear();
                let is_finite = if keeps_steps && tensor.encoding.steps(bytes, steps) {
                    steps.iter().all(|s| s.scale.is_finite() && s.minimum.is_finite())
                } else {
                    floats.clear();
                    tensor.encoding.decode(bytes, floats);
                    floats.iter().all(|weight| weight.is_finite())
                };
                let row = if steps.is_empty() { Row::Floats(floats) } else { Row::Steps(steps) };
                if !set(row) || !is_finite {
                    broken.store(true, Ordering::Relaxed);
                }
            });
        self.store.release(tensor);
        self.finite(name, tensor, !broken.into_inner())?;
        Ok(matrix)
    }

    fn finite(&self, name: &str, tensor: &StoredTensor, is_so: bool) -> Result<(), WeightsError> {
        match self.check_finite && !is_so {
            true => {
                let path = self.store.path(tensor).to_owned();
                Err(WeightsError::NotFinite { path, tensor: name.to_owned() })
            }
            false => Ok(()),
        }
    }
}

/// What each thread reads rows into.
#[derive(Default)]
struct Memory {
    floats: Vec<f32>,
    steps: Vec<Steps>,
}

impl Llama {
    /// The model with packed weights, for inference on CPUs. Adapters are merged.
    ///
    /// # Errors
    ///
    /// [`burn::tensor::TensorReadError`] when the weights cannot be read back from their device.
    pub fn packed(
        &self,
        matrices: PackedType,
    ) -> Result<PackedLlama, burn::tensor::TensorReadError> {
        let merged = self.clone().merge_adapters();
        let grid = matrices.grid();
        let weights = merged.packed_weights(&mut |values: Vec<f32>, shape| {
            PackedMatrix::pack(grid, shape, |output, (): &mut (), set| {
                set(Row::Floats(&values[output * shape[1]..][..shape[1]]));
            })
        })?;
        Ok(PackedLlama::new(self.config().clone(), frequencies(self.config()), weights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in [PackedType::F32, PackedType::Q8_0, PackedType::Q4_1] {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        let error = "q5_0".parse::<PackedType>().unwrap_err().to_string();
        assert!(error.contains("q5_0") && error.contains("q8_0"), "{error}");
    }
}
