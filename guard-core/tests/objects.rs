//! Compile-only: the traits that are used behind `dyn` stay object-safe, and what is shared
//! between threads can be.

use std::sync::Arc;

use guard_core::{
    Guard, GuardFormat, KvCache, Llama, ModelFiles, Policy, StopCondition, TextGenerator,
    Tokenizer, Verdict,
};

#[test]
fn traits_are_object_safe() {
    let _: Option<Box<dyn Guard>> = None;
    let _: Option<Arc<dyn GuardFormat>> = None;
    let _: Option<Arc<dyn StopCondition>> = None;
    let _: Option<Box<dyn TextGenerator<Error = std::io::Error>>> = None;
}

#[test]
fn models_and_tokenizers_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Llama>();
    shared::<KvCache>();
    shared::<ModelFiles>();
    shared::<Tokenizer>();
    shared::<Policy>();
    shared::<Verdict>();
}

/// Many callers at once: none begins on another's stack, and each gets its own result.
#[test]
fn many_threads_share_a_model() {
    use guard_core::{Llama, LlamaConfig, RandomInit, TokenBatch, burn::tensor::Device};

    let model =
        Llama::random(&LlamaConfig::tiny(64), RandomInit::default(), &Device::flex()).unwrap();
    let last = |token: u32| {
        let mut cache = model.cache(1, 32);
        let mut hidden = None;
        for step in 0..16 {
            let tokens = TokenBatch::new(&[[(token + step) % 64]]).unwrap();
            hidden = Some(model.forward(&tokens, Some(&mut cache)).unwrap());
        }
        model.logits(hidden.unwrap()).try_into_vec_as::<f32>().unwrap()
    };
    let expected: Vec<Vec<f32>> = (0..64).map(last).collect();
    std::thread::scope(|scope| {
        let spawn = |token| {
            let small = std::thread::Builder::new().stack_size(256 << 10);
            small.spawn_scoped(scope, move || last(token)).unwrap()
        };
        let threads: Vec<_> = (0..64).map(spawn).collect();
        for (thread, expected) in threads.into_iter().zip(&expected) {
            assert_eq!(&thread.join().unwrap(), expected);
        }
    });
}
