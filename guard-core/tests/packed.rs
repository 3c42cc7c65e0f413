//! The model on packed weights, beside the same one on burn.
#![cfg(feature = "flex")]
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use guard_core::burn::tensor::{DType, Device};
use guard_core::{
    GgufOptions, GgufType, Llama, LlamaConfig, LoadOptions, ModelError, ModelFiles, PackedLlama,
    PackedPiece, PackedType, RandomInit, TokenBatch, WeightsError,
};
use proptest::prelude::*;

const KINDS: [PackedType; 4] =
    [PackedType::Float, PackedType::Bf16, PackedType::Q8_0, PackedType::Q4_1];

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/models");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.join("config.json").is_file()).collect()
}

/// Some tokens of a vocabulary.
fn tokens(count: usize, config: &LlamaConfig, seed: usize) -> Vec<u32> {
    (0..count).map(|at| ((at * 7919 + seed * 31) % config.vocab_size) as u32).collect()
}

/// The logits behind each token, by the model on burn.
fn on_burn(model: &Llama, tokens: &[u32]) -> Vec<f32> {
    let hidden = model.forward(&TokenBatch::new(&[tokens]).unwrap(), None).unwrap();
    model.logits(hidden).try_into_vec_as::<f32>().unwrap()
}

/// The same on packed weights, in one piece.
fn packed(model: &PackedLlama, tokens: &[u32]) -> Vec<f32> {
    let all: Vec<usize> = (0..tokens.len()).collect();
    let mut cache = model.cache();
    let logits = model.forward(&mut [PackedPiece::new(tokens, &mut cache)], &all).unwrap();
    assert_eq!(cache.len(), tokens.len());
    logits
}

fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn packed_floats_are_the_model_on_burn() {
    for path in fixtures() {
        let files = ModelFiles::open(&path).unwrap();
        let (model, _) = files.load(LoadOptions::default(), &Device::flex()).unwrap();
        let (loaded, report) = files.load_packed(LoadOptions::default()).unwrap();
        assert_eq!(report.bytes, loaded.bytes());
        for count in [1, 5, 100] {
            let tokens = tokens(count, model.config(), count);
            let expected = on_burn(&model, &tokens);
            let found = packed(&loaded, &tokens);
            // Keys and values are kept in 16 bits.
            let apart = farthest(&expected, &found);
            assert!(apart < 0.03, "{}, {count} tokens: {apart}", path.display());
            // The same bits, whether it comes from files or from the model.
            assert_eq!(found, packed(&model.packed(PackedType::Float).unwrap(), &tokens));
        }
        for kind in KINDS {
            let (loaded, _) = files.load_packed(LoadOptions::default().with_packed(kind)).unwrap();
            let tokens = tokens(9, model.config(), 1);
            let found = packed(&model.packed(kind).unwrap(), &tokens);
            assert_eq!(packed(&loaded, &tokens), found, "{}, {kind}", path.display());
        }
    }
}

#[test]
fn packed_integers_are_those_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for path in fixtures() {
        let files = ModelFiles::open(&path).unwrap();
        let (model, _) = files.load(LoadOptions::default(), &Device::flex()).unwrap();
        let is_whole = |size: usize| size.is_multiple_of(32);
        let config = model.config();
        let Ok(tokenizer) = files.tokenizer() else { continue };
        if !is_whole(config.hidden_size) || !is_whole(config.intermediate_size) {
            continue;
        }
        for kind in [GgufType::Q8_0, GgufType::Q4_0, GgufType::Q4_1, GgufType::F16] {
            let file = folder.path().join("model.gguf");
            compared += 1;
            model.save_gguf(&file, &tokenizer, &GgufOptions::new(kind)).unwrap();
            let files = ModelFiles::open(&file).unwrap();
            let (rounded, _) = files.load(LoadOptions::default(), &Device::flex()).unwrap();
            let options = LoadOptions::default().with_finite_check();
            let (loaded, _) = files.load_packed(options).unwrap();
            let tokens = tokens(70, model.config(), 1);
            let (expected, found) = (on_burn(&rounded, &tokens), packed(&loaded, &tokens));
            // Inputs are rounded to 8 bits, too.
            let spread = expected.iter().copied().fold(0.0_f32, |most, x| most.max(x.abs()));
            let apart = farthest(&expected, &found);
            assert!(apart < 0.1 * spread.max(1.0), "{kind:?}: {apart} of {spread}");
        }
    }
    assert!(compared > 0);
}

