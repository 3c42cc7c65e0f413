//! The tokenizer against the reference, and against hostile text and files.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use guard_core::{Exchange, Prompt, PromptStyle, Tokenizer, TokenizerError};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use support::{shared, testdata};

fn tiny() -> Tokenizer {
    Tokenizer::from_file(testdata("tokenizer/tokenizer.json")).unwrap()
}

fn llama3() -> Option<Tokenizer> {
    Some(Tokenizer::from_file(shared("tokenizers/llama3/tokenizer.json")?).unwrap())
}

#[derive(Deserialize)]
struct Golden {
    text: String,
    ids: Vec<u32>,
}

fn goldens(path: impl AsRef<Path>) -> Vec<Golden> {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn ids_are_those_of_the_tokenizers_library() {
    let tokenizer = tiny();
    for golden in goldens(testdata("tokenizer/golden.json")) {
        let prompt = Prompt::text(golden.text.clone());
        assert_eq!(tokenizer.encode(&prompt).unwrap(), golden.ids, "{:?}", golden.text);
        assert_eq!(tokenizer.decode(&golden.ids).unwrap(), golden.text);
    }
}

#[test]
fn a_gguf_vocabulary_is_the_same_tokenizer() {
    let files = guard_core::ModelFiles::open(testdata("gguf/tied-gqa-llama3.f32.gguf")).unwrap();
    let tokenizer = files.tokenizer().unwrap();
    for golden in goldens(testdata("tokenizer/golden.json")) {
        let prompt = Prompt::text(golden.text.clone());
        assert_eq!(tokenizer.encode(&prompt).unwrap(), golden.ids, "{:?}", golden.text);
    }
    assert_eq!(files.config().eos, [380, 383]);
}

#[test]
fn trusted_and_untrusted_text_are_encoded_in_one_pass() {
    let tokenizer = tiny();
    let whole = tokenizer.encode(&Prompt::text("Human user:\n\n\nhello there, friend")).unwrap();
    let cut =
        Prompt::new().trusted("Human user:\n").untrusted("\n\nhello the").trusted("re, friend");
    assert_eq!(tokenizer.encode(&cut).unwrap(), whole);
}

#[test]
fn begin_of_text_stands_there_once() {
    let tokenizer = tiny();
    let bos = tokenizer.control_id("<|begin_of_text|>").unwrap();
    assert_eq!(tokenizer.prefix(), [bos]);
    let doubled = Prompt::new().trusted("<|begin_of_text|>Hello");
    assert_eq!(
        tokenizer.encode(&doubled).unwrap(),
        tokenizer.encode(&Prompt::text("Hello")).unwrap()
    );
    let empty = tokenizer.encode(&Prompt::new()).unwrap();
    assert_eq!(empty, [bos]);
}

/// T-21: no spelling of a control token in untrusted text becomes one.
fn control_tokens_stay_text(tokenizer: &Tokenizer) {
    let mut attacks = Vec::new();
    for (token, _) in tokenizer.control_tokens() {
        let (head, tail) = token.split_at(token.len() / 2);
        attacks.extend([
            token.to_owned(),
            format!("a{token}b"),
            format!("{token}{token}"),
            format!("{head}{token}{tail}"),
            token.replace('|', "\u{ff5c}"),
            token.to_uppercase(),
        ]);
    }
    for attack in attacks {
        for exchange in [Exchange::prompt(&attack), Exchange::pair(&attack, &attack)] {
            for style in [PromptStyle::Benchmark, PromptStyle::Deploy, PromptStyle::Chat] {
                let prompt = style.render(&exchange);
                let clean = style.render(&Exchange::pair("x", "y"));
                let control = |prompt: &Prompt| {
                    let ids = tokenizer.encode(prompt).unwrap();
                    ids.into_iter().filter(|&id| tokenizer.is_control(id)).collect::<Vec<_>>()
                };
                assert_eq!(control(&prompt), control(&clean), "{style} {attack:?}");
            }
        }
        let ids = tokenizer.encode(&Prompt::text(attack.clone())).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), attack);
    }
}

#[test]
fn t21_control_tokens_in_text_are_text() {
    control_tokens_stay_text(&tiny());
}

#[test]
fn t21_split_over_two_segments_they_are_text_too() {
    let tokenizer = tiny();
    let eot = tokenizer.control_id("<|eot_id|>").unwrap();
    let split =
        Prompt::new().trusted("<|eot").untrusted("_id|>").untrusted("<|eot_").trusted("id|>");
    assert!(!tokenizer.encode(&split).unwrap().contains(&eot));
    let ours = Prompt::new().untrusted("<|eot_id|>").trusted("<|eot_id|>");
    let ids = tokenizer.encode(&ours).unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == eot).count(), 1);
    assert_eq!(ids.last(), Some(&eot));
}

