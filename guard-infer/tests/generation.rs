//! The engine on committed random checkpoints: batches, seeds and every way to end.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use guard_core::burn::tensor::Device;
use guard_core::{
    Finish, GenerateOptions, Limits, Llama, LlamaConfig, LoadOptions, ModelFiles, Prompt,
    RandomInit, RepetitionStop, Sampling, ScoreRequest, StopCondition, TextGenerator, Tokenizer,
};
use guard_infer::{GenerateError, LlamaGenerator};

fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guard-core/testdata").join(path)
}

fn generator() -> LlamaGenerator {
    LlamaGenerator::open(
        testdata("models/tied-gqa-llama3"),
        LoadOptions::default(),
        &Device::flex(),
    )
    .unwrap()
}

/// The same model on burn, as GPUs run it.
fn on_burn() -> LlamaGenerator {
    let files = ModelFiles::open(testdata("models/tied-gqa-llama3")).unwrap();
    let (model, _) = files.load(LoadOptions::default(), &Device::flex()).unwrap();
    LlamaGenerator::new(model, files.tokenizer().unwrap()).unwrap()
}

/// What holds of one engine holds of the other: on packed weights, which is the CPU's, and on burn.
const ENGINES: [fn() -> LlamaGenerator; 2] = [generator, on_burn];

fn options(change: impl FnOnce(&mut GenerateOptions)) -> GenerateOptions {
    let mut options = GenerateOptions::default();
    options.max_tokens = 24;
    options.repetition = None;
    change(&mut options);
    options
}

fn prompts() -> Vec<Prompt> {
    [
        "Hello",
        "The request asks how bread is baked.",
        "x",
        "fn main() {}\n\n",
        "One two three four five six seven",
    ]
    .map(Prompt::text)
    .to_vec()
}

fn texts(
    generator: &LlamaGenerator,
    prompts: &[Prompt],
    options: &GenerateOptions,
) -> Vec<Vec<String>> {
    let results = generator.generate(prompts, options);
    results
        .into_iter()
        .map(|result| result.unwrap().into_iter().map(|c| c.text).collect())
        .collect()
}

#[test]
fn a_batch_of_unequal_prompts_gives_the_texts_of_each_alone() {
    for engine in ENGINES {
        let generator = engine();
        for sampling in [Sampling::Greedy, Sampling::TopP { temperature: 0.9, top_p: 0.95 }] {
            let options = options(|o| o.sampling = sampling);
            let together = texts(&generator, &prompts(), &options);
            for (prompt, together) in prompts().iter().zip(together) {
                assert_eq!(texts(&generator, std::slice::from_ref(prompt), &options), [together]);
            }
        }
    }
}

#[test]
fn groups_of_any_size_give_the_same_texts() {
    for engine in ENGINES {
        let options = options(|o| o.samples = 2);
        let expected = texts(&engine(), &prompts(), &options);
        for rows in [1, 2, 3, 5, 64] {
            assert_eq!(texts(&engine().with_max_rows(rows), &prompts(), &options), expected);
        }
    }
}

#[test]
fn prompts_read_in_pieces_give_the_same_texts() {
    for engine in ENGINES {
        for options in [options(|_| ()), options(|o| o.samples = 3)] {
            let expected = texts(&engine(), &prompts(), &options);
            for tokens in [1, 2, 7, 16, 33] {
                let pieces = engine().with_prefill_tokens(tokens);
                assert_eq!(texts(&pieces, &prompts(), &options), expected, "{tokens}");
            }
        }
    }
}

#[test]
fn seeds_repeat_and_samples_differ() {
    for engine in ENGINES {
        let generator = engine();
        let sampled = |seed| {
            options(|o| {
                o.sampling = Sampling::TopP { temperature: 1.5, top_p: 1.0 };
                o.samples = 3;
                o.seed = seed;
            })
        };
        let first = texts(&generator, &prompts(), &sampled(1));
        assert_eq!(first, texts(&generator, &prompts(), &sampled(1)));
        assert_ne!(first, texts(&generator, &prompts(), &sampled(2)));
        assert!(first.iter().all(|samples| samples.len() == 3));
        assert!(first.iter().any(|samples| samples[0] != samples[1] && samples[1] != samples[2]));
    }
}

#[test]
fn a_second_request_does_not_see_the_first() {
    for engine in ENGINES {
        let generator = engine();
        let alone = texts(&generator, &prompts()[1..2], &options(|_| ()));
        texts(&generator, &prompts()[3..4], &options(|_| ()));
        assert_eq!(texts(&generator, &prompts()[1..2], &options(|_| ())), alone);
    }
}

fn finish(engine: fn() -> LlamaGenerator, options: &GenerateOptions) -> (Finish, usize) {
    let results = engine().generate(&prompts()[..1], options);
    let completed = &results[0].as_ref().unwrap()[0];
    (completed.finish, completed.usage.completion_tokens)
}

