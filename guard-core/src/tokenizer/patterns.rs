//! The regular expressions that a `tokenizer.json` may split text with.
//!
//! A file's own pattern runs over hostile text in a backtracking engine, where a nested
//! quantifier takes for ever. So only patterns that are known to be harmless are accepted.

/// LLaMA 3's.
pub(crate) const LLAMA3: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/// GPT-2's.
const GPT2: &str =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/// The patterns of LLaMA models, and fixed ones without choice.
pub(super) const KNOWN: [&str; 5] = [LLAMA3, GPT2, " ", "\\s+", "\\n"];
