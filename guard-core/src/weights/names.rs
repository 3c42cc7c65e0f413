//! The names of tensors: the hub's, which everything here uses, and GGUF's.

/// Where the rows of a tensor are interleaved in GGUF files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rotary {
    Query,
    Key,
    No,
}

/// GGUF names of tensors outside the blocks.
const TOP: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// GGUF names of tensors in block `N`, after `blk.N.`, and the hub's after `model.layers.N.`.
const BLOCK: [(&str, &str, Rotary); 9] = [
    ("attn_norm.weight", "input_layernorm.weight", Rotary::No),
    ("attn_q.weight", "self_attn.q_proj.weight", Rotary::Query),
    ("attn_k.weight", "self_attn.k_proj.weight", Rotary::Key),
    ("attn_v.weight", "self_attn.v_proj.weight", Rotary::No),
    ("attn_output.weight", "self_attn.o_proj.weight", Rotary::No),
    ("ffn_norm.weight", "post_attention_layernorm.weight", Rotary::No),
    ("ffn_gate.weight", "mlp.gate_proj.weight", Rotary::No),
    ("ffn_up.weight", "mlp.up_proj.weight", Rotary::No),
    ("ffn_down.weight", "mlp.down_proj.weight", Rotary::No),
];

/// The embedding matrix.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";

/// The head, where it is not the embedding matrix.
pub(super) const HEAD: &str = "lm_head.weight";

/// The hub's name of a GGUF tensor. A name that is not known is marked as GGUF's, so that it is
/// never taken for one of the hub's.
pub(super) fn from_gguf(name: &str) -> (String, Rotary) {
    if let Some((_, hub)) = TOP.iter().find(|(gguf, _)| *gguf == name) {
        return ((*hub).to_owned(), Rotary::No);
    }
    let in_block = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let known = in_block.and_then(|(layer, part)| {
        // One spelling a layer: `00` is not `0`.
        let number: usize =
            layer.parse().ok().filter(|number: &usize| number.to_string() == layer)?;
        let (_, hub, rotary) = BLOCK.iter().find(|(gguf, _, _)| *gguf == part)?;
        Some((format!("model.layers.{number}.{hub}"), *rotary))
    });
    known.unwrap_or_else(|| (format!("gguf/{name}"), Rotary::No))
}

/// The GGUF name of one of the hub's tensors; `None` for one that GGUF has no name for.
pub(super) fn to_gguf(name: &str) -> Option<(String, Rotary)> {
    if let Some((gguf, _)) = TOP.iter().find(|(_, hub)| *hub == name) {
        return Some(((*gguf).to_owned(), Rotary::No));
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (gguf, _, rotary) = BLOCK.iter().find(|(_, hub, _)| *hub == part)?;
    Some((format!("blk.{layer}.{gguf}"), *rotary))
}

/// Whether a tensor may stand in a file although the model computes it itself: rotary
/// frequencies, which older exports store.
pub(super) fn is_derived(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gguf_names_become_the_hubs() {
        assert_eq!(from_gguf("output.weight"), (HEAD.to_owned(), Rotary::No));
        assert_eq!(
            from_gguf("blk.12.attn_q.weight"),
            ("model.layers.12.self_attn.q_proj.weight".to_owned(), Rotary::Query)
        );
        for gguf in
            ["output.weight", "token_embd.weight", "blk.3.ffn_down.weight", "blk.0.attn_k.weight"]
        {
            let (hub, rotary) = from_gguf(gguf);
            assert_eq!(to_gguf(&hub), Some((gguf.to_owned(), rotary)));
        }
        assert_eq!(to_gguf("model.layers.0.self_attn.q_proj.lora_A.weight"), None);
        for unknown in ["blk.x.attn_q.weight", "blk.00.attn_q.weight", "blk.", "model.norm.weight"]
        {
            assert_eq!(from_gguf(unknown), (format!("gguf/{unknown}"), Rotary::No));
        }
    }
}
