//! What a run of training keeps to: windows, order, resuming, and data that is broken.
#![allow(clippy::unwrap_used)]

mod support;

use std::ops::ControlFlow;

use guard_train::guard_core::{Llama, LoraOptions};
use guard_train::{
    AnswerSequence, CheckpointError, CheckpointOptions, Contribution, ExampleSet, LlamaTrainer,
    Objective, ObjectiveError, Resume, Rsft, Skipped, StepReport, TargetTokens, TrainError,
    TrainEvent, TrainObserver, TrainOptions, Trained, Trainer, TrainingExample, Window,
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
fn frozen_blocks_stay_as_they_were() {
    let mut options = options();
    options.frozen_blocks = 1;
    let before = tiny();
    let names = |options: &TrainOptions| {
        let mut trainer = trainer(tiny(), options.clone());
        run(&mut trainer, &examples(16));
        let after = trainer.into_model().unwrap();
        let changed = weights(&before).into_iter().zip(weights(&after));
        changed.filter(|(old, new)| old != new).map(|(old, _)| old.0).collect::<Vec<_>>()
    };
    let changed = names(&options);
    let frozen = |name: &String| name.contains("embed_tokens") || name.contains("layers.0.");
    assert!(!changed.iter().any(frozen), "{changed:?}");
    assert!(changed.iter().any(|name| name.contains("layers.1.")), "{changed:?}");
    options.frozen_blocks = 0;
    assert!(names(&options).iter().any(frozen));
    options.frozen_blocks = before.config().layers + 1;
    let error = LlamaTrainer::new(tiny(), Rsft::new(), options).unwrap_err();
    assert_eq!(error.option, "frozen_blocks");
}

#[test]
fn a_run_with_frozen_blocks_goes_on_from_its_checkpoint() {
    let data = examples(24);
    let mut options = options();
    options.frozen_blocks = 1;
    let mut whole = trainer(tiny(), options.clone());
    run(&mut whole, &data);
    let folder = tempfile::tempdir().unwrap();
    let resumable = |options: TrainOptions| {
        let checkpoints = CheckpointOptions::new(folder.path()).with_resume();
        trainer(tiny(), options).with_checkpoints(checkpoints)
    };
    let mut stop = |report: &StepReport| match report.step {
        3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    resumable(options.clone()).train(&data, &mut stop).unwrap();
    let mut second = resumable(options.clone());
    assert_eq!(run(&mut second, &data)[0].step, 4);
    assert_eq!(apart(second.model().unwrap(), whole.model().unwrap()), 0.0);
    options.frozen_blocks = 0;
    let refused = resumable(options).train(&data, &mut stop);
    assert!(matches!(refused, Err(TrainError::Checkpoint(_))), "{refused:?}");
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
        changes(trainer(model, options).with_checkpoints(checkpoints.clone()), data)
    };
    let named = |changes: &[String], what: &str| changes.len() == 1 && changes[0].starts_with(what);
    assert!(named(&refused(tiny(), options(), &examples(9)), "`data` was "));
    assert!(named(&refused(with_lora(), options(), &data), "`model` was "));
    let mut other = options();
    (other.seed, other.learning_rate) = (43, 0.5);
    let expected =
        ["`options.learning_rate` was 0.01 and is 0.5", "`options.seed` was 42 and is 43"];
    assert_eq!(refused(tiny(), other.clone(), &data), expected);
    let objective = LlamaTrainer::new(tiny(), Doubled, options()).unwrap();
    let changes = changes(objective.with_checkpoints(checkpoints.clone()), &data);
    assert_eq!(changes, ["`objective` was Rsft and is Doubled"]);
    let allowed = checkpoints.clone().with_changes_allowed();
    other.epochs += 1;
    assert_eq!(run(&mut trainer(tiny(), other).with_checkpoints(allowed), &data).len(), 1);
    // Without being told to resume nothing is overwritten.
    let mut fresh =
        trainer(tiny(), options()).with_checkpoints(CheckpointOptions::new(folder.path()));
    let error = fresh.train(&data, &mut StopAt(0)).unwrap_err();
    assert!(matches!(error, TrainError::Checkpoint(CheckpointError::Occupied { .. })), "{error}");
}

/// What a trainer says against going on.
fn changes<O>(mut trainer: LlamaTrainer<O>, data: &Examples) -> Vec<String>
where
    O: Objective<Example = TargetTokens> + std::fmt::Debug + Sync,
{
    let error = trainer.train(data, &mut StopAt(0)).unwrap_err();
    let TrainError::Checkpoint(CheckpointError::Changed { changes, .. }) = &error else {
        panic!("{error}")
    };
    let shown: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert!(shown.iter().all(|change| error.to_string().contains(change)), "{error}");
    shown
}

/// R-SFT with another name.
#[derive(Debug)]
struct Doubled;

impl Objective for Doubled {
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
        Rsft::new().contribute(examples, log_probs, window)
    }
}

