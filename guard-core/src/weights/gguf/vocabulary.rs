//! A `tokenizer.json` as the vocabulary of a GGUF file: the other way round than `tokenizer.rs`.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value as Json;

use super::super::error::GgufFault;
use super::metadata::Value;
use crate::config::LlamaConfig;
use crate::tokenizer::{Tokenizer, patterns};

const NORMAL: i64 = 1;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;

/// Tokens that end a turn, and one that ends a message, by which llama.cpp knows them.
const END_OF_TURN: [&str; 3] = ["<|eot_id|>", "<|im_end|>", "<end_of_turn>"];
const END_OF_MESSAGE: &str = "<|eom_id|>";

#[derive(Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    ignore_merges: bool,
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
    #[serde(default)]
    special: bool,
}

/// The keys and values of the vocabulary, padded to as many tokens as the model has. Only merges
/// over bytes can be written.
pub(super) fn pairs(
    tokenizer: &Tokenizer,
    config: &LlamaConfig,
) -> Result<Vec<(&'static str, Value)>, GgufFault> {
    let vocab_size = config.vocab_size;
    let unsupported = |found: String| GgufFault::Type {
        what: "the tokenizer".to_owned(),
        found,
        expected: "byte-level merges as LLaMA 3, SmolLM or GPT-2 has them",
    };
    let file: File =
        serde_json::from_str(tokenizer.json()).map_err(|error| unsupported(error.to_string()))?;
    let pre = family(&file).ok_or_else(|| unsupported("another one".to_owned()))?;
    let special = special_tokens(tokenizer, config)?;
    let added: BTreeMap<u32, i64> = file
        .added_tokens
        .iter()
        .map(|token| (token.id, if token.special { CONTROL } else { USER_DEFINED }))
        .collect();
    let mut tokens: BTreeMap<u32, String> =
        file.model.vocab.into_iter().map(|(token, id)| (id, token)).collect();
    tokens.extend(file.added_tokens.into_iter().map(|token| (token.id, token.content)));
    let (mut texts, mut kinds) = (Vec::new(), Vec::new());
    for id in 0..vocab_size as u32 {
        let token = tokens.remove(&id);
        kinds.push(Value::Signed(match &token {
            Some(_) => added.get(&id).copied().unwrap_or(NORMAL),
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
    let mut pairs = vec![
        ("tokenizer.ggml.model", Value::Text("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::Text(pre.to_owned())),
        ("tokenizer.ggml.tokens", Value::Array(texts)),
        ("tokenizer.ggml.token_type", Value::Array(kinds)),
        ("tokenizer.ggml.merges", Value::Array(merges.collect())),
        ("tokenizer.ggml.add_bos_token", Value::Bool(!tokenizer.prefix().is_empty())),
    ];
    pairs.extend(special);
    Ok(pairs)
}

/// The tokens that begin and end a text. Readers have numbers of their own for those that a file does
/// not name, so an end token has to be there.
fn special_tokens(
    tokenizer: &Tokenizer,
    config: &LlamaConfig,
) -> Result<Vec<(&'static str, Value)>, GgufFault> {
    let bos = match tokenizer.prefix() {
        [] => config.bos,
        [bos] => Some(*bos),
        more => return Err(misfit("tokens before a text", more.len(), "one, or none")),
    };
    let name_of = |id: u32| tokenizer.control_tokens().find(|(_, known)| *known == id);
    let mut ends = [None; 3];
    let mut others = Vec::new();
    for &end in &config.eos {
        let name = name_of(end).map_or("", |(name, _)| name);
        match name {
            END_OF_MESSAGE => ends[2] = Some(end),
            name if END_OF_TURN.contains(&name) && ends[1].is_none() => ends[1] = Some(end),
            _ => others.push(end),
        }
    }
    match others.as_slice() {
        [] => ends[0] = ends[1].or(ends[2]),
        [end] => ends[0] = Some(*end),
        [end, turn] if ends[1].is_none() => (ends[0], ends[1]) = (Some(*end), Some(*turn)),
        more => return Err(misfit("end tokens", more.len(), "at most two without a known name")),
    }
    if ends[0].is_none() {
        return Err(misfit("end tokens", 0, "at least one"));
    }
    let keys = [
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id",
    ];
    let id = |id: u32| Value::Unsigned(id.into());
    let bos = bos.map(|bos| ("tokenizer.ggml.bos_token_id", id(bos)));
    let ends = keys.into_iter().zip(ends).filter_map(|(key, end)| Some((key, id(end?))));
    Ok(bos.into_iter().chain(ends).collect())
}

fn misfit(what: &str, found: usize, expected: &str) -> GgufFault {
    let (what, found, expected) = (what.to_owned(), found.to_string(), expected.to_owned());
    GgufFault::OutOfRange { what, found, expected }
}

/// The name that GGUF has for a way to split texts, if this is all that the file does to them.
fn family(file: &File) -> Option<&'static str> {
    let pre_tokenizer = &file.pre_tokenizer;
    let steps = match pre_tokenizer["pretokenizers"].as_array() {
        Some(steps) => steps.as_slice(),
        None => std::slice::from_ref(pre_tokenizer),
    };
    let kinds: Vec<&str> = steps.iter().map(|step| step["type"].as_str().unwrap_or("")).collect();
    let (first, bytes) = (steps.first()?, steps.last()?);
    if !file.normalizer.is_null() || bytes["add_prefix_space"] != false {
        return None;
    }
    let splits = bytes["use_regex"].as_bool().unwrap_or(true);
    let isolated = first["behavior"] == "Isolated" && first["invert"] != true;
    let (name, ignores_merges) = match kinds.as_slice() {
        ["Split", "ByteLevel"]
            if first["pattern"]["Regex"] == patterns::LLAMA3 && isolated && !splits =>
        {
            ("llama-bpe", true)
        }
        ["Digits", "ByteLevel"] if first["individual_digits"] == true && splits => {
            ("smollm", false)
        }
        ["ByteLevel"] if splits => ("gpt-2", false),
        _ => return None,
    };
    (file.model.ignore_merges == ignores_merges).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(pre_tokenizer: &Json, ignore_merges: bool, normalizer: &Json) -> Option<&'static str> {
        let file = serde_json::json!({
            "model": {"vocab": {}, "merges": [], "ignore_merges": ignore_merges},
            "pre_tokenizer": pre_tokenizer, "normalizer": normalizer,
        });
        family(&serde_json::from_value(file).unwrap())
    }

    #[test]
    fn only_what_gguf_can_say_is_written() {
        let bytes = |prefix, regex| serde_json::json!({"type": "ByteLevel", "add_prefix_space": prefix, "use_regex": regex});
        let after = |first: Json, regex| serde_json::json!({"type": "Sequence", "pretokenizers": [first, bytes(false, regex)]});
        let digits =
            |single: bool| serde_json::json!({"type": "Digits", "individual_digits": single});
        let split = |pattern: &str, behavior: &str| serde_json::json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": false});
        assert_eq!(known(&bytes(false, true), false, &Json::Null), Some("gpt-2"));
        assert_eq!(known(&after(digits(true), true), false, &Json::Null), Some("smollm"));
        let llama = || after(split(patterns::LLAMA3, "Isolated"), false);
        assert_eq!(known(&llama(), true, &Json::Null), Some("llama-bpe"));

        assert_eq!(known(&llama(), false, &Json::Null), None, "merges are not ignored");
        assert_eq!(known(&llama(), true, &serde_json::json!({"type": "NFC"})), None);
        assert_eq!(known(&bytes(true, true), false, &Json::Null), None, "a blank before texts");
        assert_eq!(known(&after(digits(false), true), false, &Json::Null), None);
        assert_eq!(known(&after(split("x", "Isolated"), false), true, &Json::Null), None);
        assert_eq!(
            known(&after(split(patterns::LLAMA3, "Removed"), false), true, &Json::Null),
            None
        );
    }
}