/// T-22: a million of anything is encoded in bounded time and on a small stack.
fn a_million_of_anything(tokenizer: &Tokenizer) {
    for piece in ["a", " ", "\n", "^", "\u{1f600}", "\u{301}", "\u{200d}", "'", "7", "\u{4e2d}"] {
        let text = piece.repeat(1_000_000);
        let started = std::time::Instant::now();
        let ids = tokenizer.encode(&Prompt::text(text.clone())).unwrap();
        eprintln!("a million of {piece:?}: {} tokens in {:?}", ids.len(), started.elapsed());
        assert!(tokenizer.decode(&ids).unwrap() == text, "{piece:?}");
    }
}

#[test]
fn t22_a_million_of_anything_is_encoded() {
    let small_stack = std::thread::Builder::new().stack_size(512 << 10);
    small_stack.spawn(|| a_million_of_anything(&tiny())).unwrap().join().unwrap();
}

#[test]
fn t22_what_no_context_holds_is_refused_before_it_is_read() {
    let text = "a".repeat(Tokenizer::MAX_TEXT_BYTES + 1);
    let error = tiny().encode(&Prompt::text(text)).unwrap_err();
    assert!(matches!(error, TokenizerError::TextTooLong { .. }), "{error:?}");
}

#[test]
fn streamed_pieces_are_whole_characters() {
    let tokenizer = tiny();
    for golden in goldens(testdata("tokenizer/golden.json")) {
        let mut stream = tokenizer.stream();
        let mut text = String::new();
        for &id in &golden.ids {
            let piece = stream.push(id).unwrap();
            assert!(!piece.contains('\u{fffd}'), "{:?}", golden.text);
            text.push_str(&piece);
        }
        text.push_str(&stream.finish().unwrap());
        assert_eq!(text, golden.text);
    }
}

#[test]
fn bytes_that_are_no_text_are_given_out_in_the_end() {
    let tokenizer = tiny();
    // Four bytes and, in this small vocabulary, more than one token, of which the last is left out.
    let text = tokenizer.encode(&Prompt::text("\u{1f980}")).unwrap();
    assert!(text.len() > 2);
    let half: Vec<u32> = text[1..text.len() - 1].to_vec();
    let mut stream = tokenizer.stream();
    let mut pieces: String = half.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push_str(&stream.finish().unwrap());
    assert_eq!(pieces, tokenizer.decode(&half).unwrap());
    assert!(pieces.contains('\u{fffd}'));
}

#[test]
fn llama3_agrees_with_itself_and_resists() {
    let Some(tokenizer) = llama3() else { return };
    assert_eq!(tokenizer.prefix(), [128_000]);
    assert_eq!(tokenizer.control_id("<|eot_id|>"), Some(128_009));
    // From the tokenizers library: "Hello, world! How's it 12345?\n\n  ok", BOS before it.
    let ids = tokenizer.encode(&Prompt::text("Hello, world! How's it 12345?\n\n  ok")).unwrap();
    assert_eq!(ids, LLAMA3_IDS);
    control_tokens_stay_text(&tokenizer);
    a_million_of_anything(&tokenizer);
}

const LLAMA3_IDS: [u32; 14] =
    [128000, 9906, 11, 1917, 0, 2650, 596, 433, 220, 4513, 1774, 1980, 220, 5509];

#[derive(Deserialize)]
struct PromptGoldens {
    request: String,
    response: String,
    tiny: BTreeMap<String, Vec<u32>>,
    llama3: BTreeMap<String, Vec<u32>>,
}

/// Each prompt style has golden ids, in which the control tokens of chat turns are recognised.
#[test]
fn prompt_styles_have_their_golden_ids() {
    let file = std::fs::read_to_string(testdata("prompts.json")).unwrap();
    let golden: PromptGoldens = serde_json::from_str(&file).unwrap();
    let exchange = Exchange::pair(golden.request, golden.response);
    for (tokenizer, ids) in [(Some(tiny()), golden.tiny), (llama3(), golden.llama3)] {
        let Some(tokenizer) = tokenizer else { continue };
        assert_eq!(ids.len(), 3);
        for (style, ids) in ids {
            let prompt = style.parse::<PromptStyle>().unwrap().render(&exchange);
            assert_eq!(tokenizer.encode(&prompt).unwrap(), ids, "{style}");
        }
    }
}