#[test]
fn fault_t43_a_resume_with_other_scales_of_the_adapters_is_refused() {
    let data = examples(8);
    let lora = LoraOptions::default().with_rank(3);
    let adapted = |lora: &LoraOptions| tiny().with_new_adapters(lora, 5).unwrap();
    let scales = adapted(&lora).adapter_scales();
    assert!(scales.len() >= 7 && scales.iter().all(|(_, scale)| *scale == lora.scale()));
    assert_eq!(scales[0].0, "model.layers.0.self_attn.q_proj");
    assert!(tiny().adapter_scales().is_empty());

    let folder = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointOptions::new(folder.path()).with_resume();
    let begin = |lora: &LoraOptions| {
        trainer(adapted(lora), options()).with_checkpoints(checkpoints.clone())
    };
    run(&mut begin(&lora), &data);
    for other in [lora.clone().with_alpha(3.0), lora.clone().with_rank_stabilised()] {
        let changes = changes(begin(&other), &data);
        assert!(changes.len() == 1 && changes[0].starts_with("`model` was "), "{changes:?}");
    }
    assert!(run(&mut begin(&lora), &data).is_empty());
}

#[test]
fn memory_and_speed_may_change_when_a_run_goes_on() {
    let data = examples(20);
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointOptions::new(folder.path()).with_resume();
    let mut first = trainer(tiny(), options()).with_checkpoints(checkpoints.clone());
    first.train(&data, &mut StopAt(2)).unwrap();
    let mut other = options();
    (other.tokens_per_batch, other.examples_per_batch, other.head_chunk) = (20, Some(3), 7);
    other.recompute = guard_train::guard_core::Recompute::Nothing;
    other.max_skipped = 9;
    let mut second = trainer(tiny(), other).with_checkpoints(checkpoints);
    assert_eq!(run(&mut second, &data).first().unwrap().step, 3);
    let mut straight = trainer(tiny(), options());
    run(&mut straight, &data);
    assert!(apart(second.model().unwrap(), straight.model().unwrap()) < 2e-5);
}

#[test]
fn another_validation_set_forgets_the_best() {
    let data = examples(16);
    let (one, other) = (examples(40)[30..].to_vec(), examples(60)[50..].to_vec());
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointOptions::new(folder.path()).with_every(1).with_resume();
    let mut options = options();
    options.epochs = 4;
    let begin = || trainer(tiny(), options.clone()).with_checkpoints(checkpoints.clone());
    let best_after = |mut trainer: LlamaTrainer<Rsft>, step| {
        trainer.train(&data, &mut StopAt(step)).unwrap();
        assert_eq!(trainer.progress().windows, step);
        trainer.progress().best
    };
    let best = best_after(begin().with_validation(one.clone(), 1), 2);
    assert!(best.is_some());
    // Nothing is measured after step 2: what is told of the best is what was kept.
    assert_eq!(best_after(begin(), 3), best);
    assert_eq!(best_after(begin().with_validation(one, 100), 4), best);
    assert_eq!(best_after(begin().with_validation(other.clone(), 100), 5), None);
    // The same in memory.
    let mut trainer = self::trainer(tiny(), options).with_validation(other.clone(), 1);
    trainer.train(&data, &mut StopAt(1)).unwrap();
    assert!(trainer.progress().best.is_some());
    let mut trainer = trainer.with_validation(other[1..].to_vec(), 100);
    trainer.train(&data, &mut StopAt(2)).unwrap();
    assert_eq!((trainer.progress().windows, trainer.progress().best), (2, None));
}

