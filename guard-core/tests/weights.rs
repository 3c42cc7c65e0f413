//! Reading every encoding, and writing folders that are read again.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

mod support;

use std::path::Path;

use guard_core::{
    FileAccess, GgufOptions, GgufType, Llama, LlamaConfig, LoadOptions, ModelFiles, Prompt,
    RandomInit, SaveOptions, WeightType,
};
use support::{MODELS, all_logits, device, difference, load, testdata};
use tempfile::TempDir;

const IDS: [u32; 6] = [5, 80, 300, 7, 7, 191];

#[test]
fn mapped_and_buffered_files_give_the_same_model() {
    for name in MODELS {
        let path = testdata(&format!("models/{name}"));
        let files = ModelFiles::open_with(&path, FileAccess::Buffered).unwrap();
        let (buffered, report) = files.load(LoadOptions::default(), &device()).unwrap();
        assert_eq!(all_logits(&buffered, &IDS), all_logits(&load(&path), &IDS), "{name}");
        assert_eq!(report.bytes, 4 * files.config().parameter_count());
        assert!(report.unused.is_empty() && report.missing.is_empty());
    }
}

#[test]
fn half_floats_are_close_to_whole_ones() {
    let path = testdata("models/untied-mha-llama2");
    let exact = all_logits(&load(&path), &IDS);
    let largest = exact.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
    // 11 bits of precision in F16 and 8 in BF16, through three layers.
    for (weight_type, tolerance) in [(WeightType::F16, 0.01), (WeightType::Bf16, 0.08)] {
        let options = LoadOptions::default().with_weight_type(weight_type);
        let (model, report) = ModelFiles::open(&path).unwrap().load(options, &device()).unwrap();
        let half = all_logits(&model, &IDS);
        assert!(difference(&half, &exact) <= tolerance * largest, "{weight_type:?}");
        assert_eq!(report.bytes, 2 * model.config().parameter_count());
    }
}

fn round_trip(model: &Llama, options: SaveOptions) -> (TempDir, Llama) {
    let folder = TempDir::new().unwrap();
    model.save_folder(folder.path(), None, options).unwrap();
    let again = load(folder.path());
    (folder, again)
}

fn safetensors_files(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .count()
}

#[test]
fn what_is_saved_is_loaded_again_exactly() {
    for name in MODELS {
        let model = load(testdata(&format!("models/{name}")));
        let (_, again) = round_trip(&model, SaveOptions::default());
        assert_eq!(again.config(), model.config(), "{name}");
        assert_eq!(all_logits(&again, &IDS), all_logits(&model, &IDS), "{name}");
    }
}

#[test]
fn a_large_model_is_written_in_shards() {
    let model = load(testdata("models/untied-mha-llama2"));
    let (folder, again) = round_trip(&model, SaveOptions::default().with_max_shard_bytes(150_000));
    assert!(safetensors_files(folder.path()) >= 4);
    assert_eq!(all_logits(&again, &IDS), all_logits(&model, &IDS));
    let left_over = std::fs::read_dir(folder.path()).unwrap();
    assert!(left_over.into_iter().all(|entry| !entry.unwrap().path().ends_with(".tmp")));
}

#[test]
fn a_model_keeps_its_float_type() {
    let options = LoadOptions::default().with_weight_type(WeightType::Bf16);
    let files = ModelFiles::open(testdata("models/untied-gqa-bf16")).unwrap();
    let (model, _) = files.load(options, &device()).unwrap();
    let (folder, _) = round_trip(&model, SaveOptions::default());
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    assert!(config.contains("bfloat16"));
    // The file held BF16, and holds it again: the bytes of a tensor are the same.
    let bytes = |path: &Path| {
        let file = std::fs::read(path.join("model.safetensors")).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
        tensors.tensor("model.layers.0.mlp.up_proj.weight").unwrap().data().to_vec()
    };
    assert_eq!(bytes(folder.path()), bytes(&testdata("models/untied-gqa-bf16")));
}

#[test]
fn a_tied_head_that_is_stored_as_well_is_read() {
    let mut config = LlamaConfig::tiny(400);
    config.tied_head = false;
    let untied = Llama::random(&config, RandomInit::default(), &device()).unwrap();
    let folder = TempDir::new().unwrap();
    untied.save_folder(folder.path(), None, SaveOptions::default()).unwrap();
    // The head becomes the embedding, byte by byte, and the configuration says so.
    let path = folder.path().join("model.safetensors");
    let file = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    let embedding = tensors.tensor("model.embed_tokens.weight").unwrap();
    let copied = tensors.tensors().into_iter().map(|(name, view)| {
        let view = if name == "lm_head.weight" { embedding.clone() } else { view };
        (name, view)
    });
    std::fs::write(&path, safetensors::serialize(copied, None).unwrap()).unwrap();
    let config_path = folder.path().join("config.json");
    let json = std::fs::read_to_string(&config_path).unwrap();
    std::fs::write(
        &config_path,
        json.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true"),
    )
    .unwrap();
    assert!(load(folder.path()).config().tied_head);
}

