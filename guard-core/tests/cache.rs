//! The forward path agrees with itself: cached and not, in a batch and alone, forked, resumed.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

mod support;

use guard_core::burn::tensor::Device;
use guard_core::{KvCache, Llama, LlamaConfig, ModelError, RandomInit, TokenBatch};
use proptest::prelude::*;
use support::{all_logits, difference, last_logits};

const VOCABULARY: usize = 48;
const TOLERANCE: f32 = 1e-4;

/// Random small shapes: with and without grouped queries, tied or not.
fn shapes() -> impl Strategy<Value = LlamaConfig> {
    (1..=3_usize, 0..=2_u32, 0..=2_u32, 1..=6_usize, any::<bool>(), 1..=40_usize).prop_map(
        |(layers, kv_power, group_power, half_head, tied_head, hidden)| {
            let mut config = LlamaConfig::tiny(VOCABULARY);
            config.layers = layers;
            config.kv_heads = 1 << kv_power;
            config.heads = config.kv_heads << group_power;
            config.head_dim = 2 * half_head;
            config.hidden_size = hidden;
            config.tied_head = tied_head;
            config
        },
    )
}

fn row() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(0..VOCABULARY as u32, 1..24)
}

fn model(config: &LlamaConfig) -> Llama {
    let init = RandomInit { seed: 7, standard_deviation: 0.3 };
    Llama::random(config, init, &Device::flex()).unwrap()
}

fn last(all: &[f32]) -> &[f32] {
    &all[all.len() - VOCABULARY..]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn cached_is_uncached(config in shapes(), row in row(), cuts in proptest::collection::vec(1..5_usize, 0..8)) {
        let model = model(&config);
        let expected = all_logits(&model, &row);
        let mut cache = model.cache(1, 1);
        let mut found = Vec::new();
        let mut rest = row.as_slice();
        for cut in cuts.into_iter().chain([row.len()]) {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            rest = later;
            if !now.is_empty() {
                let tokens = TokenBatch::new(&[now]).unwrap();
                let hidden = model.forward(&tokens, Some(&mut cache)).unwrap();
                found.extend(support::values(model.logits(hidden)));
            }
        }
        prop_assert!(difference(&expected, &found) <= TOLERANCE);
        prop_assert_eq!(cache.lengths(), &[row.len()][..]);
    }

    #[test]
    fn batch_is_alone(config in shapes(), rows in proptest::collection::vec(row(), 1..5), next in row()) {
        let model = model(&config);
        let mut cache = model.cache(rows.len(), 8);
        let together = last_logits(&model, &rows, Some(&mut cache));
        let step: Vec<Vec<u32>> = rows.iter().enumerate().map(|(i, _)| next[..1 + i % next.len()].to_vec()).collect();
        let further = last_logits(&model, &step, Some(&mut cache));
        for (index, row) in rows.iter().enumerate() {
            prop_assert!(difference(last(&all_logits(&model, row)), &together[index]) <= TOLERANCE);
            let whole = [row.as_slice(), &step[index]].concat();
            prop_assert!(difference(last(&all_logits(&model, &whole)), &further[index]) <= TOLERANCE);
        }
    }

    #[test]
    fn a_fork_is_a_separate_row(config in shapes(), rows in proptest::collection::vec(row(), 1..4), next in row()) {
        let model = model(&config);
        let mut cache = model.cache(rows.len(), 8);
        last_logits(&model, &rows, Some(&mut cache));
        let forks: Vec<usize> = (0..rows.len()).flat_map(|row| [row, row]).rev().collect();
        let mut forked = cache.select(&forks);
        let step: Vec<Vec<u32>> = forks.iter().enumerate().map(|(i, _)| vec![next[i % next.len()]]).collect();
        let found = last_logits(&model, &step, Some(&mut forked));
        for (index, &source) in forks.iter().enumerate() {
            let whole = [rows[source].as_slice(), &step[index]].concat();
            prop_assert!(difference(last(&all_logits(&model, &whole)), &found[index]) <= TOLERANCE);
        }
    }

    #[test]
    fn resumed_is_straight(config in shapes(), row in row(), tails in proptest::collection::vec(row(), 1..4), cut in 0..24_usize) {
        let model = model(&config);
        let mut cache = model.cache(1, 8);
        last_logits(&model, std::slice::from_ref(&row), Some(&mut cache));
        let kept = cut % row.len() + 1;
        let prefix = cache.prefix(0, kept);
        let mut resumed = KvCache::from_prefix(&prefix, tails.len(), 4);
        let found = last_logits(&model, &tails, Some(&mut resumed));
        cache.truncate(0, kept);
        let rewound = last_logits(&model, &tails[..1], Some(&mut cache));
        prop_assert!(difference(&rewound[0], &found[0]) <= TOLERANCE);
        for (index, tail) in tails.iter().enumerate() {
            let whole = [&row[..kept], tail].concat();
            prop_assert!(difference(last(&all_logits(&model, &whole)), &found[index]) <= TOLERANCE);
        }
    }
}

#[test]
fn calls_that_cannot_be_computed_are_refused_and_change_nothing() {
    let mut config = LlamaConfig::tiny(VOCABULARY);
    config.max_positions = 8;
    let model = model(&config);
    let call = |row: &[u32], cache: &mut KvCache| {
        model.forward(&TokenBatch::new(&[row]).unwrap(), Some(cache)).err()
    };
    let mut cache = model.cache(1, 8);
    assert_eq!(
        call(&[48], &mut cache),
        Some(ModelError::TokenOutOfRange { id: 48, vocab_size: 48 })
    );
    assert_eq!(call(&[0; 9], &mut cache), Some(ModelError::ContextFull { tokens: 9, limit: 8 }));
    assert_eq!(call(&[0; 5], &mut cache), None);
    assert_eq!(call(&[0; 4], &mut cache), Some(ModelError::ContextFull { tokens: 9, limit: 8 }));
    assert_eq!(cache.lengths(), [5]);
    let two = TokenBatch::new(&[[1], [2]]).unwrap();
    assert!(matches!(model.forward(&two, Some(&mut cache)), Err(ModelError::CacheMismatch { .. })));
    config.layers = 1;
    let other = self::model(&config);
    let error = other.forward(&TokenBatch::new(&[[1]]).unwrap(), Some(&mut cache));
    assert!(matches!(error, Err(ModelError::CacheMismatch { .. })));
}

#[test]
fn equal_seeds_give_equal_models() {
    let config = LlamaConfig::tiny(VOCABULARY);
    let logits = |seed| {
        let init = RandomInit { seed, ..RandomInit::default() };
        all_logits(&Llama::random(&config, init, &Device::flex()).unwrap(), &[1, 2, 3])
    };
    assert_eq!(logits(1), logits(1));
    assert_ne!(logits(1), logits(2));
}