#[test]
fn a_validation_set_without_a_target_is_refused() {
    let nothing =
        TrainingExample::new(vec![AnswerSequence::new(&[3, 4], &[])], TargetTokens::new(0));
    for set in [vec![], vec![nothing]] {
        let examples = set.len();
        let mut trainer = trainer(tiny(), options()).with_validation(set, 1);
        let error = trainer.train(&self::examples(8), &mut StopAt(1)).unwrap_err();
        let told = matches!(
            &error,
            TrainError::Nothing { set: ExampleSet::Validation, examples: found } if *found == examples
        );
        assert!(told && error.to_string().contains("validation set"), "{error}");
    }
}

#[test]
fn a_second_call_goes_on_with_the_same_data_and_begins_anew_with_others() {
    let (data, other) = (examples(20), examples(30)[20..].to_vec());
    let mut straight = trainer(tiny(), options());
    let reports = run(&mut straight, &data);
    let mut trainer = trainer(tiny(), options());
    trainer.train(&data, &mut StopAt(2)).unwrap();
    let rest = run(&mut trainer, &data);
    assert_eq!((rest[0].step, rest.len()), (3, reports.len() - 2));
    assert_eq!(weights(trainer.model().unwrap()), weights(straight.model().unwrap()));
    // It is done: nothing more happens.
    let trained = trainer.train(&data, &mut StopAt(0)).unwrap();
    assert_eq!(trained, Trained::new());
    // Other data are what a new trainer of the model would do with them.
    let mut anew = self::trainer(trainer.model().unwrap().clone(), options());
    let expected = run(&mut anew, &other);
    let found = run(&mut trainer, &other);
    assert_eq!((found[0].step, found.len()), (1, expected.len()));
    assert_eq!(trainer.progress(), anew.progress());
    assert_eq!(weights(trainer.model().unwrap()), weights(anew.model().unwrap()));
}

#[test]
fn a_second_call_with_checkpoints_is_told_what_to_do() {
    let data = examples(8);
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointOptions::new(folder.path());
    assert_eq!(checkpoints.resume, Resume::Never);
    let mut trainer = trainer(tiny(), options()).with_checkpoints(checkpoints.clone());
    trainer.train(&data, &mut StopAt(1)).unwrap();
    for data in [data.clone(), examples(9)] {
        let error = trainer.train(&data, &mut StopAt(0)).unwrap_err();
        let occupied =
            matches!(&error, TrainError::Checkpoint(CheckpointError::Occupied { step: 1, .. }));
        assert!(occupied && error.to_string().contains("with_resume"), "{error}");
    }
    // The refusals changed nothing, and what they say helps.
    let mut trainer = trainer.with_checkpoints(checkpoints.with_resume());
    assert_eq!(run(&mut trainer, &data)[0].step, 2);
}

/// What it saw of the run's checkpoints.
#[derive(Default)]
struct Events(Vec<String>);

impl TrainObserver for Events {
    fn on_step(&mut self, _: &StepReport) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }

    fn on_event(&mut self, event: &TrainEvent<'_>) {
        self.0.push(event.to_string());
    }
}

/// R-SFT that refuses an example of this many tokens once it has seen the model's numbers, and
/// one of that many before.
#[derive(Debug)]
struct Picky {
    late: usize,
    early: usize,
}

impl Picky {
    fn refuse(example: usize, count: usize, bad: usize) -> Result<(), ObjectiveError> {
        let (field, expected) = ("count", "another");
        match count == bad {
            true => Err(ObjectiveError::Example { example, field, expected, found: bad as f64 }),
            false => Ok(()),
        }
    }
}

impl Objective for Picky {
    type Example = TargetTokens;

    fn target_tokens(&self, example: &TargetTokens) -> usize {
        example.count
    }

    fn check_example(&self, example: &TargetTokens) -> Result<(), ObjectiveError> {
        Self::refuse(0, example.count, self.early)
    }

    fn contribute(
        &self,
        examples: &[TargetTokens],
        log_probs: &[f32],
        window: Window,
    ) -> Result<Contribution, ObjectiveError> {
        for (at, example) in examples.iter().enumerate() {
            Self::refuse(at, example.count, self.late)?;
        }
        Rsft::new().contribute(examples, log_probs, window)
    }
}

/// The one example with 30 target tokens is at place 13, in the second window.
fn with_a_long_one() -> Vec<TrainingExample<TargetTokens>> {
    let mut data = examples(16);
    let row = AnswerSequence::new(&[3], &[5; 30]);
    data[13] = TrainingExample::new(vec![row], TargetTokens::new(30)).with_row(21);
    data
}

fn in_order() -> TrainOptions {
    let mut options = options();
    options.order = guard_train::Order::AsGiven;
    options
}

