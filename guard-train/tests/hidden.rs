//! Distillation of hidden states: texts that two tokenizers write otherwise, and what is learnt.
#![allow(clippy::unwrap_used)]

mod support;

use std::ops::ControlFlow;
use std::path::Path;

use guard_train::guard_core::burn::tensor::Device;
use guard_train::guard_core::{Llama, LlamaConfig, RandomInit, Tokenizer};
use guard_train::{AlignedText, HiddenError, HiddenTrainer, StepReport, Trainer};
use support::{options, weights};

const TEXTS: [&str; 4] = [
    "The request asks for a harmful thing.",
    "Answers:\n\nRequest: unharmful  and a\tresponse",
    "Völlig anders: 🥐 <|eot_id|>",
    "  compliance, refusal, compliance",
];

/// A model with the tokenizer of the tiny LLaMA 3 of guard-core's tests.
fn teacher() -> (Llama, Tokenizer) {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guard-core/testdata/models");
    let tokenizer = Tokenizer::from_file(models.join("tied-gqa-llama3/tokenizer.json")).unwrap();
    let mut config = LlamaConfig::tiny(tokenizer.vocab_size());
    (config.layers, config.bos, config.eos) = (3, None, Vec::new());
    let init = RandomInit { seed: 5, standard_deviation: 0.2 };
    (Llama::random(&config, init, &Device::flex()).unwrap(), tokenizer)
}

#[test]
fn both_sides_have_come_to_the_end_of_a_word() {
    let (_, whole) = teacher();
    let small = whole.trimmed(300, ["request"]).unwrap().tokenizer;
    for text in TEXTS {
        let count = |tokenizer: &Tokenizer, text: &str| {
            let ids = tokenizer.encode(&guard_train::guard_core::Prompt::text(text)).unwrap();
            ids.len() - tokenizer.prefix().len()
        };
        let aligned = AlignedText::new(text, &small, &whole, 1000).unwrap();
        let words = text.split_whitespace().count();
        assert_eq!(aligned.words(), words, "{text}");
        // Words are encoded one by one, as this tokenizer does in any case.
        assert_eq!(aligned.tokens() - small.prefix().len(), count(&small, text), "{text}");
        let first = AlignedText::new(text, &small, &whole, aligned.tokens() - 1).unwrap();
        assert_eq!(first.words(), aligned.words() - 1);
    }
    assert_eq!(AlignedText::new("", &small, &whole, 9).unwrap().words(), 0);
}

#[test]
fn a_student_comes_near_and_the_rest_of_it_stays() {
    let (teacher, whole) = teacher();
    let small = whole.trimmed(300, ["request harmful"]).unwrap();
    let student = teacher.pruned(&[0, 2], &small.kept).unwrap();
    let text = |text: &&str| AlignedText::new(text, &small.tokenizer, &whole, 60).unwrap();
    let mut texts: Vec<AlignedText> = TEXTS.iter().map(text).collect();
    texts.push(AlignedText::default());
    let mut options = options();
    (options.examples_per_step, options.epochs) = (4, 60);
    let mut losses = Vec::new();
    let mut observer = |report: &StepReport| {
        losses.push(report.loss);
        ControlFlow::Continue(())
    };
    let before = weights(&student);
    let mut trainer = HiddenTrainer::new((student, 1), (teacher, 2), options).unwrap();
    let trained = trainer.train(&texts, &mut observer).unwrap();
    assert_eq!(trained.steps, 60);
    assert!(losses[59] < 0.3 * losses[0], "{} {}", losses[0], losses[59]);
    let after = weights(&trainer.into_model().unwrap());
    for ((name, old), (_, new)) in before.iter().zip(&after) {
        let learnt = name.contains("embed_tokens") || name.contains("layers.0.");
        assert_eq!(old != new, learnt, "{name}");
    }
}

#[test]
fn a_narrow_student_learns_through_a_map() {
    let (teacher, whole) = teacher();
    let mut narrow = teacher.config().clone();
    (narrow.hidden_size, narrow.layers) = (narrow.hidden_size / 2, 1);
    let student = teacher.narrowed(&narrow, RandomInit::default()).unwrap();
    let text = |text: &&str| AlignedText::new(text, &whole, &whole, 60).unwrap();
    let texts: Vec<AlignedText> = TEXTS.iter().map(text).collect();
    let mut options = options();
    (options.examples_per_step, options.epochs) = (4, 150);
    let mut losses = Vec::new();
    let mut observer = |report: &StepReport| {
        losses.push(report.loss);
        ControlFlow::Continue(())
    };
    let mut trainer = HiddenTrainer::new((student, 1), (teacher, 2), options).unwrap();
    trainer.train(&texts, &mut observer).unwrap();
    // Without a map that knows anything, nothing of the variance is explained.
    assert!((losses[0] - 1.0).abs() < 0.05, "{}", losses[0]);
    assert!(losses[149] < 0.3, "{}", losses[149]);
    assert_eq!(trainer.into_model().unwrap().config(), &narrow);
}

#[test]
fn what_is_frozen_does_not_learn() {
    let (teacher, whole) = teacher();
    let texts = TEXTS.map(|text| AlignedText::new(text, &whole, &whole, 60).unwrap());
    let mut options = options();
    options.frozen_blocks = 1;
    let before = weights(&teacher);
    let student = teacher.clone();
    let mut trainer = HiddenTrainer::new((student, 2), (teacher, 3), options).unwrap();
    trainer.train(&texts, &mut |_: &StepReport| ControlFlow::Continue(())).unwrap();
    for ((name, old), (_, new)) in before.iter().zip(&weights(&trainer.into_model().unwrap())) {
        assert_eq!(old != new, name.contains("layers.1."), "{name}");
    }
}

#[test]
fn texts_without_a_word_are_nothing_to_learn() {
    let (teacher, _) = teacher();
    let mut trainer = HiddenTrainer::new((teacher.clone(), 1), (teacher, 1), options()).unwrap();
    let quiet = &mut |_: &StepReport| ControlFlow::Continue(());
    let error =
        trainer.train(&[AlignedText::default(), AlignedText::default()], quiet).unwrap_err();
    assert!(matches!(error, HiddenError::Nothing { texts: 2 }), "{error}");
}

#[test]
fn blocks_that_are_not_there_are_refused() {
    let (teacher, _) = teacher();
    let refused = |student: (Llama, usize), blocks| {
        HiddenTrainer::new(student, (teacher.clone(), blocks), options()).unwrap_err().option
    };
    assert_eq!(refused((teacher.clone(), 0), 1), "blocks");
    assert_eq!(refused((teacher.clone(), 1), 4), "teacher_blocks");
}
