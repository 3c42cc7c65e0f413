//! A real model against transformers: run by scripts/smollm2.sh, which makes the goldens and names
//! their folder in GUARD_SMOLLM2. Without that it says that it was skipped.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use guard_core::burn::tensor::Device;
use guard_core::{
    GenerateOptions, Llama, LoadOptions, ModelFiles, Prompt, TextGenerator, TokenBatch, Tokenizer,
};
use guard_infer::{DeviceName, Exchange, Guard, GuardBuilder, LlamaGenerator, Policy};
use safetensors::SafeTensors;
use serde_json::Value;

const GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("GUARD_SMOLLM2").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: scripts/smollm2.sh runs this");
    }
    folder
}

struct Case {
    name: String,
    text: String,
    ids: Vec<u32>,
    greedy: Vec<u32>,
}

fn cases(folder: &Path) -> Vec<Case> {
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(folder.join("cases.json")).unwrap()).unwrap();
    let ids = |value: &Value| serde_json::from_value(value.clone()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let case = |case: &Value| Case {
        name: text(&case["name"]),
        text: text(&case["text"]),
        ids: ids(&case["ids"]),
        greedy: ids(&case["greedy"]),
    };
    cases.iter().map(case).collect()
}

fn load(path: &Path) -> (Llama, Tokenizer) {
    let files = ModelFiles::open(path).unwrap();
    let (model, report) = files.load(LoadOptions::default(), &Device::flex()).unwrap();
    eprintln!("{}: {report}", path.display());
    (model, files.tokenizer().unwrap())
}

fn logits(model: &Llama, ids: &[u32], positions: &[usize]) -> Vec<f32> {
    let hidden = model.forward(&TokenBatch::new(&[ids]).unwrap(), None).unwrap();
    let logits = model.logits(model.gather(hidden, positions));
    logits.into_data().try_to_vec().unwrap()
}

fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)));
    best.unwrap() as u32
}

fn greedy(model: &Llama, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut cache = model.cache(1, prompt.len() + count);
    let mut next = prompt.to_vec();
    let mut step = |_| {
        let tokens = TokenBatch::new(&[&next]).unwrap();
        let hidden = model.forward(&tokens, Some(&mut cache)).unwrap();
        let logits = model.logits(model.gather(hidden, &tokens.last_places()));
        next = vec![argmax(&logits.into_data().try_to_vec::<f32>().unwrap())];
        next[0]
    };
    (0..count).map(&mut step).collect()
}

#[test]
fn logits_and_text_are_those_of_transformers() {
    let Some(folder) = folder() else { return };
    let cases = cases(&folder);
    assert_eq!(cases.len(), 20);
    let file = std::fs::read(folder.join("logits.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut worst = 0.0_f32;
    let (from_folder, tokenizer) = load(&folder.join("hf"));
    let (from_gguf, gguf_tokenizer) = load(&folder.join(GGUF));
    for (number, case) in cases.iter().enumerate() {
        for tokenizer in [&tokenizer, &gguf_tokenizer] {
            assert_eq!(
                tokenizer.encode(&Prompt::text(&case.text)).unwrap(),
                case.ids,
                "{}",
                case.name
            );
        }
        let data =
            |what: &str| tensors.tensor(&format!("{number}.{what}")).unwrap().data().to_vec();
        let positions: Vec<usize> = data("positions")
            .chunks_exact(8)
            .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()) as usize)
            .collect();
        let expected = data("logits");
        let expected = expected.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        let found = logits(&from_folder, &case.ids, &positions);
        assert_eq!(found.len(), expected.len());
        let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
        let difference: f32 =
            differences.fold(0.0, |a, b| if b.is_nan() { f32::INFINITY } else { a.max(b) });
        worst = worst.max(difference);
        assert!(difference <= 1e-3, "{}: logits differ by {difference}", case.name);
        assert_eq!(
            greedy(&from_folder, &case.ids, case.greedy.len()),
            case.greedy,
            "{}",
            case.name
        );
        assert_eq!(
            greedy(&from_gguf, &case.ids, case.greedy.len()),
            case.greedy,
            "{} .gguf",
            case.name
        );
    }
    eprintln!("largest logit difference over {} prompts: {worst:e}", cases.len());
}

/// On packed weights: floats write what transformers writes, but for ties.
#[test]
fn the_engine_writes_the_same_text_in_a_batch() {
    let Some(folder) = folder() else { return };
    let cases = &cases(&folder)[..6];
    let open = |path: &str| {
        LlamaGenerator::open(folder.join(path), LoadOptions::default(), &Device::flex()).unwrap()
    };
    let generator = open("hf");
    let mut options = GenerateOptions::default();
    options.max_tokens = 64;
    let prompts: Vec<Prompt> = cases.iter().map(|case| Prompt::text(&case.text)).collect();
    let mut same = 0;
    for (case, result) in cases.iter().zip(generator.generate(&prompts, &options)) {
        let text = &result.unwrap()[0].text;
        let expected = generator.tokenizer().decode(&case.greedy).unwrap();
        // An end token ends the engine's text, and not the reference's.
        same += usize::from(expected.starts_with(text.as_str()));
        // Keys and values of 16 bits may part from the reference where two tokens are all but equally
        // probable, and not sooner.
        let alike = text.chars().zip(expected.chars()).take_while(|(a, b)| a == b).count();
        assert!(2 * alike >= text.chars().count(), "{}: {text:?} {expected:?}", case.name);
    }
    eprintln!("{same} of {} texts are those of transformers to the end", cases.len());
    assert!(same + 1 >= cases.len());
    // Integers round inputs, too: their text may be another one, but it is the same in a batch.
    let generator = open(GGUF);
    for (prompt, result) in prompts.iter().zip(generator.generate(&prompts, &options)) {
        let alone = generator.generate(std::slice::from_ref(prompt), &options).remove(0).unwrap();
        assert_eq!(result.unwrap()[0].text, alone[0].text);
    }
}

#[test]
fn an_untuned_model_is_honestly_undetermined() {
    let Some(folder) = folder() else { return };
    let guard = GuardBuilder::new(folder.join(GGUF)).device(DeviceName::Cpu).build().unwrap();
    let mut options = guard_infer::JudgeOptions::default();
    options.max_tokens = 64;
    let verdict =
        guard.judge(&[Exchange::prompt("How is bread baked?")], &options).remove(0).unwrap();
    eprintln!("{:?}", Policy::default().decide(&verdict));
    assert_eq!(verdict.request.answer.given(), None);
}

/// Folders for scripts/smollm2_reference.py to load in transformers.
#[test]
fn folders_are_saved_for_transformers() {
    let Some(folder) = folder() else { return };
    let (model, tokenizer) = load(&folder.join(GGUF));
    model.save_folder(folder.join("saved/smollm2"), Some(&tokenizer), Default::default()).unwrap();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guard-core/testdata/models");
    for name in ["tied-gqa-llama3", "untied-mha-llama2", "untied-gqa-bf16", "sharded-gqa-f16"] {
        let files = ModelFiles::open(fixtures.join(name)).unwrap();
        let (model, _) = files.load(LoadOptions::default(), &Device::flex()).unwrap();
        model.save_folder(folder.join("saved").join(name), None, Default::default()).unwrap();
    }
}