#[test]
fn the_example_that_an_objective_refuses_is_named_and_what_was_learnt_is_kept() {
    let refused = |error: &TrainError, set, index, row| {
        let TrainError::Refused { example, source } = error else { panic!("{error}") };
        let ObjectiveError::Example { example: inner, .. } = source else { panic!("{source}") };
        assert_eq!((example.set, example.index, example.row), (set, index, row));
        assert_eq!(*inner, index);
    };
    // Known before the first step.
    let early = Picky { early: 30, late: 0 };
    let mut trainer = LlamaTrainer::new(tiny(), early, in_order()).unwrap();
    let error = trainer.train(&with_a_long_one(), &mut StopAt(1)).unwrap_err();
    refused(&error, ExampleSet::Data, 13, Some(21));
    assert_eq!(trainer.progress().windows, 0);
    let mut trainer = trainer.with_validation(with_a_long_one(), 1);
    let error = trainer.train(&examples(8), &mut StopAt(1)).unwrap_err();
    refused(&error, ExampleSet::Validation, 13, Some(21));
    // Known at the second step only.
    let folder = tempfile::tempdir().unwrap();
    let mut trainer = LlamaTrainer::new(tiny(), Picky { early: 0, late: 30 }, in_order())
        .unwrap()
        .with_checkpoints(CheckpointOptions::new(folder.path()));
    let mut events = Events::default();
    let error = trainer.train(&with_a_long_one(), &mut events).unwrap_err();
    refused(&error, ExampleSet::Data, 13, Some(21));
    assert!(events.0.len() == 1 && events.0[0].ends_with("step-1"), "{:?}", events.0);
    assert!(folder.path().join("step-1/manifest.json").exists());
    // And of the validation set.
    let late = Picky { early: 0, late: 30 };
    let mut trainer = LlamaTrainer::new(tiny(), late, in_order()).unwrap();
    trainer = trainer.with_validation(with_a_long_one(), 1);
    let error = trainer.train(&examples(8), &mut StopAt(1)).unwrap_err();
    refused(&error, ExampleSet::Validation, 13, Some(21));
}

#[test]
fn fault_t44_what_was_learnt_before_a_run_diverged_is_kept() {
    let data = examples(24);
    let folder = tempfile::tempdir().unwrap();
    let checkpoints = CheckpointOptions::new(folder.path()).with_resume();
    let mut options = in_order();
    options.max_skipped = 0;
    let mut first = LlamaTrainer::new(tiny(), Infinite(2), options.clone())
        .unwrap()
        .with_checkpoints(checkpoints.clone());
    let mut events = Events::default();
    let error = first.train(&data, &mut events).unwrap_err();
    assert!(matches!(&error, TrainError::Diverged { step: 3, skipped: 1, .. }), "{error}");
    assert!(events.0.len() == 1 && events.0[0].ends_with("step-2"), "{:?}", events.0);
    // Whoever goes on and may skip more meets the same window.
    options.max_skipped = 1;
    let mut second = LlamaTrainer::new(tiny(), Infinite(0), options)
        .unwrap()
        .with_checkpoints(checkpoints.with_changes_allowed());
    let mut reports = Vec::new();
    let mut watch = |report: &StepReport| {
        reports.push(report.clone());
        ControlFlow::Break(())
    };
    let trained = second.train(&data, &mut watch).unwrap();
    assert_eq!((reports[0].step, reports[0].skipped.is_some()), (3, true));
    assert_eq!((trained.steps, trained.last_loss), (0, None));
}

/// R-SFT that is not finite after this many windows, each of which is one part.
#[derive(Debug)]
struct Infinite(usize);

static SEEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

impl Objective for Infinite {
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
        let mut part = Rsft::new().contribute(examples, log_probs, window)?;
        if SEEN.fetch_add(1, std::sync::atomic::Ordering::Relaxed) >= self.0 {
            part.loss = f64::INFINITY;
        }
        Ok(part)
    }
}

#[test]
fn weights_that_are_not_finite_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options();
    // In range, and ten times as much is what the first step is made with.
    options.learning_rate = 3e38;
    options.schedule = guard_train::Schedule::Constant;
    let checkpoints = CheckpointOptions::new(folder.path()).with_every(1);
    let mut trainer = trainer(tiny(), options).with_checkpoints(checkpoints);
    let error = trainer.train(&examples(8), &mut StopAt(0)).unwrap_err();
    assert!(matches!(&error, TrainError::NotFinite { step: 1, .. }), "{error}");
    let steps = std::fs::read_dir(folder.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("step-"));
    assert_eq!(steps.count(), 0);
}