/// 16-bit floats take half the memory, and are the same numbers.
#[test]
fn halves_are_computed_with_as_floats() {
    let folder = tempfile::tempdir().unwrap();
    let path = fixtures().into_iter().find(|path| path.ends_with("tied-gqa-llama3")).unwrap();
    let files = ModelFiles::open(&path).unwrap();
    let (model, _) = files.load(LoadOptions::default(), &Device::flex()).unwrap();
    for kind in [GgufType::F16, GgufType::Bf16] {
        let file = folder.path().join("model.gguf");
        model.save_gguf(&file, &files.tokenizer().unwrap(), &GgufOptions::new(kind)).unwrap();
        let files = ModelFiles::open(&file).unwrap();
        let (halves, _) = files.load_packed(LoadOptions::default()).unwrap();
        let (floats, _) = files.load(LoadOptions::default(), &Device::flex()).unwrap();
        let floats = floats.packed(PackedType::Float).unwrap();
        assert_eq!(2 * halves.bytes(), floats.bytes());
        for count in [1, 9, 70] {
            let tokens = tokens(count, model.config(), 1);
            assert_eq!(packed(&halves, &tokens), packed(&floats, &tokens), "{kind:?}");
        }
    }
}

/// Of weights that are brain floats anyway, only the inputs of products are rounded.
#[test]
fn products_of_brain_floats_are_near_those_of_floats() {
    for path in fixtures() {
        let files = ModelFiles::open(&path).unwrap();
        let (model, _) = files.load(LoadOptions::default(), &Device::flex()).unwrap();
        let model = model.map_parameters(&mut |_, values| {
            let kind = values.dtype();
            values.cast(DType::BF16).cast(kind)
        });
        let [floats, rounded] =
            [PackedType::Float, PackedType::Bf16].map(|kind| model.packed(kind).unwrap());
        for count in [1, 9, 70] {
            let tokens = tokens(count, model.config(), 1);
            let [exact, found] = [&floats, &rounded].map(|model| packed(model, &tokens));
            let spread = exact.iter().copied().fold(0.0_f32, |most, x| most.max(x.abs()));
            let apart = farthest(&exact, &found) / spread;
            assert!(0.0 < apart && apart < 0.02, "{}: {apart}", path.display());
        }
    }
}

#[test]
fn weights_take_what_their_type_takes() {
    let mut config = LlamaConfig::tiny(256);
    (config.hidden_size, config.intermediate_size) = (128, 256);
    let model = Llama::random(&config, RandomInit::default(), &Device::flex()).unwrap();
    let [f32, bf16, q8, q4] = KINDS.map(|kind| model.packed(kind).unwrap().bytes());
    assert_eq!([64, 34, 20].map(|of_128| f32 * of_128 / 128), [bf16, q8, q4]);
}

