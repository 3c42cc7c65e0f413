//! Logits and greedy text against transformers, on the committed random checkpoints.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

mod support;

use safetensors::SafeTensors;
use support::{MODELS, all_logits, difference, greedy, load, testdata};

struct Golden {
    input_ids: Vec<u32>,
    logits: Vec<f32>,
    greedy: Vec<u32>,
}

fn goldens(model: &str) -> Vec<Golden> {
    let bytes = std::fs::read(testdata(&format!("models/{model}/golden.safetensors"))).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let ids = |name: &str| {
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(8).map(|id| u64::from_le_bytes(id.try_into().unwrap()) as u32).collect()
    };
    let floats = |name: &str| {
        let data = tensors.tensor(name).unwrap().data().to_vec();
        data.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
    };
    (0..2)
        .map(|case| Golden {
            input_ids: ids(&format!("case{case}.input_ids")),
            logits: floats(&format!("case{case}.logits")),
            greedy: ids(&format!("case{case}.greedy")),
        })
        .collect()
}

#[test]
fn logits_are_those_of_transformers() {
    for name in MODELS {
        let model = load(testdata(&format!("models/{name}")));
        for golden in goldens(name) {
            let difference = difference(&all_logits(&model, &golden.input_ids), &golden.logits);
            assert!(difference <= 1e-3, "{name}: logits differ by {difference}");
        }
    }
}

#[test]
fn greedy_text_is_that_of_transformers() {
    for name in MODELS {
        let model = load(testdata(&format!("models/{name}")));
        for golden in goldens(name) {
            assert_eq!(
                greedy(&model, &golden.input_ids, golden.greedy.len()),
                golden.greedy,
                "{name}"
            );
        }
    }
}

#[test]
fn a_gguf_file_gives_the_text_of_the_same_safetensors() {
    let model = load(testdata("gguf/tied-gqa-llama3.f32.gguf"));
    for golden in goldens("tied-gqa-llama3") {
        let difference = difference(&all_logits(&model, &golden.input_ids), &golden.logits);
        assert!(difference <= 1e-3, "logits differ by {difference}");
        assert_eq!(greedy(&model, &golden.input_ids, golden.greedy.len()), golden.greedy);
    }
}
