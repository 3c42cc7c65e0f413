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
    /// [`TokenizerError`] when this is no tokenizer of merges, a text cannot be encoded, not even the
    /// tokens that are no products fit, or the token before a text is named in a way that is not known.
    pub fn trimmed<T: AsRef<str>>(
        &self,
        size: usize,
        texts: impl IntoIterator<Item = T>,
    ) -> Result<TrimmedTokenizer, TokenizerError> {
        let mut file: Value = serde_json::from_str(self.json())?;
        let vocabulary = vocabulary(&file)?;
        let merges = Merges::of(&file)?;
        let mut kept = self.indispensable(&vocabulary, &merges);
        if kept.len() > size {
            let (found, limit) = (kept.len() as u64, size as u64);
            return Err(TokenizerError::TooMany {
                what: "tokens that are no merges",
                found,
                limit,
            });
        }
        let frequent = self.by_frequency(texts)?;
        let names: HashMap<u32, &String> =
            vocabulary.iter().map(|(token, id)| (*id, token)).collect();
        let wanted = frequent.iter().filter_map(|id| names.get(id).copied());
        for token in wanted.chain(merges.products()) {
            if kept.contains(token) {
                continue;
            }
            let mut needed = merges.parts(token);
            needed.insert(token.clone());
            needed.retain(|part| !kept.contains(part));
            if kept.len() + needed.len() > size {
                break;
            }
            kept.extend(needed);
        }
        let mut ids: Vec<u32> =
            kept.iter().filter_map(|token| vocabulary.get(token)).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        let numbers: HashMap<u32, usize> =
            ids.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        renumber(&mut file, &numbers, &vocabulary, |a, b| {
            kept.contains(a) && kept.contains(b) && kept.contains(&format!("{a}{b}"))
        });
        let tokenizer = Self::from_json(&file.to_string())?;
        let prefix: Option<Vec<u32>> =
            tokenizer.prefix().iter().map(|&id| ids.get(id as usize).copied()).collect();
        if prefix.as_deref() != Some(self.prefix()) {
            return Err(TokenizerError::UnknownPostProcessor);
        }
        Ok(TrimmedTokenizer { tokenizer, kept: ids })
    }

    /// What no merge makes, and what is matched whole: without these, some text has no tokens.
    fn indispensable(&self, vocabulary: &HashMap<String, u32>, merges: &Merges) -> HashSet<String> {
        let products: HashSet<&String> = merges.products().collect();
        let control: HashSet<&str> = self.control_tokens().map(|(token, _)| token).collect();
        let needed =
            |token: &&String| !products.contains(token) || control.contains(token.as_str());
        vocabulary.keys().filter(needed).cloned().collect()
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

/// The merges of a file.
struct Merges {
    /// Both parts and the product, in the order of the file.
    in_order: Vec<[String; 3]>,
    /// The place of a pair in that order.
    ranks: HashMap<(String, String), usize>,
}

impl Merges {
    fn of(file: &Value) -> Result<Self, TokenizerError> {
        let merges = file["model"]["merges"].as_array();
        let merges = merges.ok_or(TokenizerError::NotAnObject("model.merges"))?;
        let in_order: Vec<[String; 3]> = merges
            .iter()
            .filter_map(|merge| {
                pair(merge).map(|(a, b)| [a.to_owned(), b.to_owned(), format!("{a}{b}")])
            })
            .collect();
        let ranked = in_order.iter().enumerate().rev();
        let ranks = ranked.map(|(rank, [a, b, _])| ((a.clone(), b.clone()), rank)).collect();
        Ok(Self { in_order, ranks })
    }

    fn products(&self) -> impl Iterator<Item = &String> {
        self.in_order.iter().map(|[_, _, product]| product)
    }

    /// All that is made on the way from letters to a token, as merging goes: of several ways to make
    /// a token, it takes the one whose merges come first.
    fn parts(&self, token: &str) -> HashSet<String> {
        let mut pieces: Vec<String> = token.chars().map(String::from).collect();
        let mut made: HashSet<String> = pieces.iter().cloned().collect();
        loop {
            let rank =
                |pair: &[String]| self.ranks.get(&(pair[0].clone(), pair[1].clone())).copied();
            let next =
                pieces.windows(2).enumerate().filter_map(|(at, pair)| Some((rank(pair)?, at)));
            let Some((_, at)) = next.min() else { return made };
            let joined = pieces[at].clone() + &pieces.remove(at + 1);
            made.insert(joined.clone());
            pieces[at] = joined;
        }
    }
}

/// The two parts of a merge, in either form that files have.
fn pair(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(joined) => joined.split_once(' '),
        other => Some((other[0].as_str()?, other[1].as_str()?)),
    }
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
        merges.retain(|merge| pair(merge).is_some_and(|(a, b)| is_kept(a, b)));
    }
    let added = file.get_mut("added_tokens").and_then(Value::as_array_mut);
    for token in added.into_iter().flatten() {
        if let Some(new) = token["content"].as_str().and_then(number) {
            token["id"] = json!(new);
        }
    }
    if let Some(processor) = file.get_mut("post_processor") {
        renumber_templates(processor, &number);
    }
}

