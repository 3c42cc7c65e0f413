//! A smaller vocabulary for a smaller model.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::encode::Tokenizer;
use super::error::TokenizerError;
use crate::prompt::Prompt;

/// A tokenizer with a part of another's vocabulary.
#[derive(Debug)]
#[non_exhaustive]
pub struct TrimmedTokenizer {
    /// The smaller one.
    pub tokenizer: Tokenizer,
    /// The tokens that are left, as the larger one numbers them, in the order in which the smaller
    /// one does.
    pub kept: Vec<u32>,
}

impl Tokenizer {
    /// A tokenizer with at most `size` of this one's tokens: all that is no product of merges, so
    /// that every text can still be encoded, then what `texts` need, the most frequent first, and
    /// what is merged first of the rest. Texts whose tokens are all left are encoded as before;
    /// others in more and shorter tokens.
    ///
    /// # Errors
    ///
    /// [`TokenizerError`] when this is no tokenizer of merges, a text cannot be encoded, or not even
    /// the tokens that are no products fit.
    pub fn trimmed<T: AsRef<str>>(
        &self,
        size: usize,
        texts: impl IntoIterator<Item = T>,
    ) -> Result<TrimmedTokenizer, TokenizerError> {
        let mut file: Value = serde_json::from_str(self.json())?;
        let vocabulary = vocabulary(&file)?;
        let merges = merges(&file)?;
        let parents: HashMap<String, (&str, &str)> = merges
            .iter()
            .rev()
            .map(|(a, b)| (format!("{a}{b}"), (a.as_str(), b.as_str())))
            .collect();
        let mut kept: HashSet<&str> = vocabulary
            .keys()
            .map(String::as_str)
            .filter(|token| !parents.contains_key(*token))
            .collect();
        if kept.len() > size {
            let (found, limit) = (kept.len() as u64, size as u64);
            return Err(TokenizerError::TooMany {
                what: "tokens that are no merges",
                found,
                limit,
            });
        }
        let frequent = self.by_frequency(texts)?;
        let names: HashMap<u32, &str> =
            vocabulary.iter().map(|(token, id)| (*id, token.as_str())).collect();
        let wanted = frequent.iter().filter_map(|id| names.get(id).copied());
        let merged = merges.iter().map(|(a, b)| format!("{a}{b}")).collect::<Vec<_>>();
        for token in wanted.chain(merged.iter().map(String::as_str)) {
            let needed = with_parents(token, &parents, &kept);
            if kept.len() + needed.len() > size {
                break;
            }
            kept.extend(needed);
        }
        let mut ids: Vec<u32> =
            kept.iter().filter_map(|token| vocabulary.get(*token)).copied().collect();
        ids.sort_unstable();
        let numbers: HashMap<u32, usize> =
            ids.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        renumber(&mut file, &numbers, &vocabulary, |a, b| {
            [a, b].iter().all(|part| kept.contains(part))
                && kept.contains(format!("{a}{b}").as_str())
        });
        Ok(TrimmedTokenizer { tokenizer: Self::from_json(&file.to_string())?, kept: ids })
    }

    /// The tokens of the texts, the most frequent first, the lower id among equals.
    fn by_frequency<T: AsRef<str>>(
        &self,
        texts: impl IntoIterator<Item = T>,
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut counts: HashMap<u32, u64> = HashMap::new();
        for text in texts {
            for id in self.encode(&Prompt::text(text.as_ref()))? {
                *counts.entry(id).or_default() += 1;
            }
        }
        let mut tokens: Vec<(u32, u64)> = counts.into_iter().collect();
        tokens.sort_unstable_by_key(|(id, count)| (std::cmp::Reverse(*count), *id));
        Ok(tokens.into_iter().map(|(id, _)| id).collect())
    }
}

/// All tokens with their ids, control tokens included.
fn vocabulary(file: &Value) -> Result<HashMap<String, u32>, TokenizerError> {
    let number = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
    let vocab =
        file["model"]["vocab"].as_object().ok_or(TokenizerError::NotAnObject("model.vocab"))?;
    let mut all: HashMap<String, u32> =
        vocab.iter().filter_map(|(token, id)| Some((token.clone(), number(id)?))).collect();
    for token in file["added_tokens"].as_array().into_iter().flatten() {
        all.extend(token["content"].as_str().map(str::to_owned).zip(number(&token["id"])));
    }
    Ok(all)
}