/// A model and its tokenizer as one file: with 32-bit floats the same model, the scaling of its
/// positions and its tokens included; with packed matrices a close one.
#[test]
fn a_gguf_file_holds_the_model_and_its_tokenizer() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let source = ModelFiles::open(testdata("models/tied-gqa-llama3")).unwrap();
    let tokenizer = source.tokenizer().unwrap();
    let (model, _) = source.load(LoadOptions::default(), &device()).unwrap();
    let exact = all_logits(&model, &IDS);
    let largest = exact.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
    let mut sizes = Vec::new();
    // About twice what was found: random weights make much of small differences.
    let bounds = [1e-5, 0.002, 0.02, 0.1, 1.0, 1.6];
    for (kind, bound) in GgufType::ALL.into_iter().zip(bounds) {
        model.save_gguf(&path, &tokenizer, &GgufOptions::new(kind)).unwrap();
        sizes.push(std::fs::metadata(&path).unwrap().len());
        let files = ModelFiles::open(&path).unwrap();
        // The file keeps numbers as 32-bit floats, and of the scaling what comes out of it.
        let mut config = files.config().clone();
        assert!((config.rms_norm_eps / model.config().rms_norm_eps - 1.0).abs() < 1e-6);
        config.rms_norm_eps = model.config().rms_norm_eps;
        config.rope = model.config().rope.clone();
        assert_eq!(&config, model.config(), "{kind}");
        let (again, _) = files.load(LoadOptions::default(), &device()).unwrap();
        let apart = difference(&all_logits(&again, &IDS), &exact);
        assert!(apart <= bound * largest, "{kind}: {apart} of {largest}");
        let again = files.tokenizer().unwrap();
        for text in ["How do I bake bread?", "  12 345\n\n<|eot_id|> élan", ""] {
            let prompt = Prompt::new().trusted("<|start_header_id|>user").untrusted(text);
            assert_eq!(again.encode(&prompt).unwrap(), tokenizer.encode(&prompt).unwrap());
        }
    }
    assert!(sizes.is_sorted_by(|larger, smaller| larger >= smaller), "{sizes:?}");
    let bytes: &'static [u8] = Box::leak(std::fs::read(&path).unwrap().into_boxed_slice());
    let program = ModelFiles::from_gguf_bytes("in the program", bytes).unwrap();
    assert_eq!(
        all_logits(&program.load(LoadOptions::default(), &device()).unwrap().0, &IDS),
        all_logits(&load(&path), &IDS)
    );
    let torn = ModelFiles::from_gguf_bytes("torn", &bytes[..bytes.len() / 2]).unwrap_err();
    assert!(torn.to_string().starts_with("torn: bad GGUF file"), "{torn}");
}

#[test]
fn what_gguf_cannot_hold_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let tokenizer = ModelFiles::open(testdata("models/tied-gqa-llama3")).unwrap().tokenizer();
    let tokenizer = tokenizer.unwrap();
    // Rows of 48 weights are no whole blocks of 32.
    let model = load(testdata("models/untied-gqa-bf16"));
    let refused = model.save_gguf(&path, &tokenizer, &GgufOptions::new(GgufType::Q8_0));
    assert!(refused.unwrap_err().to_string().contains("48, expected a multiple of 32"));
    let tied = ModelFiles::open(testdata("models/tied-gqa-llama3")).unwrap();
    let (tied, _) = tied.load(LoadOptions::default(), &device()).unwrap();
    for (value, kind) in [(f32::NAN, GgufType::F32), (1e6, GgufType::F16), (1e6, GgufType::Q4_0)] {
        let broken = tied.clone().map_parameters(&mut |parameter, values| {
            let broken = parameter.name.ends_with("1.mlp.up_proj.weight");
            if broken { values.zeros_like() + value } else { values }
        });
        let refused = broken.save_gguf(&path, &tokenizer, &GgufOptions::new(kind)).unwrap_err();
        assert!(refused.to_string().contains("1.mlp.up_proj.weight"), "{refused}");
    }
    let mut config = tied.config().clone();
    config.eos.clear();
    let endless = Llama::random(&config, RandomInit::default(), &device()).unwrap();
    let refused = endless.save_gguf(&path, &tokenizer, &GgufOptions::new(GgufType::F32));
    assert!(refused.unwrap_err().to_string().contains("end tokens: 0"));
    assert!(!path.exists());
}
