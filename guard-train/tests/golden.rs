//! Five steps of each objective against PyTorch: losses, gradient norms, learning rates and every
//! parameter. The goldens are made by `scripts/train_goldens.py`.
#![allow(clippy::unwrap_used)]

mod support;

use std::ops::ControlFlow;

use guard_train::guard_core::TensorFile;
use guard_train::guard_core::burn::tensor::Device;
use guard_train::{
    AnswerSequence, AnswerTokens, HsDpo, HsDpoOptions, LlamaTrainer, Objective, Order,
    PreferencePair, Rsft, StepReport, TargetTokens, TrainOptions, Trainer, TrainingExample,
};
use serde_json::Value;
use support::{floats, testdata, tiny};

/// How far numbers may be apart, over their size.
const TOLERANCE: f64 = 1e-4;

fn runs() -> Value {
    serde_json::from_str(&std::fs::read_to_string(testdata("runs.json")).unwrap()).unwrap()
}

fn tokens(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn close(what: &str, found: f64, expected: f64) {
    let apart = (found - expected).abs() / expected.abs().max(1e-6);
    assert!(apart < TOLERANCE, "{what}: {found} is not {expected}");
}

fn options(run: &Value, examples_per_step: usize) -> TrainOptions {
    let options = &run["options"];
    let mut found = TrainOptions::default();
    found.examples_per_step = examples_per_step;
    found.epochs = 1;
    found.order = Order::AsGiven;
    found.learning_rate = number(&options["learning_rate"]);
    found.warmup_steps = options["warmup_steps"].as_u64().unwrap();
    found.weight_decay = number(&options["weight_decay"]);
    found.max_gradient_norm = Some(number(&options["max_gradient_norm"]));
    found
}

fn check<O>(name: &str, objective: O, data: &[TrainingExample<O::Example>], options: TrainOptions)
where
    O: Objective + std::fmt::Debug + Sync,
    O::Example: Clone + std::fmt::Debug + Sync,
{
    let golden = &runs()[name];
    let mut trainer = LlamaTrainer::new(tiny(), objective, options).unwrap();
    let mut reports: Vec<StepReport> = Vec::new();
    let mut observer = |report: &StepReport| {
        reports.push(report.clone());
        ControlFlow::Continue(())
    };
    trainer.train(data, &mut observer).unwrap();
    let steps = golden["steps"].as_array().unwrap();
    assert_eq!(reports.len(), steps.len());
    for (report, step) in reports.iter().zip(steps) {
        let what = |field| format!("{name}, step {}, {field}", report.step);
        close(&what("loss"), report.loss, number(&step["loss"]));
        let norm = report.gradient_norm.unwrap();
        close(&what("gradient norm"), norm, number(&step["gradient_norm"]));
        let rate = report.learning_rate.unwrap();
        assert!((rate - number(&step["learning_rate"])).abs() < 1e-12, "{}", what("rate"));
    }
    let file = TensorFile::open(testdata(&format!("{name}.safetensors"))).unwrap();
    let device = Device::flex();
    let mut seen = 0;
    trainer.model().unwrap().visit_parameters(&mut |parameter, values| {
        let expected = floats(file.read(&parameter.name, &parameter.shape, &device).unwrap());
        let found = floats(values);
        let size = expected.iter().fold(0.0_f32, |size, value| size.max(value.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            let apart = f64::from((found - expected).abs() / size);
            assert!(apart < TOLERANCE, "{name}, {}: {found} is not {expected}", parameter.name);
        }
        seen += 1;
    });
    assert_eq!(seen, file.tensors().count());
}

#[test]
fn r_sft_is_pytorchs() {
    let runs = runs();
    let example = |example: &Value| {
        let (prompt, answer) = (tokens(&example["prompt"]), tokens(&example["answer"]));
        TrainingExample::new(
            vec![AnswerSequence::new(&prompt, &answer)],
            TargetTokens::new(answer.len()),
        )
    };
    let data: Vec<_> = runs["r_sft"]["examples"].as_array().unwrap().iter().map(example).collect();
    check("r_sft", Rsft::new(), &data, options(&runs["r_sft"], 4));
}

fn pair(pair: &Value) -> TrainingExample<PreferencePair> {
    let prompt = tokens(&pair["prompt"]);
    let side = |name: &str, at: usize| {
        let answer = tokens(&pair[name]);
        let reference = number(&pair["reference"][at]);
        (AnswerSequence::new(&prompt, &answer), AnswerTokens::new(answer.len(), reference))
    };
    let ((chosen, chosen_tokens), (rejected, rejected_tokens)) =
        (side("chosen", 0), side("rejected", 1));
    let example = PreferencePair::new(chosen_tokens, rejected_tokens);
    let example = example.with_weight(number(&pair["weight"]));
    TrainingExample::new(vec![chosen, rejected], example)
}

fn check_pairs(name: &str) {
    let run = &runs()[name];
    let objective: HsDpoOptions = serde_json::from_value(run["objective"].clone()).unwrap();
    let data: Vec<_> = run["pairs"].as_array().unwrap().iter().map(pair).collect();
    check(name, HsDpo::new(objective).unwrap(), &data, options(run, 3));
}

#[test]
fn hs_dpo_is_pytorchs() {
    check_pairs("hs_dpo");
}

#[test]
fn hs_dpo_with_smoothing_and_the_weight_on_all_is_pytorchs() {
    check_pairs("hs_dpo_total");
}

#[test]
fn ipo_is_pytorchs() {
    check_pairs("ipo");
}
