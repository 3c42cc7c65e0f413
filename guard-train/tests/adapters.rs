//! Adapters against PEFT, whose fixture `scripts/peft_fixture.py` makes.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod support;

use std::ops::ControlFlow;
use std::path::Path;

use guard_train::guard_core::burn::tensor::Device;
use guard_train::guard_core::{
    AdapterFault, Llama, LoadOptions, LoraOptions, ModelFiles, Projection, SaveOptions, TokenBatch,
    WeightsError,
};
use guard_train::{CheckpointOptions, LlamaTrainer, Rsft, StepReport, Trainer, with_checkpoint};
use serde_json::Value;
use support::{examples, options, testdata, tiny};

fn golden() -> Value {
    let text = std::fs::read_to_string(testdata("peft/logits.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn logits(model: &Llama) -> Vec<f32> {
    let tokens: Vec<u32> = serde_json::from_value(golden()["tokens"].clone()).unwrap();
    let hidden = model.forward(&TokenBatch::new(&[tokens]).unwrap(), None).unwrap();
    model.logits(hidden).into_data().try_to_vec().unwrap()
}

fn expected(name: &str) -> Vec<f32> {
    serde_json::from_value(golden()[name].clone()).unwrap()
}

fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn an_adapter_of_peft_computes_the_same_here() {
    let (model, options) = tiny().load_adapters(testdata("peft")).unwrap();
    assert_eq!((options.rank, options.alpha, options.rank_stabilised), (3, 5.0, true));
    let targets = [Projection::Query, Projection::Value, Projection::Down];
    assert_eq!(options.targets, targets.into());
    assert!(apart(&logits(&model), &expected("logits")) < 1e-4);
    assert!(apart(&logits(&model.without_adapters()), &expected("base")) < 1e-4);
    // Merged it is a plain model, in memory and on disk.
    let merged = model.clone().merge_adapters();
    assert!(!merged.has_adapters() && apart(&logits(&merged), &expected("logits")) < 1e-4);
    let folder = tempfile::tempdir().unwrap();
    let mut ends = model.config().eos.clone();
    ends.push(7);
    let options = SaveOptions::default().with_end_token(7);
    model.save_folder(folder.path(), None, options).unwrap();
    let files = ModelFiles::open(folder.path()).unwrap();
    assert_eq!(files.config().eos, ends);
    let loaded = files.load(LoadOptions::default(), &Device::flex()).unwrap().0;
    assert!(apart(&logits(&loaded), &expected("logits")) < 1e-4);
}

/// Trains adapters for some steps.
fn trained(options_of_lora: &LoraOptions) -> Llama {
    let model = tiny().with_new_adapters(options_of_lora, 1).unwrap();
    assert_eq!(apart(&logits(&model), &logits(&tiny())), 0.0);
    let mut trainer = LlamaTrainer::new(model, Rsft::new(), options()).unwrap();
    trainer.train(&examples(24), &mut |_: &StepReport| ControlFlow::Continue(())).unwrap();
    trainer.into_model().unwrap()
}

#[test]
fn an_adapter_that_was_trained_here_comes_back() {
    let lora = LoraOptions::default().with_rank(4);
    let model = trained(&lora);
    let kept = std::env::var("GUARD_PEFT_FOLDER").ok();
    let scratch = tempfile::tempdir().unwrap();
    let folder = kept.as_deref().map_or(scratch.path(), Path::new);
    model.save_adapters(folder, &lora, Some("tiny")).unwrap();
    let (loaded, options) = tiny().load_adapters(folder).unwrap();
    assert_eq!((logits(&loaded), options), (logits(&model), lora));
    assert!(apart(&logits(&model), &logits(&tiny())) > 0.05);
    let written = serde_json::to_string(&logits(&model)).unwrap();
    std::fs::write(folder.join("logits.json"), written).unwrap();
    match kept {
        Some(folder) => eprintln!("for PEFT: python scripts/peft_fixture.py {folder}"),
        None => eprintln!("skipped: PEFT itself reads it where GUARD_PEFT_FOLDER is set"),
    }
}

/// Changes a field of PEFT's configuration.
fn changed(field: &str, value: Value) -> WeightsError {
    load_changed(field, value).unwrap_err()
}

fn load_changed(field: &str, value: Value) -> Result<(Llama, LoraOptions), WeightsError> {
    let folder = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(testdata("peft").join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    config[field] = value;
    std::fs::write(&path, config.to_string()).unwrap();
    tiny().load_adapters(folder.path())
}

#[test]
fn adapters_that_compute_otherwise_are_refused() {
    let fault = |field, value| match changed(field, value) {
        WeightsError::Adapter { fault, .. } => fault,
        other => panic!("{other}"),
    };
    for (name, value) in [
        ("use_dora", Value::from(true)),
        ("bias", "all".into()),
        ("fan_in_fan_out", true.into()),
        ("peft_type", "IA3".into()),
        ("modules_to_save", vec!["lm_head"].into()),
        ("rank_pattern", serde_json::json!({"q_proj": 9})),
        ("alpha_pattern", serde_json::json!({"q_proj": 9})),
        ("target_modules", "all-linear".into()),
        ("alora_invocation_tokens", vec![5, 9].into()),
        ("layers_to_transform", 0.into()),
        ("layer_replication", vec![vec![0, 1], vec![0, 2]].into()),
        ("lora_bias", true.into()),
        ("trainable_token_indices", vec![3].into()),
        ("target_parameters", vec!["experts.down_proj"].into()),
        ("init_lora_weights", "pissa_niter_4".into()),
        ("a_variant_of_tomorrow", 1.into()),
    ] {
        let fault = fault(name, value);
        assert!(
            matches!(&fault, AdapterFault::Unsupported { field, .. } if field == name),
            "{fault}"
        );
    }
    assert!(matches!(fault("target_modules", vec!["c_attn"].into()), AdapterFault::Target(_)));
    assert!(matches!(fault("r", 0.into()), AdapterFault::Options(_)));
    assert!(matches!(fault("r", "many".into()), AdapterFault::Json(_)));
    // Other tensors than the configuration says.
    for (field, value) in [
        ("r", Value::from(4)),
        ("target_modules", vec!["q_proj", "v_proj", "up_proj"].into()),
        ("target_modules", vec!["q_proj", "v_proj"].into()),
    ] {
        assert!(matches!(changed(field, value), WeightsError::Mismatch(_)), "{field}");
    }
}

#[test]
fn fields_that_tell_where_an_adapter_comes_from_change_nothing() {
    for (field, value) in [
        ("init_lora_weights", Value::from("gaussian")),
        ("init_lora_weights", false.into()),
        ("auto_mapping", serde_json::json!({"base_model_class": "LlamaForCausalLM"})),
        ("lora_dropout", 0.1.into()),
        ("inference_mode", false.into()),
        ("rank_pattern", Value::Null),
        ("layers_to_transform", Vec::<u32>::new().into()),
        ("a_variant_of_tomorrow", Value::Null),
    ] {
        let (model, _) = load_changed(field, value).unwrap();
        assert!(apart(&logits(&model), &expected("logits")) < 1e-4, "{field}");
    }
}

#[test]
fn options_of_other_adapters_are_not_written_beside_these() {
    let lora = LoraOptions::default().with_rank(4).with_targets([Projection::Up]);
    let model = tiny().with_new_adapters(&lora, 1).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (other, told) in [
        (lora.clone().with_rank(2), "rank 4"),
        (lora.clone().with_alpha(3.0), "scale 4"),
        (lora.clone().with_rank_stabilised(), "scale 4"),
        (lora.clone().with_targets([Projection::Up, Projection::Down]), "no adapter"),
        (lora.clone().with_targets([Projection::Down]), "rank 4"),
    ] {
        let error = model.save_adapters(folder.path(), &other, None).unwrap_err();
        let differs = matches!(
            &error,
            WeightsError::Adapter { fault: AdapterFault::Differs { layer, .. }, .. }
                if layer.starts_with("model.layers.0.mlp.")
        );
        assert!(differs && error.to_string().contains(told), "{error}");
        assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    }
    model.save_adapters(folder.path(), &lora, Some("work/Llama-3.2-1B")).unwrap();
    let written = std::fs::read_to_string(folder.path().join("adapter_config.json")).unwrap();
    let written: Value = serde_json::from_str(&written).unwrap();
    assert_eq!(written["base_model_name_or_path"], "work/Llama-3.2-1B");
    assert_eq!((&written["bias"], &written["use_dora"]), (&"none".into(), &false.into()));
}

#[test]
fn the_best_checkpoint_gives_a_model_and_a_damaged_one_an_error() {
    let lora = LoraOptions::default().with_rank(2);
    let folder = tempfile::tempdir().unwrap();
    let model = tiny().with_new_adapters(&lora, 1).unwrap();
    let checkpoints = CheckpointOptions::new(folder.path()).with_every(1).with_keep_last(9);
    let mut trainer =
        LlamaTrainer::new(model, Rsft::new(), options()).unwrap().with_checkpoints(checkpoints);
    let mut steps = 0;
    let mut watch = |_: &StepReport| {
        steps += 1;
        if steps < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    trainer.train(&examples(24), &mut watch).unwrap();
    let last = trainer.into_model().unwrap();
    let at = |step| with_checkpoint(last.clone(), folder.path(), step);
    assert_eq!(logits(&at(3).unwrap()), logits(&last));
    assert!(apart(&logits(&at(1).unwrap()), &logits(&last)) > 1e-3);
    assert!(at(7).unwrap_err().to_string().contains("step-7"));
    let weights = folder.path().join("step-1/weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let error = at(1).unwrap_err().to_string();
    assert!(error.contains("step-1") && error.contains("was changed"), "{error}");
}

#[test]
fn a_model_without_adapters_has_none_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let error = tiny().save_adapters(folder.path(), &LoraOptions::default(), None).unwrap_err();
    assert!(error.to_string().contains("the model has no adapter"), "{error}");
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
    for bad in [LoraOptions::default().with_rank(0), LoraOptions::default().with_targets([])] {
        assert!(tiny().with_new_adapters(&bad, 1).is_err());
    }
}
