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
