//! What several test binaries share.
#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};

use guard_core::burn::tensor::{Device, Tensor};
use guard_core::{KvCache, Llama, LoadOptions, ModelFiles, TokenBatch};

pub const MODELS: [&str; 4] =
    ["tied-gqa-llama3", "untied-mha-llama2", "untied-gqa-bf16", "sharded-gqa-f16"];

pub fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}

/// A file or folder of the data that stands beside the project, if it is there.
pub fn shared(path: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(path);
    if !folder.exists() {
        eprintln!("skipped: shared/{path} is not there");
    }
    folder.exists().then_some(folder)
}

pub fn device() -> Device {
    Device::flex()
}

pub fn load(path: impl AsRef<Path>) -> Llama {
    ModelFiles::open(path).unwrap().load(LoadOptions::default(), &device()).unwrap().0
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec::<f32>().unwrap()
}

/// The largest absolute difference; infinite where the lengths differ.
pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return f32::INFINITY;
    }
    let differences = a.iter().zip(b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |a, b| if b.is_nan() { f32::INFINITY } else { a.max(b) })
}

pub fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)));
    best.unwrap() as u32
}

/// Logits of every token of one row, without a cache.
pub fn all_logits(model: &Llama, ids: &[u32]) -> Vec<f32> {
    let tokens = TokenBatch::new(&[ids]).unwrap();
    values(model.logits(model.forward(&tokens, None).unwrap()))
}

/// Logits behind the last token of each row.
pub fn last_logits(model: &Llama, rows: &[Vec<u32>], cache: Option<&mut KvCache>) -> Vec<Vec<f32>> {
    let tokens = TokenBatch::new(rows).unwrap();
    let hidden = model.forward(&tokens, cache).unwrap();
    let logits = values(model.logits(model.gather(hidden, &tokens.last_places())));
    logits.chunks(model.config().vocab_size).map(<[f32]>::to_vec).collect()
}

/// The most probable continuation, whatever tokens end a text.
pub fn greedy(model: &Llama, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut cache = model.cache(1, prompt.len() + count);
    let mut next = vec![prompt.to_vec()];
    (0..count)
        .map(|_| {
            let token = argmax(&last_logits(model, &next, Some(&mut cache))[0]);
            next = vec![vec![token]];
            token
        })
        .collect()
}