/// The tokens that templates put before a text are named with their numbers, in a template or in one
/// of a sequence.
fn renumber_templates<'a>(processor: &mut Value, number: &impl Fn(&str) -> Option<&'a usize>) {
    let special = processor.get_mut("special_tokens").and_then(Value::as_object_mut);
    for (token, entry) in special.into_iter().flatten() {
        if let Some(new) = number(token) {
            entry["ids"] = json!([new]);
        }
    }
    let steps = processor.get_mut("processors").and_then(Value::as_array_mut);
    steps.into_iter().flatten().for_each(|step| renumber_templates(step, number));
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

    /// As LLaMA 3.1 has it: the template in a sequence, and a merge that is never taken listed first.
    #[test]
    fn the_merges_that_are_taken_are_kept_and_templates_in_sequences_renumbered() {
        let mut file: Value = serde_json::from_str(tokenizer().json()).unwrap();
        let template = file["post_processor"].take();
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true});
        file["post_processor"] = json!({"type": "Sequence", "processors": [bytes, template]});
        let whole = Tokenizer::from_json(&file.to_string()).unwrap();
        let small = whole.trimmed(300, ["harmful"]).unwrap();
        let prefix = small.tokenizer.prefix();
        assert_eq!([small.kept[prefix[0] as usize]], whole.prefix());
        assert_ne!(prefix, whole.prefix());

        // `abc` can be made of `a` and `bc`, which comes first in the file, but `ab` is merged before.
        let merges = json!({"model": {"merges": ["a bc", "a b", "ab c", "b c"]}});
        let parts = Merges::of(&merges).unwrap().parts("abc");
        let expected = ["a", "b", "c", "ab", "abc"].map(str::to_owned);
        assert_eq!(parts, HashSet::from(expected));
    }

    #[test]
    fn a_file_without_a_token_before_texts_is_trimmed_too() {
        let mut file: Value = serde_json::from_str(tokenizer().json()).unwrap();
        file["post_processor"] = Value::Null;
        let whole = Tokenizer::from_json(&file.to_string()).unwrap();
        let small = whole.trimmed(300, ["harmful"]).unwrap().tokenizer;
        assert!(small.prefix().is_empty());
        let ids = small.encode(&Prompt::text("harmful")).unwrap();
        assert_eq!(small.decode(&ids).unwrap(), "harmful");
    }

    #[test]
    fn bytes_are_never_given_up() {
        let error = tokenizer().trimmed(100, [""]).unwrap_err();
        assert!(matches!(error, TokenizerError::TooMany { limit: 100, .. }), "{error}");
    }
}
