//! Another backend against the CPU: `GUARD_TEST_DEVICE=vulkan cargo test -p guard-infer --features
//! vulkan --test backend`. Without that variable it says that it was skipped.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use guard_core::burn::tensor::Device;
use guard_core::{
    GenerateOptions, Llama, LoadOptions, ModelFiles, Prompt, Sampling, TextGenerator, TokenBatch,
};
use guard_infer::{DeviceName, LlamaGenerator};

const MODELS: [&str; 4] =
    ["tied-gqa-llama3", "untied-mha-llama2", "untied-gqa-bf16", "sharded-gqa-f16"];

fn device() -> Option<Device> {
    let Ok(name) = std::env::var("GUARD_TEST_DEVICE") else {
        eprintln!("skipped: GUARD_TEST_DEVICE names no device");
        return None;
    };
    Some(name.parse::<DeviceName>().unwrap().open().unwrap())
}

fn files(model: &str) -> ModelFiles {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guard-core/testdata/models");
    let path: PathBuf = models.join(model);
    ModelFiles::open(path).unwrap()
}

fn rows() -> [Vec<u32>; 3] {
    [7, 40, 23].map(|length| (0..length).map(|i| (i * 37 + length) % 250).collect())
}

/// Logits of a prefill of unequal rows, and of two cached steps behind it.
fn logits(model: &Llama) -> Vec<f32> {
    let mut cache = model.cache(3, 8);
    let mut all = Vec::new();
    for tokens in
        [rows().to_vec(), vec![vec![5], vec![6], vec![7]], vec![vec![8, 9], vec![1], vec![2]]]
    {
        let tokens = TokenBatch::new(&tokens).unwrap();
        let hidden = model.forward(&tokens, Some(&mut cache)).unwrap();
        let logits = model.logits(model.gather(hidden, &tokens.last_places()));
        all.extend(logits.try_into_vec_as::<f32>().unwrap());
    }
    all
}

#[test]
fn logits_are_those_of_the_cpu() {
    let Some(device) = device() else { return };
    for name in MODELS {
        let files = files(name);
        let load = |device| files.load(LoadOptions::default(), device).unwrap().0;
        let (expected, found) = (logits(&load(&Device::flex())), logits(&load(&device)));
        let pairs = expected.iter().zip(&found).map(|(a, b)| (a - b).abs());
        let largest = pairs.fold(0.0_f32, |a, b| if b.is_nan() { f32::INFINITY } else { a.max(b) });
        eprintln!("{name}: largest difference {largest:e}");
        assert_eq!(expected.len(), found.len());
        assert!(largest <= 1e-3, "{name}: {largest}");
    }
}

#[test]
fn texts_are_those_of_the_cpu() {
    let Some(device) = device() else { return };
    let prompts = ["Hello", "The request asks how bread is baked.", "x"].map(Prompt::text);
    for sampling in [Sampling::Greedy, Sampling::TopP { temperature: 0.8, top_p: 0.9 }] {
        let options = GenerateOptions::default()
            .with_max_tokens(24)
            .with_samples(2)
            .with_sampling(sampling)
            .with_repetition(None);
        let texts = |device: &Device| -> Vec<String> {
            let files = files("tied-gqa-llama3");
            // On burn on both: packed weights keep keys and values in 16 bits.
            let (model, _) = files.load(LoadOptions::default(), device).unwrap();
            let generator = LlamaGenerator::new(model, files.tokenizer().unwrap()).unwrap();
            let results = generator.with_prefill_tokens(16).generate(&prompts, &options);
            results.into_iter().flat_map(|result| result.unwrap()).map(|c| c.text).collect()
        };
        assert_eq!(texts(&device), texts(&Device::flex()), "{sampling:?}");
    }
}
