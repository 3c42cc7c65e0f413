//! What a run of training keeps to: windows, order, resuming, and data that is broken.
#![allow(clippy::unwrap_used)]

mod support;

use std::ops::ControlFlow;

use guard_train::guard_core::{Llama, LoraOptions};
use guard_train::{
    AnswerSequence, CheckpointError, CheckpointOptions, LlamaTrainer, Rsft, Skipped, StepReport,
    TargetTokens, TrainError, TrainObserver, TrainOptions, Trained, Trainer, TrainingExample,
};
use support::{examples, options, tiny, weights};

type Examples = [TrainingExample<TargetTokens>];

fn trainer(model: Llama, options: TrainOptions) -> LlamaTrainer<Rsft> {
    LlamaTrainer::new(model, Rsft::new(), options).unwrap()
}

fn run(trainer: &mut LlamaTrainer<Rsft>, data: &Examples) -> Vec<StepReport> {
    let mut reports = Vec::new();
    let mut observer = |report: &StepReport| {
        reports.push(report.clone());
        ControlFlow::Continue(())
    };
    trainer.train(data, &mut observer).unwrap();
    reports
}

/// The largest difference of two models' weights.
fn apart(a: &Llama, b: &Llama) -> f32 {
    let pairs = weights(a).into_iter().zip(weights(b));
    let differences = pairs.flat_map(|((name, a), (same, b))| {
        assert_eq!(name, same);
        a.into_iter().zip(b).map(|(a, b)| (a - b).abs()).collect::<Vec<_>>()
    });
    differences.fold(0.0, f32::max)
}

#[test]
fn how_a_window_is_cut_changes_nothing() {
    let data = examples(24);
    let trained = |examples_per_batch, tokens_per_batch| {
        let mut options = options();
        options.epochs = 1;
        options.examples_per_batch = examples_per_batch;
        options.tokens_per_batch = tokens_per_batch;
        let mut trainer = trainer(tiny(), options);
        let reports = run(&mut trainer, &data);
        (trainer.into_model().unwrap(), reports)
    };
    let (whole, reports) = trained(Some(8), 4096);
    for (examples, tokens) in [(Some(4), 4096), (Some(2), 4096), (Some(1), 4096), (None, 20)] {
        let (model, others) = trained(examples, tokens);
        assert!(apart(&whole, &model) < 2e-5, "{examples:?}, {tokens}: {}", apart(&whole, &model));
        for (report, other) in reports.iter().zip(&others) {
            assert_eq!(report.window, other.window);
            assert!((report.loss - other.loss).abs() < 1e-5);
        }
    }
}

#[test]
fn the_loss_falls_to_nothing_on_few_examples() {
    let data = examples(4);
    let mut options = options();
    options.epochs = 150;
    let mut trainer = trainer(tiny(), options);
    let reports = run(&mut trainer, &data);
    let (first, last) = (reports[0].loss, reports.last().unwrap().loss);
    assert!(first > 3.0 && last < 0.2, "from {first} to {last}");
    assert!(reports.iter().all(|report| report.tokens > report.window.target_tokens));
}

#[test]
fn padding_is_not_needed_and_order_within_a_window_changes_nothing() {
    let data = examples(8);
    let mut turned = data.clone();
    turned.reverse();
    let mut options = options();
    options.order = guard_train::Order::AsGiven;
    options.epochs = 1;
    let (mut a, mut b) = (trainer(tiny(), options.clone()), trainer(tiny(), options));
    run(&mut a, &data);
    run(&mut b, &turned);
    assert!(apart(a.model().unwrap(), b.model().unwrap()) < 2e-5);
}

/// Ends the run after a step.
struct StopAt(u64);

