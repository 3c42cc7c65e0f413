//! From stored tensors to packed weights, without a model of floats in between.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use half::f16;

use super::encoding::Encoding;
use super::error::{LoadReport, WeightsError};
use super::load::{LoadOptions, PackedType, checked};
use super::names::{EMBEDDING, HEAD};
use super::store::{StoredTensor, TensorStore};
use crate::config::LlamaConfig;
use crate::kernel::packed::{
    BLOCK, Grid, PackedBlock, PackedLlama, PackedMatrix, PackedWeights, Row, Steps,
};
use crate::model::{Llama, frequencies};

impl PackedType {
    fn grid(self) -> Grid {
        match self {
            Self::Float => Grid::F32,
            Self::Bf16 => Grid::Bf16Products,
            Self::Q8_0 => Grid::Eight,
            Self::Q4_1 => Grid::FourMin,
        }
    }

    /// That of two matrices which need one and have two.
    fn grid_of_unlike(self) -> Grid {
        match self {
            // Besides these a model has no floats that take inputs as they are.
            Self::Bf16 => Grid::Bf16Products,
            Self::Float | Self::Q8_0 | Self::Q4_1 => Grid::F32,
        }
    }
}

/// Loads a model straight into packed weights, in parallel.
pub(super) fn load_packed(
    store: &TensorStore,
    config: &LlamaConfig,
    options: LoadOptions,
) -> Result<(PackedLlama, LoadReport), WeightsError> {
    let mut report = checked(store, config, options, &Device::flex())?;
    let stored = Stored { store, options };
    let weights = stored.weights(config)?;
    let model = PackedLlama::new(config.clone(), frequencies(config), weights);
    report.bytes = model.bytes();
    Ok((model, report))
}

pub(super) struct Stored<'a> {
    pub(super) store: &'a TensorStore,
    pub(super) options: LoadOptions,
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
        let grid = if one == other { one } else { self.options.packed.grid_of_unlike() };
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

    pub(super) fn matrix(&self, name: &str) -> Result<PackedMatrix, WeightsError> {
        self.pack(name, self.grid(self.tensor(name)?))
    }

    fn grid(&self, tensor: &StoredTensor) -> Grid {
        match tensor.encoding {
            // Floats stay what they are.
            Encoding::F16 if self.options.packed == PackedType::Float => Grid::F16,
            Encoding::Bf16 if self.options.packed == PackedType::Float => Grid::Bf16,
            Encoding::F32 | Encoding::F16 | Encoding::Bf16 => self.options.packed.grid(),
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
                let Memory { floats, steps } = memory;
                let bytes = rows.row(output);
                steps.clear();
                let packed = if keeps_steps && tensor.encoding.steps(bytes, steps) {
                    Row::Steps(steps)
                } else {
                    floats.clear();
                    tensor.encoding.decode(bytes, floats);
                    row(grid, floats, steps)
                };
                if !set(packed) {
                    broken.store(true, Ordering::Relaxed);
                }
            });
        self.store.release(tensor);
        self.finite(name, tensor, !broken.into_inner())?;
        Ok(matrix)
    }

    fn finite(&self, name: &str, tensor: &StoredTensor, is_so: bool) -> Result<(), WeightsError> {
        match self.options.check_finite && !is_so {
            true => {
                let path = self.store.path(tensor).to_owned();
                Err(WeightsError::NotFinite { path, tensor: name.to_owned() })
            }
            false => Ok(()),
        }
    }
}

/// A row of floats as a matrix of this grid takes it: in the steps that GGUF's formats have for it. Of a
/// block with a weight that is not finite the scale is none either.
pub(crate) fn row<'a>(grid: Grid, floats: &'a [f32], steps: &'a mut Vec<Steps>) -> Row<'a> {
    let encoding = match grid {
        Grid::F32 | Grid::F16 | Grid::Bf16 | Grid::Bf16Products => return Row::Floats(floats),
        Grid::Eight => Encoding::Q8_0,
        Grid::Four => Encoding::Q4_0,
        Grid::FourMin => Encoding::Q4_1,
    };
    steps.clear();
    let mut bytes = Vec::with_capacity(encoding.block_bytes());
    for weights in floats.chunks(BLOCK) {
        let mut block = [0.0; BLOCK];
        block[..weights.len()].copy_from_slice(weights);
        bytes.clear();
        encoding.encode(&block, &mut bytes);
        encoding.steps(&bytes, steps);
        if let (Some(last), false) = (steps.last_mut(), block.iter().all(|w| w.is_finite())) {
            last.scale = f16::NAN;
        }
    }
    Row::Steps(steps)
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
            PackedMatrix::pack(grid, shape, |output, steps, set| {
                set(row(grid, &values[output * shape[1]..][..shape[1]], steps));
            })
        })?;
        Ok(PackedLlama::new(self.config().clone(), frequencies(self.config()), weights))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_stays_that() {
        for bad in [f32::NAN, f32::INFINITY, 1e9] {
            let mut weights = [1.0; 40];
            weights[35] = bad;
            for grid in [Grid::Eight, Grid::Four, Grid::FourMin] {
                let mut steps = Vec::new();
                row(grid, &weights, &mut steps);
                let finite: Vec<bool> = steps.iter().map(|s| s.scale.is_finite()).collect();
                assert_eq!(finite, [true, false], "{grid:?} {bad}");
            }
        }
    }
}
