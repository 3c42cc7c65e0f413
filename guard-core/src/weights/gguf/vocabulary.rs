//! A `tokenizer.json` as the vocabulary of a GGUF file: the other way round than `tokenizer.rs`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value as Json;

use super::super::error::GgufFault;
use super::metadata::Value;
use crate::tokenizer::{Tokenizer, patterns};

const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const UNUSED: i64 = 5;

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    pre_tokenizer: Json,
}

#[derive(Deserialize)]
struct Model {
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(String, String),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

/// The keys and values of the vocabulary, padded to as many tokens as the model has. Only merges
/// over bytes can be written.
pub(super) fn pairs(
    tokenizer: &Tokenizer,
    vocab_size: usize,
) -> Result<Vec<(&'static str, Value)>, GgufFault> {
    let unsupported = |found: String| GgufFault::Type {
        what: "the tokenizer".to_owned(),
        found,
        expected: "byte-level merges as LLaMA 3, SmolLM or GPT-2 has them",
    };
    let file: File =
        serde_json::from_str(tokenizer.json()).map_err(|error| unsupported(error.to_string()))?;
    let pre = family(&file.pre_tokenizer).ok_or_else(|| unsupported("another one".to_owned()))?;
    let control: BTreeSet<u32> = file.added_tokens.iter().map(|token| token.id).collect();
    let mut tokens: BTreeMap<u32, String> =
        file.model.vocab.into_iter().map(|(token, id)| (id, token)).collect();
    tokens.extend(file.added_tokens.into_iter().map(|token| (token.id, token.content)));
    let (mut texts, mut kinds) = (Vec::new(), Vec::new());
    for id in 0..vocab_size as u32 {
        let token = tokens.remove(&id);
        kinds.push(Value::Signed(match &token {
            Some(_) if control.contains(&id) => CONTROL,
            Some(_) => NORMAL,
            None => UNUSED,
        }));
        texts.push(Value::Text(token.unwrap_or_else(|| format!("[unused{id}]"))));
    }
    if let Some((id, _)) = tokens.first_key_value() {
        return Err(GgufFault::OutOfRange {
            what: "ids of tokens".to_owned(),
            found: id.to_string(),
            expected: format!("below {vocab_size}"),
        });
    }
    let merges = file.model.merges.into_iter().map(|merge| match merge {
        Merge::Joined(merge) => Value::Text(merge),
        Merge::Pair(left, right) => Value::Text(format!("{left} {right}")),
    });
    Ok(vec![
        ("tokenizer.ggml.model", Value::Text("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::Text(pre.to_owned())),
        ("tokenizer.ggml.tokens", Value::Array(texts)),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.merges", Value::Array(merges.collect())),
        ("tokenizer.ggml.add_bos_token", Value::Bool(!tokenizer.prefix().is_empty())),
    ])
}

/// The name that GGUF has for a way to split texts.
fn family(pre_tokenizer: &Json) -> Option<&'static str> {
    let steps = match pre_tokenizer["pretokenizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(pre_tokenizer),
    };
    let kind = |step: &Json| step["type"].as_str().unwrap_or_default().to_owned();
    let kinds: Vec<String> = steps.iter().map(kind).collect();
    let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
    let bytes = steps.last()?;
    let splits = bytes["use_regex"].as_bool().unwrap_or(true);
    match kinds.as_slice() {
        ["Split", "ByteLevel"] if steps[0]["pattern"]["Regex"] == patterns::LLAMA3 && !splits => {
            Some("llama-bpe")
        }
        ["Digits", "ByteLevel"] if steps[0]["individual_digits"] == true && splits => {
            Some("smollm")
        }
        ["ByteLevel"] if splits => Some("gpt-2"),
        _ => None,
    }
}