impl TrainObserver for StopAt {
    fn on_step(&mut self, report: &StepReport) -> ControlFlow<()> {
        if report.step == self.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

fn with_lora() -> Llama {
    tiny().with_new_adapters(&LoraOptions::default().with_rank(3), 5).unwrap()
}

#[test]
fn a_resumed_run_is_the_run_that_was_not_stopped_bit_by_bit() {
    let data = examples(20);
    // 3 windows an epoch: stopped within the first, at its end, and within the second.
    for (stop, model) in [(1, tiny as fn() -> Llama), (3, tiny), (4, tiny), (4, with_lora)] {
        let mut straight = trainer(model(), options());
        run(&mut straight, &data);
        let folder = tempfile::tempdir().unwrap();
        let checkpoints = CheckpointOptions::new(folder.path()).with_every(2).with_resume();
        let mut first = trainer(model(), options()).with_checkpoints(checkpoints.clone());
        let trained = first.train(&data, &mut StopAt(stop)).unwrap();
        assert_eq!(trained.steps, stop);
        let mut second = trainer(model(), options()).with_checkpoints(checkpoints);
        let reports = run(&mut second, &data);
        assert_eq!(reports.first().unwrap().step, stop + 1);
        assert_eq!(second.progress().steps, straight.progress().steps);
        assert_eq!(second.progress().target_tokens, straight.progress().target_tokens);
        assert_eq!(weights(second.model().unwrap()), weights(straight.model().unwrap()));
    }
}

#[test]
fn a_run_that_is_done_does_nothing_more() {
    let data = examples(8);
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointOptions::new(folder.path()).with_resume();
    let mut first = trainer(tiny(), options()).with_checkpoints(checkpoints.clone());
    run(&mut first, &data);
    let mut second = trainer(tiny(), options()).with_checkpoints(checkpoints);
    assert!(run(&mut second, &data).is_empty());
    assert_eq!(weights(second.model().unwrap()), weights(first.model().unwrap()));
}

#[test]
fn fault_t43_a_resume_with_something_else_is_refused() {
    let data = examples(8);
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointOptions::new(folder.path()).with_resume();
    run(&mut trainer(tiny(), options()).with_checkpoints(checkpoints.clone()), &data);
    let refused = |model: Llama, options: TrainOptions, data: &Examples| {
        let mut trainer = trainer(model, options).with_checkpoints(checkpoints.clone());
        match trainer.train(data, &mut StopAt(0)).unwrap_err() {
            TrainError::Checkpoint(CheckpointError::Changed { what, .. }) => what,
            other => panic!("{other}"),
        }
    };
    assert_eq!(refused(tiny(), options(), &examples(9)), "data");
    let mut other = options();
    other.seed += 1;
    assert_eq!(refused(tiny(), other.clone(), &data), "options");
    assert_eq!(refused(with_lora(), options(), &data), "model");
    let allowed = checkpoints.clone().with_changes_allowed();
    other.epochs += 1;
    assert_eq!(run(&mut trainer(tiny(), other).with_checkpoints(allowed), &data).len(), 1);
    // Without being told to resume nothing is overwritten.
    let mut fresh =
        trainer(tiny(), options()).with_checkpoints(CheckpointOptions::new(folder.path()));
    let error = fresh.train(&data, &mut StopAt(0)).unwrap_err();
    assert!(matches!(error, TrainError::Checkpoint(CheckpointError::Occupied { .. })), "{error}");
}

#[test]
fn fault_t42_two_trainers_in_one_folder() {
    let data = examples(8);
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointOptions::new(folder.path()).with_resume();
    let mut second = None;
    let mut observer = |_: &StepReport| {
        let mut other = trainer(tiny(), options()).with_checkpoints(checkpoints.clone());
        second.get_or_insert_with(|| other.train(&data, &mut StopAt(0)).unwrap_err());
        ControlFlow::Break(())
    };
    let mut first = trainer(tiny(), options()).with_checkpoints(checkpoints.clone());
    first.train(&data, &mut observer).unwrap();
    let error = second.unwrap();
    assert!(matches!(error, TrainError::Checkpoint(CheckpointError::InUse { .. })), "{error}");
}

#[test]
fn the_best_checkpoint_is_kept_with_the_newest() {
    let data = examples(16);
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointOptions::new(folder.path()).with_every(1).with_keep_last(1);
    let mut options = options();
    options.epochs = 6;
    options.learning_rate = 0.05;
    let mut trainer = trainer(tiny(), options)
        .with_checkpoints(checkpoints)
        .with_validation(examples(40)[30..].to_vec(), 1);
    let reports = run(&mut trainer, &data);
    let losses: Vec<f64> = reports.iter().filter_map(|report| report.validation_loss).collect();
    assert_eq!(losses.len(), reports.len());
    let best = trainer.progress().best.unwrap();
    let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert_eq!(best.loss, least);
    assert!(best.windows < reports.len() as u64, "the last step is the best: the test is idle");
    let mut kept: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("step-"))
        .collect();
    kept.sort();
    let mut expected = vec![format!("step-{}", best.windows), format!("step-{}", reports.len())];
    expected.sort();
    assert_eq!(kept, expected);
}

/// A token that makes every row that has it not finite.
fn poisoned(token: usize, value: f32) -> Llama {
    tiny().map_parameters(&mut |parameter, values| {
        if parameter.name != "model.embed_tokens.weight" {
            return values;
        }
        let width = parameter.shape[1];
        let mut floats = support::floats(values);
        floats[token * width] = value;
        guard_train::guard_core::burn::tensor::Tensor::from_data(
            guard_train::guard_core::burn::tensor::TensorData::new(floats.clone(), [floats.len()]),
            &guard_train::guard_core::burn::tensor::Device::flex(),
        )
    })
}

#[test]
fn fault_t44_rows_that_are_not_finite_are_skipped_and_told() {
    let data = examples(24);
    for bad in [f32::NAN, f32::INFINITY] {
        let mut trainer = trainer(poisoned(60, bad), options());
        let before = weights(trainer.model().unwrap());
        let mut reports = Vec::new();
        let mut observer = |report: &StepReport| {
            reports.push(report.clone());
            ControlFlow::Continue(())
        };
        // A tied head reads every row of the embedding: nothing is finite any more.
        let error = trainer.train(&data, &mut observer).unwrap_err();
        assert!(matches!(&error, TrainError::Diverged { skipped: 4, .. }), "{error}");
        assert!(error.to_string().contains("examples "), "{error}");
        let told = |report: &StepReport| matches!(report.skipped, Some(Skipped::NotFinite { .. }));
        assert!(reports.len() == 3 && reports.iter().all(told));
        let bits = |weights: &[(String, Vec<f32>)]| -> Vec<u32> {
            weights.iter().flat_map(|(_, values)| values).map(|value| value.to_bits()).collect()
        };
        let after = weights(trainer.model().unwrap());
        assert!(bits(&before) == bits(&after), "a step was made");
    }
}

#[test]
fn fault_t44_rows_without_a_target_teach_nothing_and_break_nothing() {
    let nothing =
        TrainingExample::new(vec![AnswerSequence::new(&[3, 4], &[])], TargetTokens::new(0));
    let mut options = options();
    options.order = guard_train::Order::AsGiven;
    options.examples_per_step = 2;
    options.epochs = 1;
    let empty = vec![nothing.clone(); 2];
    let data = [empty, examples(2), vec![nothing.clone(), examples(1).remove(0)]].concat();
    let mut trainer = trainer(tiny(), options.clone());
    let reports = run(&mut trainer, &data);
    assert_eq!(reports[0].skipped, Some(Skipped::NothingToLearn));
    assert_eq!((reports[0].loss, reports[0].gradient_norm), (0.0, None));
    assert!(reports[1..].iter().all(|report| report.skipped.is_none() && report.loss > 0.0));
    assert_eq!(trainer.progress().steps, 2);
    let alone = self::trainer(tiny(), options).train(&[nothing], &mut StopAt(0)).unwrap_err();
    assert!(matches!(alone, TrainError::Nothing { examples: 1 }), "{alone}");
}

#[test]
fn examples_that_do_not_fit_are_named() {
    let wrong =
        TrainingExample::new(vec![AnswerSequence::new(&[3], &[4, 5])], TargetTokens::new(3));
    let mut trainer = trainer(tiny(), options());
    let error = trainer.train(&[wrong], &mut StopAt(0)).unwrap_err();
    assert!(matches!(error, TrainError::TargetTokens { example: 0, expected: 3, found: 2 }));
    for (row, what) in [(vec![3, 61], "61"), (vec![3; 70], "64")] {
        let targets = TargetTokens::new(row.len() - 1);
        let long = TrainingExample::new(vec![AnswerSequence::new(&row[..1], &row[1..])], targets);
        let error = trainer.train(&[long], &mut StopAt(0)).unwrap_err();
        // The last token is learnt and never read, so one too many is met by the head.
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(
            source.as_deref().is_some_and(|source| source.contains(what)),
            "{error} {source:?}"
        );
    }
}

#[test]
fn adapters_are_trained_alone() {
    let data = examples(8);
    let mut trainer = trainer(with_lora(), options());
    let before = weights(trainer.model().unwrap());
    let trained: Trained = trainer.train(&data, &mut StopAt(2)).unwrap();
    assert_eq!(trained.steps, 2);
    let after = weights(trainer.model().unwrap());
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        assert_eq!(name.contains(".lora_"), before != after, "{name}");
    }
    // Without them it is the model that it was.
    let model = trainer.into_model().unwrap();
    assert_eq!(weights(&model.without_adapters()), weights(&tiny()));
}

#[test]
fn devices_that_share_a_window_learn_what_one_learns() {
    let data = examples(16);
    let mut options = options();
    options.examples_per_batch = Some(1);
    let mut one = trainer(tiny(), options.clone());
    let expected = run(&mut one, &data);
    // A CPU is one device: its copies stand for others.
    let devices = vec![guard_train::guard_core::burn::tensor::Device::flex(); 3];
    let mut four = trainer(tiny(), options).with_devices(devices);
    let found = run(&mut four, &data);
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found.loss - expected.loss).abs() < 1e-5);
    }
    assert!(apart(one.model().unwrap(), four.model().unwrap()) < 2e-5);
    // And the same each time.
    let devices = vec![guard_train::guard_core::burn::tensor::Device::flex(); 3];
    let mut options = self::options();
    options.examples_per_batch = Some(1);
    let mut again = trainer(tiny(), options).with_devices(devices);
    run(&mut again, &data);
    assert_eq!(weights(again.model().unwrap()), weights(four.model().unwrap()));
}
