//! Calls of many threads on one generator.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use guard_core::burn::tensor::Device;
use guard_core::{
    Cancel, Finish, GenerateOptions, Limits, LoadOptions, Prompt, Sampling, ScoreRequest,
    StopCondition, TextGenerator,
};
use guard_infer::{GenerateError, LlamaGenerator};

fn generator() -> LlamaGenerator {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../guard-core/testdata/models/tied-gqa-llama3");
    LlamaGenerator::open(path, LoadOptions::default(), &Device::flex()).unwrap()
}

fn options() -> GenerateOptions {
    GenerateOptions::default().with_max_tokens(24).with_repetition(None)
}

fn prompts(caller: usize) -> Vec<Prompt> {
    let text = |n: usize| format!("caller {caller} {}", "word ".repeat((caller * 3 + n * 5) % 11));
    (0..1 + caller % 4).map(|n| Prompt::text(text(n))).collect()
}

/// All callers' texts are those of each alone, whatever is under way beside them.
#[test]
fn callers_do_not_see_each_other() {
    let of_caller = |caller: usize| {
        let options = options().with_samples(1 + caller % 2).with_seed(caller as u64);
        match caller % 3 {
            0 => options,
            _ => options.with_sampling(Sampling::TopP { temperature: 1.2, top_p: 0.95 }),
        }
    };
    let texts = |generator: &LlamaGenerator, caller: usize| -> Vec<Vec<String>> {
        let results = generator.generate(&prompts(caller), &of_caller(caller)).into_iter();
        results.map(|r| r.unwrap().into_iter().map(|c| c.text).collect()).collect()
    };
    let expected: Vec<_> = (0..12).map(|caller| texts(&generator(), caller)).collect();
    for rows in [1, 3, 16] {
        let generator = generator().with_max_rows(rows).with_prefill_tokens(32);
        std::thread::scope(|scope| {
            for (caller, expected) in expected.iter().enumerate() {
                let generator = &generator;
                scope.spawn(move || {
                    for _ in 0..3 {
                        assert_eq!(&texts(generator, caller), expected, "caller {caller}");
                    }
                });
            }
        });
    }
}

/// Says that a text has begun, and waits with it until it is told to go on.
struct Gate {
    begun: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
    is_open: AtomicBool,
}

impl Gate {
    fn new() -> (Arc<Self>, Receiver<()>, Sender<()>) {
        let ((begun, has_begun), (open, go_on)) = (channel(), channel());
        let (begun, go_on) = (Mutex::new(begun), Mutex::new(go_on));
        (Arc::new(Self { begun, go_on, is_open: AtomicBool::new(false) }), has_begun, open)
    }
}

impl StopCondition for Gate {
    fn is_complete(&self, _: usize, _: &str) -> bool {
        if !self.is_open.swap(true, Ordering::Relaxed) {
            self.begun.lock().unwrap().send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
        }
        false
    }
}

fn finishes(results: Vec<Result<Vec<guard_core::Completed>, GenerateError>>) -> Vec<Finish> {
    results.into_iter().flat_map(Result::unwrap).map(|completed| completed.finish).collect()
}

#[test]
fn a_full_queue_refuses_and_goes_on() {
    let generator = generator().with_max_rows(1).with_max_waiting(2);
    let (gate, has_begun, open) = Gate::new();
    std::thread::scope(|scope| {
        // Of three prompts one begins, and two wait.
        let first =
            scope.spawn(|| finishes(generator.generate(&prompts(2), &options().with_stop(gate))));
        has_begun.recv().unwrap();
        let refused = generator.generate(&prompts(0), &options()).remove(0).unwrap_err();
        assert!(matches!(refused, GenerateError::Busy { waiting: 2, limit: 2 }), "{refused:?}");
        open.send(()).unwrap();
        assert_eq!(first.join().unwrap().len(), 3);
    });
    assert!(generator.generate(&prompts(0), &options())[0].is_ok());
}

#[test]
fn whoever_cancels_ends_what_goes_on_and_what_waits() {
    let generator = generator().with_max_rows(1);
    let (gate, has_begun, open) = Gate::new();
    let cancel = Cancel::default();
    let cancelled = options().with_max_tokens(400).with_stop(gate).with_cancel(cancel.clone());
    std::thread::scope(|scope| {
        let ended = scope.spawn(|| finishes(generator.generate(&prompts(3), &cancelled)));
        has_begun.recv().unwrap();
        // Another caller waits for the only row, and is not touched.
        let other = scope.spawn(|| finishes(generator.generate(&prompts(1), &options())));
        cancel.cancel();
        open.send(()).unwrap();
        assert_eq!(ended.join().unwrap(), [Finish::Cancelled; 4]);
        let other = other.join().unwrap();
        assert!(!other.contains(&Finish::Cancelled) && !other.contains(&Finish::NotRun));
    });
    let before = options().with_cancel(cancel);
    assert_eq!(finishes(generator.generate(&prompts(1), &before)), [Finish::Cancelled; 2]);
}