#[test]
fn calls_that_cannot_be_computed_are_refused_and_change_nothing() {
    let config = LlamaConfig::tiny(64);
    let model = Llama::random(&config, RandomInit::default(), &Device::flex()).unwrap();
    let model = model.packed(PackedType::Q8_0).unwrap();
    let mut cache = model.cache();
    model.forward(&mut [PackedPiece::new(&[1, 2], &mut cache)], &[]).unwrap();
    let long = vec![1; config.max_positions - 1];
    let refused = |tokens: &[u32], cache: &mut _| {
        model.forward(&mut [PackedPiece::new(tokens, cache)], &[]).unwrap_err()
    };
    assert_eq!(model.forward(&mut [], &[]).unwrap_err(), ModelError::EmptyBatch);
    assert_eq!(refused(&[], &mut cache), ModelError::EmptyBatch);
    let error = ModelError::TokenOutOfRange { id: 64, vocab_size: 64 };
    assert_eq!(refused(&[1, 64], &mut cache), error);
    let (tokens, limit) = (config.max_positions + 1, config.max_positions);
    assert_eq!(refused(&long, &mut cache), ModelError::ContextFull { tokens, limit });
    let mut other = config.clone();
    other.layers = 1;
    let other = Llama::random(&other, RandomInit::default(), &Device::flex()).unwrap();
    let mut foreign = other.packed(PackedType::Float).unwrap().cache();
    assert!(matches!(refused(&[1], &mut foreign), ModelError::CacheMismatch { .. }));
    assert_eq!((cache.len(), foreign.len()), (2, 0));
}

#[test]
fn a_weight_that_is_no_number_is_found_or_leaves_no_number() {
    let config = LlamaConfig::tiny(64);
    let model = Llama::random(&config, RandomInit::default(), &Device::flex()).unwrap();
    let model = model.map_parameters(&mut |parameter, values| {
        if parameter.name.contains("down_proj") { values * f32::NAN } else { values }
    });
    for kind in KINDS {
        let logits = packed(&model.packed(kind).unwrap(), &[1, 2]);
        assert!(logits.iter().all(|logit| logit.is_nan()), "{kind:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    model.save_folder(folder.path(), None, Default::default()).unwrap();
    let files = ModelFiles::open(folder.path()).unwrap();
    let options = LoadOptions::default().with_finite_check();
    let error = files.load_packed(options.with_packed(PackedType::Q8_0)).unwrap_err();
    assert!(matches!(error, WeightsError::NotFinite { .. }), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// However a text is read, alone or beside others, in whatever pieces: the same bits.
    #[test]
    fn pieces_and_company_change_nothing(
        count in 2..150_usize, cut in 1..149_usize, beside in 1..80_usize, grouped: bool, seed: u16,
    ) {
        let mut config = LlamaConfig::tiny(96);
        (config.hidden_size, config.head_dim) = (40, 12);
        config.kv_heads = if grouped { 2 } else { 4 };
        let init = RandomInit { seed: u64::from(seed), standard_deviation: 0.3 };
        let model = Llama::random(&config, init, &Device::flex()).unwrap();
        let (all, other) = (tokens(count, &config, 1), tokens(beside, &config, 2));
        let cut = cut.min(count - 1);
        for kind in KINDS {
            let model = model.packed(kind).unwrap();
            let whole = packed(&model, &all);
            let whole = whole.rchunks(config.vocab_size).next().unwrap();
            // In two pieces, the second beside another text.
            let (mut cache, mut company) = (model.cache(), model.cache());
            model.forward(&mut [PackedPiece::new(&all[..cut], &mut cache)], &[]).unwrap();
            let mut fork = cache.clone();
            let mut pieces =
                [PackedPiece::new(&other, &mut company), PackedPiece::new(&all[cut..], &mut cache)];
            let found = model.forward(&mut pieces, &[beside + count - cut - 1]).unwrap();
            prop_assert_eq!(whole, &found[..]);
            // A fork of the first piece, token by token, with a wrong token taken back.
            let mut last = Vec::new();
            for &token in &all[cut..] {
                model.forward(&mut [PackedPiece::new(&[other[0]], &mut fork)], &[]).unwrap();
                fork.truncate(fork.len() - 1);
                last = model.forward(&mut [PackedPiece::new(&[token], &mut fork)], &[0]).unwrap();
            }
            prop_assert_eq!(whole, &last[..]);
        }
    }
}