#[test]
fn weights_must_be_32_bit_floats() {
    use guard_train::guard_core::burn::tensor::{DType, Device};
    use guard_train::guard_core::{LoadOptions, ModelFiles, WeightType};
    let files = ModelFiles::open(support::testdata("tiny")).unwrap();
    let load = LoadOptions::default().with_weight_type(WeightType::Bf16);
    let (model, _) = files.load(load, &Device::flex()).unwrap();
    let error = LlamaTrainer::new(model, Rsft::new(), options()).unwrap_err();
    assert_eq!((error.option, error.expected), ("weights", "32-bit floats"));
    assert!(error.found.contains(&format!("{:?}", DType::BF16)), "{error}");
}

#[test]
fn the_time_of_validation_is_told_apart() {
    let mut trainer = trainer(tiny(), options()).with_validation(examples(200), 2);
    let reports = run(&mut trainer, &examples(16));
    for report in &reports {
        assert_eq!(report.validation_elapsed.is_some(), report.validation_loss.is_some());
    }
    // 25 times as many examples as a step has.
    let (elapsed, validation) = (reports[1].elapsed, reports[1].validation_elapsed.unwrap());
    assert!(validation > elapsed, "{validation:?} is in {elapsed:?}");
}

/// A loss that is chosen at run time, with all that a trainer asks of it.
trait Loss: Objective<Example = TargetTokens> + std::fmt::Debug + Sync {}

impl Loss for Rsft {}

#[test]
fn a_trainer_takes_an_objective_in_a_box() {
    let boxed: Box<dyn Loss> = Box::new(Rsft::new());
    let mut trainer = LlamaTrainer::new(tiny(), boxed, options()).unwrap();
    let trained = trainer.train(&examples(8), &mut StopAt(1)).unwrap();
    assert_eq!(trained.steps, 1);
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
    let data = examples(24).into_iter().zip(100..).map(|(example, row)| example.with_row(row));
    let data: Vec<_> = data.collect();
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
        // Each example is known by the row that it came from.
        let TrainError::Diverged { examples, .. } = &error else { panic!("{error}") };
        assert!(examples.iter().all(|row| *row >= 100), "{examples:?}");
        let told = |report: &StepReport| matches!(report.skipped, Some(Skipped::NotFinite { .. }));
        assert!(reports.len() == 3 && reports.iter().all(told));
        let Some(Skipped::NotFinite { examples }) = &reports[0].skipped else { panic!() };
        assert!(examples.len() == 8 && examples.iter().all(|row| *row >= 100), "{examples:?}");
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
    assert!(matches!(alone, TrainError::Nothing { set: ExampleSet::Data, examples: 1 }), "{alone}");
}

#[test]
fn examples_that_do_not_fit_are_named() {
    let wrong =
        TrainingExample::new(vec![AnswerSequence::new(&[3], &[4, 5])], TargetTokens::new(3));
    let mut trainer = trainer(tiny(), options());
    let error = trainer.train(&[wrong], &mut StopAt(0)).unwrap_err();
    let TrainError::TargetTokens { example, expected: 3, found: 2 } = error else {
        panic!("{error}")
    };
    assert_eq!((example.set, example.index, example.row), (ExampleSet::Data, 0, None));
    // Told before the first step, whatever window they are in and whichever set.
    for (row, limit) in [(vec![3, 61], "61"), (vec![3; 70], "64")] {
        let targets = TargetTokens::new(row.len() - 1);
        let long = TrainingExample::new(vec![AnswerSequence::new(&row[..1], &row[1..])], targets);
        let mut data = examples(20);
        data.push(long.with_row(33));
        let error = trainer.train(&data, &mut StopAt(0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "example 20 of the data (row 33 of its source) cannot be read by the model"
        );
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert!(source.as_deref().is_some_and(|source| source.contains(limit)), "{source:?}");
        let mut trainer = self::trainer(tiny(), options()).with_validation(data, 1);
        let error = trainer.train(&examples(20), &mut StopAt(0)).unwrap_err();
        assert!(error.to_string().starts_with("example 20 of the validation set"), "{error}");
        assert_eq!(trainer.progress().windows, 0);
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
