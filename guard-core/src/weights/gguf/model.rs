//! The shape of the model that a GGUF file holds.

use super::super::error::GgufFault;
use super::metadata::Metadata;
use super::reader::Entries;
use crate::config::{LlamaConfig, RopeConfig, RopeScaling};

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
    let config = LlamaConfig {
        hidden_size,
        intermediate_size: metadata.size("llama.feed_forward_length")?,
        layers: metadata.size("llama.block_count")?,
        heads,
        kv_heads: metadata.size_or("llama.attention.head_count_kv", heads)?,
        head_dim: metadata.size_or("llama.attention.key_length", hidden_size / heads.max(1))?,
        vocab_size: embedding.first().copied().unwrap_or(0),
        max_positions: metadata.size("llama.context_length")?,
        rms_norm_eps: metadata.float("llama.attention.layer_norm_rms_epsilon")?,
        rope: RopeConfig {
            theta: metadata.float_or("llama.rope.freq_base", 10_000.0)?,
            scaling: scaling(metadata, rope_factors)?,
        },
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

fn scaling(metadata: &Metadata, factors: Option<Vec<f64>>) -> Result<RopeScaling, GgufFault> {
    if let Some(factors) = factors {
        return Ok(RopeScaling::PerFrequency { factors });
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
