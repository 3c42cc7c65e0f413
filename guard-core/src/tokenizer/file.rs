//! Reading a `tokenizer.json` that nobody vouches for.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use super::error::TokenizerError;
use super::patterns::KNOWN;

/// More tokens than any vocabulary has.
const MAX_TOKENS: u64 = 1 << 22;

/// More added tokens than any tokenizer has.
const MAX_ADDED: u64 = 1 << 16;

/// Whether the regular expressions of a file are used as they are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    KnownPatterns,
    AnyPattern,
}

/// A tokenizer and the ids of its control tokens.
pub(super) struct Loaded {
    pub(super) tokenizer: tokenizers::Tokenizer,
    pub(super) control: Vec<(String, u32)>,
}

/// Parses the text of a `tokenizer.json`, refuses what is dangerous in it, and lets the
/// tokenizers crate build the rest.
pub(super) fn load(json: &str, trust: Trust) -> Result<Loaded, TokenizerError> {
    let mut value: Value = serde_json::from_str(json)?;
    if trust == Trust::KnownPatterns {
        check_patterns(&value)?;
    }
    check_ids(&value)?;
    let control = mark_added_tokens(&mut value)?;
    neutralise(&mut value)?;
    let text = value.to_string();
    drop(value);
    let mut tokenizer = guarded("loading a tokenizer.json", || {
        text.parse::<tokenizers::Tokenizer>().map_err(TokenizerError::Tokenizers)
    })?;
    tokenizer.set_encode_special_tokens(true);
    Ok(Loaded { tokenizer, control })
}

/// Switches off what would change texts silently or at random: cutting, padding, and dropping
/// merges.
fn neutralise(value: &mut Value) -> Result<(), TokenizerError> {
    let fields = value.as_object_mut().ok_or(TokenizerError::NotAnObject("the file"))?;
    fields.insert("truncation".to_owned(), Value::Null);
    fields.insert("padding".to_owned(), Value::Null);
    if let Some(model) = fields.get_mut("model").and_then(Value::as_object_mut) {
        model.insert("dropout".to_owned(), Value::Null);
    }
    Ok(())
}

/// Runs code of the tokenizers crate, which panics on some crafted input.
pub(super) fn guarded<T>(
    action: &'static str,
    run: impl FnOnce() -> Result<T, TokenizerError>,
) -> Result<T, TokenizerError> {
    // Nothing of ours is changed by `run`, so nothing can be left half changed.
    catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(TokenizerError::Panicked { action }))
}

/// Refuses unknown regular expressions, wherever they stand.
fn check_patterns(value: &Value) -> Result<(), TokenizerError> {
    match value {
        Value::Object(fields) => {
            if let Some(pattern) = fields.get("Regex").and_then(Value::as_str)
                && !KNOWN.contains(&pattern)
            {
                return Err(TokenizerError::UnknownPattern { pattern: pattern.to_owned() });
            }
            fields.values().try_for_each(check_patterns)
        }
        Value::Array(values) => values.iter().try_for_each(check_patterns),
        _ => Ok(()),
    }
}

/// Refuses ids for which tables would have to be made larger than memory.
fn check_ids(value: &Value) -> Result<(), TokenizerError> {
    let vocabulary = value["model"]["vocab"].as_object();
    let ids = vocabulary.into_iter().flat_map(|entries| entries.values());
    let added = value["added_tokens"].as_array();
    let added = added.into_iter().flatten().map(|token| &token["id"]);
    match ids.chain(added).filter_map(Value::as_u64).max() {
        Some(found) if found >= MAX_TOKENS => {
            Err(TokenizerError::TooMany { what: "token ids", found, limit: MAX_TOKENS })
        }
        _ => Ok(()),
    }
}

/// Makes every added token special, so that none of them is matched in untrusted text, and
/// returns them.
fn mark_added_tokens(value: &mut Value) -> Result<Vec<(String, u32)>, TokenizerError> {
    let Some(tokens) = value.get_mut("added_tokens").and_then(Value::as_array_mut) else {
        return Ok(Vec::new());
    };
    let found = tokens.len() as u64;
    if found > MAX_ADDED {
        return Err(TokenizerError::TooMany { what: "added tokens", found, limit: MAX_ADDED });
    }
    let mut control = Vec::new();
    for token in tokens {
        let fields = token.as_object_mut().ok_or(TokenizerError::NotAnObject("an added token"))?;
        fields.insert("special".to_owned(), true.into());
        let id = token["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let content = token["content"].as_str().filter(|content| !content.is_empty());
        control.extend(content.map(str::to_owned).zip(id));
    }
    Ok(control)
}
