//! The vocabulary of a GGUF file as a `tokenizer.json`, so that there is one way to make a
//! tokenizer.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use super::super::error::GgufFault;
use super::metadata::Metadata;
use crate::tokenizer::patterns;

/// Kinds of tokens that are matched whole, before the text is split: control and user-defined.
const ADDED: [i64; 2] = [3, 4];
const UNKNOWN: i64 = 2;

pub(super) fn tokenizer_json(metadata: &Metadata) -> Result<String, GgufFault> {
    let tokens = metadata.texts("tokenizer.ggml.tokens")?;
    let kinds = metadata.integers("tokenizer.ggml.token_type")?;
    same_length("tokenizer.ggml.token_type", kinds.len(), tokens.len())?;
    let family = match metadata.text("tokenizer.ggml.model")? {
        "gpt2" => byte_level(metadata)?,
        "llama" => sentence_piece(metadata, &tokens, &kinds)?,
        other => {
            return Err(GgufFault::Type {
                what: "`tokenizer.ggml.model`".to_owned(),
                found: other.to_owned(),
                expected: "gpt2 or llama",
            });
        }
    };
    let mut vocab = BTreeMap::new();
    for (id, token) in tokens.iter().enumerate() {
        if vocab.insert(*token, id).is_some() {
            return Err(GgufFault::Duplicate((*token).to_owned()));
        }
    }
    let mut model = family.model;
    model["type"] = "BPE".into();
    model["vocab"] = json!(vocab);
    let json = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(&tokens, &kinds),
        "normalizer": family.normalizer,
        "pre_tokenizer": family.pre_tokenizer,
        "post_processor": begin_of_text(metadata, &tokens, family.adds_bos)?,
        "decoder": family.decoder,
        "model": model,
    });
    Ok(json.to_string())
}

/// What the two kinds of vocabulary differ in.
struct Family {
    model: Json,
    normalizer: Json,
    pre_tokenizer: Json,
    decoder: Json,
    /// Whether texts begin with the beginning-of-text token unless the file says otherwise.
    adds_bos: bool,
}

/// LLaMA 3 and its like: merges over bytes.
fn byte_level(metadata: &Metadata) -> Result<Family, GgufFault> {
    let merges: Vec<Vec<&str>> = metadata
        .texts("tokenizer.ggml.merges")?
        .into_iter()
        .map(|merge| merge.splitn(2, ' ').collect())
        .collect();
    let bytes = |use_regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
    let split = json!({"type": "Split", "pattern": {"Regex": patterns::LLAMA3}, "behavior": "Isolated", "invert": false});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let (steps, llama3) = match metadata.text("tokenizer.ggml.pre")? {
        "llama-bpe" | "llama3" | "llama-v3" => (vec![split, bytes(false)], true),
        "smollm" => (vec![digits, bytes(true)], false),
        "default" | "gpt-2" => (vec![bytes(true)], false),
        other => {
            return Err(GgufFault::Type {
                what: "`tokenizer.ggml.pre`".to_owned(),
                found: other.to_owned(),
                expected: "llama-bpe, smollm, gpt-2 or default",
            });
        }
    };
    Ok(Family {
        model: json!({"merges": merges, "ignore_merges": llama3, "byte_fallback": false, "fuse_unk": false}),
        normalizer: Json::Null,
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": steps}),
        decoder: bytes(true),
        adds_bos: llama3,
    })
}

/// LLaMA 2: pieces with scores, from which the merges follow.
fn sentence_piece(
    metadata: &Metadata,
    tokens: &[&str],
    kinds: &[i64],
) -> Result<Family, GgufFault> {
    let scores = metadata.floats("tokenizer.ggml.scores")?;
    same_length("tokenizer.ggml.scores", scores.len(), tokens.len())?;
    let unknown = kinds.iter().position(|&kind| kind == UNKNOWN).map(|id| tokens[id]);
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut normalizers = vec![replace(" ", "▁")];
    if metadata.bool_or("tokenizer.ggml.add_space_prefix", true)? {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
    }
    let decoders = [
        replace("▁", " "),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
        json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}),
    ];
    Ok(Family {
        model: json!({
            "merges": merges_by_score(tokens, &scores),
            "unk_token": unknown,
            "byte_fallback": true,
            "fuse_unk": true,
            "ignore_merges": false,
        }),
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Json::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        adds_bos: true,
    })
}

