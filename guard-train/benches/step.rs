//! Steps of R-SFT on a real model: rows of 512 tokens, every token learnt, one row a step.
//!
//! `GUARD_BENCH_MODEL=FOLDER cargo bench -p guard-train --bench step`; `scripts/bench_train.py`
//! runs it beside PyTorch.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::ops::ControlFlow;

use guard_train::guard_core::burn::tensor::Device;
use guard_train::guard_core::{LoadOptions, LoraOptions, ModelFiles, Precision, Recompute};
use guard_train::{
    AnswerSequence, LlamaTrainer, Rsft, StepReport, TargetTokens, TrainOptions, Trainer,
    TrainingExample,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROW: usize = 512;

/// Tokens a second of each step but the first three, which fill the memory.
fn speeds(
    model: &ModelFiles,
    lora: Option<LoraOptions>,
    (recompute, precision): (Recompute, Precision),
    steps: usize,
) -> Vec<f64> {
    let (model, _) = model.load(LoadOptions::default(), &Device::flex()).unwrap();
    let model = match lora {
        Some(lora) => model.with_new_adapters(&lora, 1).unwrap(),
        None => model,
    };
    let ids: Vec<u32> = (0..=ROW as u32).map(|at| 1000 + 7 * at).collect();
    let row = AnswerSequence::new(&ids[..1], &ids[1..]);
    let data = vec![TrainingExample::new(vec![row], TargetTokens::new(ROW)); steps + 3];
    let mut options = TrainOptions::r_sft();
    (options.epochs, options.examples_per_step, options.learning_rate) = (1, 1, 1e-6);
    (options.recompute, options.precision) = (recompute, precision);
    let mut speeds = Vec::new();
    let mut watch = |report: &StepReport| {
        speeds.push(ROW as f64 / report.elapsed.as_secs_f64());
        ControlFlow::Continue(())
    };
    let mut trainer = LlamaTrainer::new(model, Rsft::new(), options).unwrap();
    trainer.train(&data, &mut watch).unwrap();
    speeds.split_off(3)
}

fn main() {
    let Ok(path) = std::env::var("GUARD_BENCH_MODEL") else {
        return println!("skipped: GUARD_BENCH_MODEL names no model");
    };
    let steps = std::env::var("GUARD_BENCH_STEPS").ok().and_then(|n| n.parse().ok()).unwrap_or(7);
    let files = ModelFiles::open(path).unwrap();
    let which = std::env::var("GUARD_BENCH_ONLY").unwrap_or_default();
    let (again, keep) = (Recompute::Projections, Recompute::Nothing);
    let lora = Some(LoraOptions::default());
    for (name, lora, recompute, precision) in [
        ("recompute", None, again, Precision::F32),
        ("keep", None, keep, Precision::F32),
        ("lora", lora.clone(), again, Precision::F32),
        ("bf16x3", None, keep, Precision::Bf16x3),
        ("bf16", None, keep, Precision::Bf16),
        ("lora-bf16", lora, keep, Precision::Bf16),
    ] {
        if which.is_empty() || which == name {
            let mut speeds = speeds(&files, lora, (recompute, precision), steps);
            speeds.sort_by(f64::total_cmp);
            println!("{name}: median {:.0} tokens/s", speeds[speeds.len() / 2]);
        }
    }
}
