//! The gated feed-forward layer (SwiGLU).

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::silu;

use super::linear::Linear;
use super::parameters::Parameters;
use crate::config::LlamaConfig;
use crate::kernel;

#[derive(Module, Debug)]
pub(super) struct FeedForward {
    pub(super) gate: Linear,
    pub(super) up: Linear,
    pub(super) down: Linear,
}

impl FeedForward {
    pub(super) fn new<P: Parameters>(
        config: &LlamaConfig,
        name: &str,
        parameters: &mut P,
    ) -> Result<Self, P::Error> {
        let (narrow, wide) = (config.hidden_size, config.intermediate_size);
        Ok(Self {
            gate: parameters.linear(&format!("{name}.gate_proj"), [wide, narrow])?,
            up: parameters.linear(&format!("{name}.up_proj"), [wide, narrow])?,
            down: parameters.linear(&format!("{name}.down_proj"), [narrow, wide])?,
        })
    }

    /// `[rows, hidden]` to `[rows, hidden]`.
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let gate = self.gate.forward(x.clone());
        let up = self.up.forward(x);
        let gated = match kernel::swiglu(&gate, &up) {
            Some(gated) => gated,
            None => silu(gate) * up,
        };
        self.down.forward(gated)
    }
}
