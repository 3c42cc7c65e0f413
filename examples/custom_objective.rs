//! A loss of one's own: focal fine-tuning, which learns less from what the model knows already.
//!
//! `cargo run --release --example custom_objective`

use std::ops::ControlFlow;

use guard_examples::lines::{self, Outcome};
use guard_infer::guard_core::burn::tensor::Device;
use guard_infer::guard_core::{Llama, LlamaConfig, RandomInit};
use guard_train::{
    AnswerSequence, Contribution, LlamaTrainer, Objective, ObjectiveError, StepReport,
    TargetTokens, TrainOptions, Trainer, TrainingExample, Window,
};

/// The mean of `(1 - p)^2 (-log p)` over the target tokens of a window (focal loss, arXiv
/// 1708.02002): tokens that are as good as certain count for nothing.
#[derive(Debug)]
struct Focal;

impl Objective for Focal {
    type Example = TargetTokens;

    fn target_tokens(&self, example: &TargetTokens) -> usize {
        example.count
    }

    fn contribute(
        &self,
        examples: &[TargetTokens],
        log_probs: &[f32],
        window: Window,
    ) -> Result<Contribution, ObjectiveError> {
        window.check(self, examples, log_probs)?;
        let (mut coefficients, mut loss) = (Vec::new(), 0.0);
        for nll in log_probs.iter().map(|log_prob| -f64::from(*log_prob)) {
            let (p, rest) = ((-nll).exp(), 1.0 - (-nll).exp());
            let share = 1.0 / window.target_tokens as f64;
            loss += share * rest * rest * nll;
            // d/dnll of (1 - e^-nll)^2 nll
            coefficients.push((share * (rest * rest + 2.0 * rest * p * nll)) as f32);
        }
        Ok(Contribution::new(coefficients, loss))
    }
}

fn main() -> Outcome<()> {
    let model = Llama::random(&LlamaConfig::tiny(64), RandomInit::default(), &Device::default())?;
    // The alphabet, from a different letter each time.
    let row = |first: u32| AnswerSequence::new(&[1, first], &[first + 1, first + 2, first + 3]);
    let example = |first| TrainingExample::new(vec![row(first)], TargetTokens::new(3));
    let data: Vec<_> = (2..34).map(example).collect();

    let mut options = TrainOptions::r_sft();
    (options.examples_per_step, options.epochs, options.learning_rate) = (8, 20, 3e-3);
    let mut losses = Vec::new();
    let mut watch = |report: &StepReport| {
        losses.push(report.loss);
        ControlFlow::Continue(())
    };
    LlamaTrainer::new(model, Focal, options)?.train(&data, &mut watch)?;
    let (first, last) = (losses.first().copied(), losses.last().copied());
    lines::print(&format!("{} steps, from {first:.3?} to {last:.3?}\n", losses.len()))
}
