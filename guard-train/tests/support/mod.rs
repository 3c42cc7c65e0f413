//! What several test binaries share.
#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};

use guard_train::guard_core::burn::tensor::{Device, Tensor};
use guard_train::guard_core::{Llama, LoadOptions, ModelFiles};
use guard_train::{AnswerSequence, TargetTokens, TrainOptions, TrainingExample};

pub fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}

/// The tiny random model of the goldens.
pub fn tiny() -> Llama {
    tiny_on(&Device::flex())
}

pub fn tiny_on(device: &Device) -> Llama {
    ModelFiles::open(testdata("tiny")).unwrap().load(LoadOptions::default(), device).unwrap().0
}

pub fn floats(values: Tensor<1>) -> Vec<f32> {
    values.into_data().try_to_vec().unwrap()
}

/// All weights of a model, by name.
pub fn weights(model: &Llama) -> Vec<(String, Vec<f32>)> {
    let mut all = Vec::new();
    model.visit_parameters(&mut |parameter, values| {
        all.push((parameter.name.clone(), floats(values)));
    });
    all
}

/// Examples of lengths and tokens that look random.
pub fn examples(count: usize) -> Vec<TrainingExample<TargetTokens>> {
    let token = |example: usize, at: usize| ((example * 37 + at * 11 + at * at) % 58 + 3) as u32;
    (0..count)
        .map(|example| {
            let prompt: Vec<u32> = (0..1 + example % 5).map(|at| token(example, at)).collect();
            let answer: Vec<u32> =
                (0..1 + (example * 7) % 9).map(|at| token(example + 100, at)).collect();
            let row = AnswerSequence::new(&prompt, &answer);
            TrainingExample::new(vec![row], TargetTokens::new(answer.len()))
        })
        .collect()
}

/// Windows of 8 at a rate that moves the tiny model.
pub fn options() -> TrainOptions {
    let mut options = TrainOptions::default();
    options.examples_per_step = 8;
    options.learning_rate = 0.01;
    options.epochs = 2;
    options
}