/// SentencePiece joins the neighbours whose joint piece has the best score. As merges: each way
/// to cut a piece into two pieces, best scores first, as transformers converts such models.
fn merges_by_score<'a>(tokens: &[&'a str], scores: &[f64]) -> Vec<[&'a str; 2]> {
    let ids: BTreeMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    // Longer pieces than any real one would make the work grow with the cube of their length.
    const LONGEST: usize = 256;
    let mut merges = Vec::new();
    for (id, token) in tokens.iter().enumerate().filter(|(_, token)| token.len() <= LONGEST) {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let known = cuts.filter_map(|(left, right)| Some((*ids.get(left)?, *ids.get(right)?)));
        let mut known: Vec<_> = known.collect();
        known.sort_unstable();
        merges.extend(
            known.into_iter().map(|(left, right)| (scores[id], [tokens[left], tokens[right]])),
        );
    }
    // Stable, so pieces of one score stay in the order of their ids.
    merges.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    merges.into_iter().map(|(_, merge)| merge).collect()
}

fn added_tokens(tokens: &[&str], kinds: &[i64]) -> Vec<Json> {
    let added =
        kinds.iter().enumerate().filter(|(_, kind)| ADDED.contains(kind) || **kind == UNKNOWN);
    added
        .map(|(id, _)| {
            json!({"id": id, "content": tokens[id], "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        })
        .collect()
}

/// What puts the beginning-of-text token before a text, if the file wants it there.
fn begin_of_text(metadata: &Metadata, tokens: &[&str], adds_bos: bool) -> Result<Json, GgufFault> {
    let wanted = metadata.bool_or("tokenizer.ggml.add_bos_token", adds_bos)?;
    let Some(id) = metadata.id("tokenizer.ggml.bos_token_id")?.filter(|_| wanted) else {
        return Ok(Json::Null);
    };
    let Some(bos) = tokens.get(id as usize) else {
        return Err(GgufFault::OutOfRange {
            what: "`tokenizer.ggml.bos_token_id`".to_owned(),
            found: id.to_string(),
            expected: format!("below {}", tokens.len()),
        });
    };
    Ok(json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {*bos: {"id": bos, "ids": [id], "tokens": [bos]}},
    }))
}

fn same_length(key: &str, found: usize, expected: usize) -> Result<(), GgufFault> {
    if found == expected {
        return Ok(());
    }
    Err(GgufFault::OutOfRange {
        what: format!("length of `{key}`"),
        found: found.to_string(),
        expected: expected.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde::Deserialize;

    use crate::prompt::Prompt;
    use crate::tokenizer::Tokenizer;

    #[derive(Deserialize)]
    struct Golden {
        text: String,
        ids: Vec<u32>,
    }

    /// A vocabulary as LLaMA 2 has it, whose merges follow from scores: the tokenizers library's
    /// ids, which have no beginning-of-text token.
    #[test]
    fn scored_pieces_give_the_ids_of_the_reference() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/gguf");
        let bytes = std::fs::read(folder.join("spm.gguf")).unwrap();
        let (metadata, _) = super::super::reader::read_header(&bytes, bytes.len() as u64).unwrap();
        let tokenizer = Tokenizer::from_json(&super::tokenizer_json(&metadata).unwrap()).unwrap();
        assert_eq!(tokenizer.prefix(), [1]);
        let golden = std::fs::read_to_string(folder.join("spm_golden.json")).unwrap();
        let goldens: Vec<Golden> = serde_json::from_str(&golden).unwrap();
        assert!(goldens.len() > 10);
        for Golden { text, ids } in goldens {
            let found = tokenizer.encode(&Prompt::text(text.clone())).unwrap();
            assert_eq!(found[1..], ids, "{text:?}");
            // The format itself cannot tell an underline of this kind from a blank.
            assert_eq!(tokenizer.decode(&found).unwrap(), text.replace('\u{2581}', " "));
        }
    }
}
