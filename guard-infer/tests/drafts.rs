//! Guesses at what a text goes on with: the text is the same with and without them.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use guard_core::burn::tensor::Device;
use guard_core::{
    Completed, Finish, GenerateOptions, Llama, LlamaConfig, PackedType, Prompt, RandomInit,
    RepetitionStop, Sampling, StopCondition, TextGenerator, Tokenizer,
};
use guard_infer::LlamaGenerator;
use proptest::prelude::*;

fn random(seed: u64, packed: PackedType) -> LlamaGenerator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../guard-core/testdata/tokenizer/tokenizer.json");
    let tokenizer = Tokenizer::from_file(path).unwrap();
    let init = RandomInit { seed, ..RandomInit::default() };
    let model = Llama::random(&LlamaConfig::tiny(384), init, &Device::flex()).unwrap();
    LlamaGenerator::from_packed(model.packed(packed).unwrap(), tokenizer).unwrap()
}

/// Counts how often it is asked what is likely, which is once a step.
#[derive(Default)]
struct Steps {
    likely: &'static str,
    count: AtomicUsize,
}

impl StopCondition for Steps {
    fn is_complete(&self, _: usize, text: &str) -> bool {
        text.len() > 150
    }

    fn likely<'a>(&'a self, _: usize, _: &'a str) -> &'a str {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.likely
    }
}

fn completed(
    generator: &LlamaGenerator,
    prompts: &[Prompt],
    options: &GenerateOptions,
) -> Vec<(String, Finish, usize)> {
    let results = generator.generate(prompts, options).into_iter().flat_map(Result::unwrap);
    let parts = |c: Completed| (c.text, c.finish, c.usage.completion_tokens);
    results.map(parts).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn texts_are_those_without_guesses(
        seed: u64,
        words in prop::collection::vec("[a-e ]{1,6}", 1..4),
        samples in 1..3_usize,
        tokens in 1..90_usize,
        rule in prop::option::of(1..3_usize),
        temperature in prop::option::of(0.2..2.0_f32),
        eight in any::<bool>(),
        likely in prop::sample::select(vec!["", "a", "Request:", " the same the same"]),
    ) {
        let packed = if eight { PackedType::Q8_0 } else { PackedType::Float };
        let prompts: Vec<Prompt> = words.iter().map(|word| Prompt::text(word.repeat(9))).collect();
        let options = || {
            let mut options = GenerateOptions::default()
                .with_max_tokens(tokens)
                .with_samples(samples)
                .with_seed(seed)
                .with_stop(Arc::new(Steps { likely, ..Steps::default() }));
            options.repetition =
                rule.map(|ngram| RepetitionStop { window: 24, ngram, ratio: 0.8 });
            if let Some(temperature) = temperature {
                options.sampling = Sampling::TopP { temperature, top_p: 0.9 };
            }
            options
        };
        let plain = completed(&random(seed, packed).without_drafts(), &prompts, &options());
        let guessing = random(seed, packed);
        prop_assert_eq!(&completed(&guessing, &prompts, &options()), &plain);
        // Phrases that are right, and phrases that are wrong.
        let own: Vec<String> = plain.iter().map(|(text, ..)| text.repeat(2)).collect();
        for phrases in [own, vec!["a b a b a b a c a c a c".to_owned(); 3]] {
            let guessing = random(seed, packed).with_phrases(phrases);
            prop_assert_eq!(&completed(&guessing, &prompts, &options()), &plain);
        }
    }
}

/// To the last place of the context, with and without guesses.
#[test]
fn guesses_end_with_the_context() {
    let prompts = [Prompt::text("and so on ".repeat(30)), Prompt::text("x")];
    let options = GenerateOptions::default().with_max_tokens(10_000).with_repetition(None);
    for seed in 0..4 {
        let plain = random(seed, PackedType::Float).with_end_tokens([]).without_drafts();
        let guessing = random(seed, PackedType::Float).with_end_tokens([]);
        let expected = completed(&plain, &prompts, &options);
        assert!(expected.iter().all(|text| text.1 == Finish::ContextFull));
        assert_eq!(completed(&guessing, &prompts, &options), expected);
    }
}

/// What a text repeats is written in fewer steps than it has tokens.
#[test]
fn guesses_that_come_true_save_steps() {
    let prompts = [Prompt::text("over and over and over")];
    let steps = |generator: &LlamaGenerator| {
        let condition = Arc::new(Steps::default());
        let options = GenerateOptions::default()
            .with_max_tokens(100)
            .with_repetition(None)
            .with_stop(condition.clone());
        let written = completed(generator, &prompts, &options);
        (written[0].clone(), condition.count.load(Ordering::Relaxed))
    };
    // Of a few random models some soon go round in circles.
    let saved = (0..8).map(|seed| {
        let (plain, none) = steps(&random(seed, PackedType::Float).without_drafts());
        let (guessed, asked) = steps(&random(seed, PackedType::Float));
        assert_eq!((&guessed, none), (&plain, 0));
        plain.2.saturating_sub(asked)
    });
    assert!(saved.max().unwrap() > 40);
    // Phrases save steps also where nothing was said before.
    let (plain, asked) = steps(&random(1, PackedType::Float));
    let texts = [plain.0.clone(), plain.0.clone()];
    let (same, fewer) = steps(&random(1, PackedType::Float).with_phrases(texts));
    assert_eq!(same, plain);
    assert!(fewer <= asked, "{fewer} {asked}");
}
