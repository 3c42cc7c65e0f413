//! The shape of the model that a GGUF file holds.

use super::super::error::GgufFault;
use super::metadata::Metadata;
use super::reader::Entries;
use crate::config::{LlamaConfig, RopeConfig, RopeScaling};
use crate::model::scaled;

pub(super) fn config(
    metadata: &Metadata,
    tensors: &Entries,
    rope_factors: Option<Vec<f64>>,
) -> Result<LlamaConfig, GgufFault> {
    let architecture = metadata.text("general.architecture")?;
    if architecture != "llama" {
        return Err(GgufFault::Type {
            what: "`general.architecture`".to_owned(),
            found: architecture.to_owned(),
            expected: "llama",
        });
    }
    let embedding = &tensors
        .get("token_embd.weight")
        .ok_or_else(|| GgufFault::Missing("token_embd.weight".to_owned()))?
        .shape;
    let heads = metadata.size("llama.attention.head_count")?;
    let hidden_size = metadata.size("llama.embedding_length")?;
    let head_dim = metadata.size_or("llama.attention.key_length", hidden_size / heads.max(1))?;
    let theta = metadata.float_or("llama.rope.freq_base", 10_000.0)?;
    let config = LlamaConfig {
        hidden_size,
        intermediate_size: metadata.size("llama.feed_forward_length")?,
        layers: metadata.size("llama.block_count")?,
        heads,
        kv_heads: metadata.size_or("llama.attention.head_count_kv", heads)?,
        head_dim,
        vocab_size: embedding.first().copied().unwrap_or(0),
        max_positions: metadata.size("llama.context_length")?,
        rms_norm_eps: metadata.float("llama.attention.layer_norm_rms_epsilon")?,
        rope: RopeConfig { theta, scaling: scaling(metadata, theta, head_dim, rope_factors)? },
        tied_head: !tensors.contains_key("output.weight"),
        bos: metadata.id("tokenizer.ggml.bos_token_id")?,
        eos: eos(metadata)?,
    };
    config.validate()?;
    Ok(config)
}

/// The tokens that end a text: end of text, end of turn and end of message.
fn eos(metadata: &Metadata) -> Result<Vec<u32>, GgufFault> {
    let mut eos = Vec::new();
    for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
        let id = metadata.id(&format!("tokenizer.ggml.{key}"))?;
        eos.extend(id.filter(|id| !eos.contains(id)));
    }
    Ok(eos)
}

fn scaling(
    metadata: &Metadata,
    theta: f64,
    head_dim: usize,
    factors: Option<Vec<f64>>,
) -> Result<RopeScaling, GgufFault> {
    if let Some(factors) = factors {
        return Ok(known_scaling(&factors, theta, head_dim)
            .unwrap_or(RopeScaling::PerFrequency { factors }));
    }
    let Some(kind) = metadata.get("llama.rope.scaling.type") else { return Ok(RopeScaling::None) };
    match metadata.text("llama.rope.scaling.type")? {
        "none" => Ok(RopeScaling::None),
        "linear" => {
            Ok(RopeScaling::Linear { factor: metadata.float("llama.rope.scaling.factor")? })
        }
        _ => Err(GgufFault::Type {
            what: "`llama.rope.scaling.type`".to_owned(),
            found: format!("{kind:?}"),
            expected: "none or linear",
        }),
    }
}

/// The scaling of LLaMA 3.1 and 3.2, if that is where the factors come from. A GGUF file keeps
/// only the factors, the hub only the four numbers behind them.
fn known_scaling(factors: &[f64], theta: f64, head_dim: usize) -> Option<RopeScaling> {
    if 2 * factors.len() != head_dim {
        return None;
    }
    let scaling = RopeScaling::Llama3 {
        factor: factors.iter().copied().fold(1.0, f64::max),
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_positions: 8192,
    };
    let alike = factors.iter().enumerate().all(|(pair, factor)| {
        let frequency = theta.powf(-((2 * pair) as f64) / head_dim as f64);
        let expected = frequency / scaled(frequency, pair, &scaling);
        (factor / expected - 1.0).abs() < 1e-4
    });
    alike.then_some(scaling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_3_factors_are_known_and_others_kept() {
        // Heads of 64 at theta 500,000 and factor 32: LLaMA 3.2 1B.
        let expected = RopeScaling::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_positions: 8192,
        };
        let factor = |pair: usize| {
            let frequency = 500_000_f64.powf(-(pair as f64) / 32.0);
            f64::from((frequency / scaled(frequency, pair, &expected)) as f32)
        };
        let mut factors: Vec<f64> = (0..32).map(factor).collect();
        assert_eq!(known_scaling(&factors, 500_000.0, 64), Some(expected));
        factors[20] *= 1.01;
        assert_eq!(known_scaling(&factors, 500_000.0, 64), None);
    }
}