#[test]
fn a_deadline_ends_a_call_that_waits_for_others() {
    let generator = generator().with_max_rows(1);
    let (gate, has_begun, open) = Gate::new();
    let late = options().with_deadline(Duration::ZERO);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| generator.generate(&prompts(0), &options().with_stop(gate)));
        has_begun.recv().unwrap();
        let waits = scope.spawn(|| finishes(generator.generate(&prompts(3), &late)));
        open.send(()).unwrap();
        assert!(first.join().unwrap()[0].is_ok());
        assert_eq!(waits.join().unwrap(), [Finish::Deadline; 4]);
    });
}

struct Panics;

impl StopCondition for Panics {
    fn is_complete(&self, _: usize, _: &str) -> bool {
        panic!("on purpose");
    }
}

/// A condition that panics fails the texts of its call, on whoever's thread, and no other.
#[test]
fn a_panic_fails_the_texts_of_its_call() {
    let generator = generator().with_max_rows(4);
    let expected = finishes(generator.generate(&prompts(1), &options()));
    std::thread::scope(|scope| {
        for caller in 0..6 {
            let (generator, expected) = (&generator, &expected);
            scope.spawn(move || {
                if caller == 3 {
                    let bad = options().with_stop(Arc::new(Panics));
                    for result in generator.generate(&prompts(1), &bad) {
                        assert!(matches!(result, Err(GenerateError::StopCondition)), "{result:?}");
                    }
                } else {
                    assert_eq!(&finishes(generator.generate(&prompts(1), &options())), expected);
                }
            });
        }
    });
}

/// Calls in which nothing is to be done do not wait, and do not keep others waiting.
#[test]
fn empty_calls_are_done_at_once() {
    let generator = generator().with_max_rows(2);
    let long = [Prompt::text("word ".repeat(600))];
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let (generator, long) = (&generator, &long);
            scope.spawn(move || {
                for _ in 0..40 {
                    match caller % 2 {
                        0 => assert!(generator.generate(&[], &options()).is_empty()),
                        _ => assert!(generator.generate(&prompts(caller), &options())[0].is_ok()),
                    }
                    assert!(generator.generate(long, &options())[0].is_err());
                }
            });
        }
    });
}

/// Scores beside texts: the same numbers, and ends where a call is over while it waits.
#[test]
fn scores_and_texts_take_turns() {
    let generator = generator().with_max_rows(4);
    let request = |n: usize| {
        let texts = ["yes".to_owned(), "no, it is not".to_owned(), "no".to_owned()];
        ScoreRequest::new(prompts(n).remove(0), texts[..2 + n % 2].to_vec())
    };
    let score = |n: usize, limits: &Limits| {
        generator.score(&[request(n)], limits).unwrap().remove(0).unwrap()
    };
    let expected: Vec<_> = (0..6).map(|n| score(n, &Limits::default()).log_probabilities).collect();
    let texts = finishes(generator.generate(&prompts(3), &options()));
    std::thread::scope(|scope| {
        for n in 0..6 {
            let (score, expected, texts, generator) = (&score, &expected, &texts, &generator);
            scope.spawn(move || {
                for _ in 0..10 {
                    assert_eq!(score(n, &Limits::default()).log_probabilities, expected[n]);
                    assert_eq!(&finishes(generator.generate(&prompts(3), &options())), texts);
                }
            });
        }
    });
    let (gate, has_begun, open) = Gate::new();
    let cancel = Cancel::default();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| generator.generate(&prompts(0), &options().with_stop(gate)));
        has_begun.recv().unwrap();
        let late = Limits::new(Some(Duration::from_millis(20)), None);
        assert_eq!(score(1, &late).finish, Finish::Deadline);
        cancel.cancel();
        assert_eq!(score(1, &Limits::new(None, Some(cancel.clone()))).finish, Finish::Cancelled);
        open.send(()).unwrap();
        assert!(first.join().unwrap()[0].is_ok());
    });
}
