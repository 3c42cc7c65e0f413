//! The small guard of the crate: building it, and judging a request of 200 tokens at once and with
//! reasoning, on the CPU.
//!
//! cargo bench -p guard-infer --bench small_guard
#![allow(clippy::unwrap_used, missing_docs)]

use criterion::{Criterion, criterion_group, criterion_main};
use guard_infer::{
    DeviceName, Exchange, Guard, GuardBuilder, JudgeMode, JudgeOptions, LlamaGuard, Prompt,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Everyday words, none of which is harmful.
const WORDS: &str = "Please read the following letter to my landlord and tell me whether it is polite and \
    clear enough. I have lived in the flat on the second floor since March, and the heating has not worked \
    for two weeks. The radiator in the kitchen stays cold, and the one in the bedroom makes a loud noise at \
    night. I have called the office four times, and each time I was told that somebody would come. Nobody \
    came. My daughter goes to school with a cold, and I work from home, so that we both sit in our coats. I \
    would be glad if you sent a plumber before Friday, and told me on which day he will come, so that I can \
    let him in. If that cannot be done, I would like to know what I may pay for a heater and how I get the \
    money back. I thank you for your help, and I hope that we can solve this soon.";

fn guard() -> LlamaGuard {
    GuardBuilder::embedded().device(DeviceName::Cpu).build().unwrap()
}

/// A request of so many tokens.
fn request(guard: &LlamaGuard, tokens: usize) -> Exchange {
    let count =
        |text: &str| guard.generator().tokenizer().encode(&Prompt::text(text)).unwrap().len();
    let ends = WORDS.match_indices(' ').map(|(at, _)| at);
    let end = ends.take_while(|&end| count(&WORDS[..end]) <= tokens).last().unwrap();
    Exchange::prompt(&WORDS[..end])
}

fn small_guard(criterion: &mut Criterion) {
    let guard = guard();
    let exchange = [request(&guard, 200)];
    let mut group = criterion.benchmark_group("small_guard");
    group.sample_size(20);
    group.bench_function("build", |bencher| bencher.iter(self::guard));
    for mode in [JudgeMode::Verdict, JudgeMode::Reason] {
        let options = JudgeOptions::default().with_mode(mode).with_max_tokens(256);
        let usage = guard.judge(&exchange, &options).remove(0).unwrap().usage;
        let name = format!("{mode}, {} tokens written", usage.completion_tokens);
        group.bench_function(name, |bencher| {
            bencher.iter(|| guard.judge(&exchange, &options));
        });
    }
    group.finish();
}

criterion_group!(benches, small_guard);
criterion_main!(benches);