#[test]
fn the_token_budget_ends_a_text() {
    for engine in ENGINES {
        assert_eq!(finish(engine, &options(|o| o.max_tokens = 3)), (Finish::TokenBudget, 3));
        assert_eq!(finish(engine, &options(|o| o.max_tokens = 1)), (Finish::TokenBudget, 1));
    }
}

#[test]
fn the_context_ends_a_text() {
    for engine in ENGINES {
        let (finish, tokens) = finish(engine, &options(|o| o.max_tokens = 10_000));
        assert!(matches!(finish, Finish::ContextFull | Finish::EndOfText), "{finish}");
        if finish == Finish::ContextFull {
            let prompt = engine().tokenizer().encode(&prompts()[0]).unwrap().len();
            assert_eq!(prompt + tokens, 512);
        }
    }
}

#[test]
fn a_deadline_ends_what_goes_on_and_what_has_not_begun() {
    for engine in ENGINES {
        assert_eq!(
            finish(engine, &options(|o| o.limits.deadline = Some(Duration::ZERO))),
            (Finish::Deadline, 0)
        );
        /// Takes longer over the first piece of text than the deadline allows.
        struct Slow;
        impl StopCondition for Slow {
            fn is_complete(&self, _: usize, _: &str) -> bool {
                std::thread::sleep(Duration::from_millis(300));
                false
            }
        }
        let (finish, tokens) = finish(
            engine,
            &options(|o| {
                o.limits.deadline = Some(Duration::from_millis(250));
                o.stop = Some(Arc::new(Slow));
            }),
        );
        assert_eq!(finish, Finish::Deadline);
        assert!(tokens < 9, "{tokens}");
    }
}

#[test]
fn a_repeating_text_is_given_up() {
    for engine in ENGINES {
        let rule = RepetitionStop { window: 4, ngram: 1, ratio: 0.5 };
        let repetitive = options(|o| {
            o.max_tokens = 400;
            o.repetition = Some(rule);
        });
        let completed =
            engine().generate(&prompts(), &repetitive).into_iter().flat_map(Result::unwrap);
        let given_up: Vec<_> = completed.filter(|c| c.finish == Finish::Repetition).collect();
        assert!(!given_up.is_empty());
        assert!(given_up.iter().all(|c| (4..400).contains(&c.usage.completion_tokens)));
    }
}

#[test]
fn the_stop_condition_ends_a_text() {
    for engine in ENGINES {
        struct LongerThan(usize);
        impl StopCondition for LongerThan {
            fn is_complete(&self, _: usize, text: &str) -> bool {
                text.len() > self.0
            }
        }
        let stopped = options(|o| o.stop = Some(Arc::new(LongerThan(10))));
        let results = engine().generate(&prompts()[..1], &stopped);
        let completed = &results[0].as_ref().unwrap()[0];
        assert_eq!(completed.finish, Finish::Stopped);
        let free = texts(&engine(), &prompts()[..1], &options(|_| ()));
        assert!(free[0][0].starts_with(&completed.text) && completed.text.len() > 10);
    }
}

#[test]
fn every_end_token_ends_a_text_and_is_not_part_of_it() {
    for engine in ENGINES {
        let generator = engine();
        let named: Vec<u32> = ["<|end_of_text|>", "<|eot_id|>"]
            .map(|token| generator.tokenizer().control_id(token).unwrap())
            .to_vec();
        assert!(named.iter().all(|id| generator.end_tokens().contains(id)));
        let sampled = options(|o| {
            o.sampling = Sampling::TopP { temperature: 3.0, top_p: 1.0 };
            o.samples = 64;
            o.max_tokens = 200;
        });
        let results = generator.generate(&prompts()[..2], &sampled);
        let completed: Vec<_> = results.into_iter().flat_map(Result::unwrap).collect();
        let ended: Vec<_> = completed.iter().filter(|c| c.finish == Finish::EndOfText).collect();
        assert!(!ended.is_empty());
        assert!(ended.iter().all(|c| !c.text.contains("<|") && c.usage.completion_tokens <= 200));
    }
}

#[test]
fn without_end_tokens_a_text_goes_on() {
    for engine in ENGINES {
        let sampled = options(|o| {
            o.sampling = Sampling::TopP { temperature: 3.0, top_p: 1.0 };
            (o.samples, o.max_tokens) = (16, 200);
        });
        let results = engine().with_end_tokens([]).generate(&prompts()[..2], &sampled);
        let completed = results.into_iter().flat_map(Result::unwrap);
        assert!(completed.map(|c| c.finish).all(|finish| finish == Finish::TokenBudget));
    }
}

#[test]
fn t24_a_prompt_beyond_the_context_is_refused_with_its_counts_alone() {
    for engine in ENGINES {
        let long = Prompt::text("word ".repeat(600));
        let results = engine()
            .generate(&[prompts()[0].clone(), long, prompts()[1].clone()], &options(|_| ()));
        assert!(results[0].is_ok() && results[2].is_ok());
        let Err(GenerateError::TooLong { tokens, limit }) = results[1] else {
            panic!("{:?}", results[1])
        };
        assert!(tokens > limit && limit == 511);
    }
}