/// The merges, in order.
fn merges(file: &Value) -> Result<Vec<(String, String)>, TokenizerError> {
    let merges = file["model"]["merges"].as_array();
    let merges = merges.ok_or(TokenizerError::NotAnObject("model.merges"))?;
    let pair = |merge: &Value| match merge {
        Value::String(joined) => joined.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        other => Some((other[0].as_str()?.to_owned(), other[1].as_str()?.to_owned())),
    };
    Ok(merges.iter().filter_map(pair).collect())
}

/// A token that is not kept yet and those of which it is made.
fn with_parents<'a>(
    token: &'a str,
    parents: &HashMap<String, (&'a str, &'a str)>,
    kept: &HashSet<&str>,
) -> Vec<&'a str> {
    let (mut needed, mut open) = (Vec::new(), vec![token]);
    while let Some(token) = open.pop() {
        if kept.contains(token) || needed.contains(&token) {
            continue;
        }
        needed.push(token);
        open.extend(parents.get(token).into_iter().flat_map(|&(a, b)| [a, b]));
    }
    needed
}

/// Gives the tokens that are left their new numbers wherever a file has them, and drops merges of
/// which a part or the product is gone.
fn renumber(
    file: &mut Value,
    numbers: &HashMap<u32, usize>,
    vocabulary: &HashMap<String, u32>,
    is_kept: impl Fn(&str, &str) -> bool,
) {
    let number = |token: &str| vocabulary.get(token).and_then(|id| numbers.get(id));
    let model = &mut file["model"];
    let in_model = |token: &String| model["vocab"].get(token).is_some();
    let vocab: serde_json::Map<String, Value> = vocabulary
        .keys()
        .filter(|token| in_model(token))
        .filter_map(|token| Some((token.clone(), json!(number(token)?))))
        .collect();
    model["vocab"] = Value::Object(vocab);
    if let Some(merges) = model["merges"].as_array_mut() {
        merges.retain(|merge| match merge {
            Value::String(joined) => joined.split_once(' ').is_some_and(|(a, b)| is_kept(a, b)),
            other => match (other[0].as_str(), other[1].as_str()) {
                (Some(a), Some(b)) => is_kept(a, b),
                _ => false,
            },
        });
    }
    for token in file["added_tokens"].as_array_mut().into_iter().flatten() {
        if let Some(new) = token["content"].as_str().and_then(number) {
            token["id"] = json!(new);
        }
    }
    // The token before a text, which a template names with its number.
    if let Some(special) = file["post_processor"]["special_tokens"].as_object_mut() {
        for (token, entry) in special {
            if let Some(new) = number(token) {
                entry["ids"] = json!([new]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn tokenizer() -> Tokenizer {
        let path = "testdata/models/tied-gqa-llama3/tokenizer.json";
        Tokenizer::from_file(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
    }

    #[test]
    fn texts_that_were_asked_for_keep_their_tokens() {
        let whole = tokenizer();
        let text = "the request is harmful";
        let whole_ids = whole.encode(&Prompt::text(text)).unwrap();
        let bytes = 256 + whole.control_tokens().count();
        let TrimmedTokenizer { tokenizer, kept } = whole.trimmed(bytes + 60, [text]).unwrap();
        assert!(kept.len() <= bytes + 60 && tokenizer.vocab_size() == kept.len());
        assert!(kept.len() < whole.vocab_size());
        let ids = tokenizer.encode(&Prompt::text(text)).unwrap();
        let old: Vec<u32> = ids.iter().map(|&id| kept[id as usize]).collect();
        assert_eq!(old, whole_ids);
        // Any other text comes back, and so does the token before it.
        for text in ["Völlig anders: 🥐\n\n<|eot_id|>", ""] {
            let prompt = Prompt::new().trusted("<|eot_id|>").untrusted(text);
            let ids = tokenizer.encode(&prompt).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
            assert_eq!(ids[0], tokenizer.prefix()[0]);
            assert_eq!(kept[ids[0] as usize], whole.prefix()[0]);
            assert_eq!(ids[1], tokenizer.control_id("<|eot_id|>").unwrap());
        }
    }

    #[test]
    fn bytes_are_never_given_up() {
        let error = tokenizer().trimmed(100, [""]).unwrap_err();
        assert!(matches!(error, TokenizerError::TooMany { limit: 100, .. }), "{error}");
    }
}