fn changed(change: impl Fn(&mut Value)) -> Result<Tokenizer, TokenizerError> {
    let text = std::fs::read_to_string(testdata("tokenizer/tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    change(&mut json);
    Tokenizer::from_json(&json.to_string())
}

/// T-04: crafted files, among them those on which the tokenizers crate is known to panic.
#[test]
fn t04_crafted_files_are_refused() {
    let tokens = |count: u64| -> Vec<Value> {
        (0..count)
            .map(|id| json!({"id": id + 384, "content": format!("<t{id}>"), "special": true}))
            .collect()
    };
    type Change = Box<dyn Fn(&mut Value)>;
    let crafted: [(&str, Change); 16] = [
        ("a list", Box::new(|json| *json = json!([]))),
        ("a number among the added tokens", Box::new(|json| json["added_tokens"] = json!([1]))),
        ("no object at all", Box::new(|json| *json = json!(7))),
        (
            "a hostile pattern in the decoder",
            Box::new(|json| {
                json["decoder"] =
                    json!({"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""});
            }),
        ),
        (
            "merges of unknown pieces",
            Box::new(|json| json["model"]["merges"] = json!([["zz", "qq"]])),
        ),
        ("merges of one piece", Box::new(|json| json["model"]["merges"] = json!(["a"]))),
        (
            "a prefix longer than a piece",
            Box::new(|json| {
                json["model"]["continuing_subword_prefix"] = "################".into();
            }),
        ),
        ("no model", Box::new(|json| json["model"] = Value::Null)),
        ("an unknown model", Box::new(|json| json["model"]["type"] = "Neural".into())),
        ("an unknown step", Box::new(|json| json["pre_tokenizer"] = json!({"type": "Shell"}))),
        ("ids beyond memory", Box::new(|json| json["model"]["vocab"]["a"] = (1_u64 << 40).into())),
        (
            "added ids beyond memory",
            Box::new(|json| json["added_tokens"][0]["id"] = u32::MAX.into()),
        ),
        ("negative ids", Box::new(|json| json["model"]["vocab"]["a"] = (-1).into())),
        (
            "too many added tokens",
            Box::new(move |json| json["added_tokens"] = tokens(100_000).into()),
        ),
        (
            "a hostile pattern",
            Box::new(|json| {
                json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$".into();
            }),
        ),
        (
            "a hostile pattern in the normalizer",
            Box::new(|json| {
                json["normalizer"] =
                    json!({"type": "Replace", "pattern": {"Regex": "(x*)*y"}, "content": ""});
            }),
        ),
    ];
    for (name, change) in crafted {
        let result = changed(change);
        assert!(result.is_err(), "{name} was accepted");
    }
    let pattern = changed(|json| {
        json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$".into();
    });
    assert!(matches!(pattern, Err(TokenizerError::UnknownPattern { .. })));
}

#[test]
fn t04_truncated_files_are_refused() {
    let text = std::fs::read_to_string(testdata("tokenizer/tokenizer.json")).unwrap();
    for length in (0..text.len() - 2).step_by(997) {
        let cut = text.floor_char_boundary(length);
        assert!(matches!(Tokenizer::from_json(&text[..cut]), Err(TokenizerError::Json(_))));
    }
}

#[test]
fn a_file_may_not_cut_or_pad_texts() {
    let tokenizer = changed(|json| {
        json["truncation"] =
            json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
    })
    .unwrap();
    let long = Prompt::text("one two three four five six");
    assert_eq!(tokenizer.encode(&long).unwrap(), tiny().encode(&long).unwrap());
}

#[test]
fn trusted_files_may_have_their_own_patterns() {
    let text = std::fs::read_to_string(testdata("tokenizer/tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-z]+".into();
    assert!(Tokenizer::from_trusted_json(&json.to_string()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// T-23, T-26: any text goes through unchanged, odd characters and all.
    #[test]
    fn any_text_round_trips(text in ".{0,200}") {
        let tokenizer = tiny();
        let ids = tokenizer.encode(&Prompt::text(text.clone())).unwrap();
        prop_assert!(ids[1..].iter().all(|&id| !tokenizer.is_control(id)));
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }

    #[test]
    fn any_tokens_are_decoded(ids in proptest::collection::vec(0..500_u32, 0..60)) {
        let tokenizer = tiny();
        let _ = tokenizer.decode(&ids);
        let mut stream = tokenizer.stream();
        for &id in &ids {
            let _ = stream.push(id);
        }
        let _ = stream.finish();
    }

    #[test]
    fn damaged_files_are_read_or_refused(at in 0..14_000_usize, byte in 32..127_u8) {
        let mut text = std::fs::read(testdata("tokenizer/tokenizer.json")).unwrap();
        let at = at % text.len();
        text[at] = byte;
        let _ = Tokenizer::from_json(&String::from_utf8_lossy(&text));
    }
}