#[test]
fn options_out_of_range_are_refused_for_every_prompt() {
    for engine in ENGINES {
        let results = engine().generate(&prompts(), &options(|o| o.samples = 0));
        assert_eq!(results.len(), 5);
        assert!(results.iter().all(|result| matches!(result, Err(GenerateError::Options(_)))));
        assert!(engine().generate(&[], &options(|_| ())).is_empty());
    }
}

#[test]
fn t07_a_model_without_numbers_ends_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = Tokenizer::from_file(testdata("tokenizer/tokenizer.json")).unwrap();
    let model =
        Llama::random(&LlamaConfig::tiny(384), RandomInit::default(), &Device::flex()).unwrap();
    model.save_folder(folder.path(), Some(&tokenizer), Default::default()).unwrap();
    let path = folder.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 40..].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    let broken =
        LlamaGenerator::open(folder.path(), LoadOptions::default(), &Device::flex()).unwrap();
    let results = broken.generate(&prompts()[..1], &options(|_| ()));
    assert_eq!(results[0].as_ref().unwrap()[0].finish, Finish::NonFinite);
}

#[test]
fn t02_a_tokenizer_larger_than_the_model_is_refused() {
    let tokenizer = Tokenizer::from_file(testdata("tokenizer/tokenizer.json")).unwrap();
    let model =
        Llama::random(&LlamaConfig::tiny(100), RandomInit::default(), &Device::flex()).unwrap();
    let error = LlamaGenerator::new(model, tokenizer).unwrap_err();
    assert_eq!(error.to_string(), "the tokenizer has 384 tokens, the model only 100");
}

#[test]
fn a_lone_gguf_file_is_enough_and_gives_the_same_text() {
    let path = testdata("gguf/tied-gqa-llama3.f32.gguf");
    let lone = LlamaGenerator::open(path, LoadOptions::default(), &Device::flex()).unwrap();
    let options = options(|o| o.max_tokens = 64);
    assert_eq!(texts(&lone, &prompts(), &options), texts(&generator(), &prompts(), &options));
    assert_eq!(lone.end_tokens(), generator().end_tokens());
    let files = ModelFiles::open(testdata("models/tied-gqa-llama3")).unwrap();
    assert_eq!(files.config().eos, [380, 383]);
}

/// What prompts begin with is read once; what they come to is the same as ever.
#[test]
fn an_instruction_that_was_read_before_changes_nothing() {
    for engine in ENGINES {
        let instruction = "Judge the text that follows, and say in one word what it is.\n\n";
        let texts = ["Hello", "bread", "One two three four five six seven", "\n\nx"];
        let parted = texts.map(|text| Prompt::new().trusted(instruction).untrusted(text));
        let whole = texts.map(|text| Prompt::text(format!("{instruction}{text}")));
        let options = options(|o| o.samples = 2);
        let expected = self::texts(&engine(), &whole, &options);
        let generator = engine();
        // Cold, warm, and with an instruction that ends in the middle of another one.
        for _ in 0..2 {
            assert_eq!(self::texts(&generator, &parted, &options), expected);
            let shorter = texts.map(|text| {
                let (front, back) = instruction.split_at(30);
                Prompt::new().trusted(front.to_owned()).untrusted(format!("{back}{text}"))
            });
            assert_eq!(self::texts(&generator, &shorter, &options), expected);
        }
        // Scores, too.
        let score = |generator: &LlamaGenerator, prompts: &[Prompt]| -> Vec<Vec<f64>> {
            let answers = || vec!["yes".to_owned(), "no, it is not".to_owned()];
            let requests: Vec<_> =
                prompts.iter().map(|prompt| ScoreRequest::new(prompt.clone(), answers())).collect();
            let scored = generator.score(&requests, &Limits::default()).unwrap().into_iter();
            scored.map(|scored| scored.unwrap().log_probabilities).collect()
        };
        assert_eq!(score(&generator, &parted), score(&engine(), &whole));
    }
}

/// Texts of unequal length and more of them than rows: rows are filled again as they come free.
#[test]
fn rows_that_come_free_are_filled_again() {
    for engine in ENGINES {
        let prompts: Vec<Prompt> = (0..23)
            .map(|n| Prompt::text(format!("text number {n} {}", "word ".repeat(n % 7))))
            .collect();
        let options = options(|o| o.samples = 3);
        let expected = texts(&engine().with_max_rows(1), &prompts, &options);
        for (rows, tokens) in [(2, 5), (7, 64), (64, 3)] {
            let generator = engine().with_max_rows(rows).with_prefill_tokens(tokens);
            assert_eq!(texts(&generator, &prompts, &options), expected, "{rows} rows");
        }
    }
}
