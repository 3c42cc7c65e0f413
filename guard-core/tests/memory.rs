//! Loading takes little more memory than the loaded weights: measured in a process of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use std::process::Command;

use guard_core::burn::tensor::Device;
use guard_core::{
    FileAccess, Llama, LlamaConfig, LoadOptions, ModelFiles, RandomInit, SaveOptions, WeightType,
};

const FOLDER: &str = "GUARD_MEMORY_FOLDER";
const ACCESS: &str = "GUARD_MEMORY_ACCESS";

/// The most memory that this process ever had, in bytes.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    1024 * line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
}

/// 170 MB, of which the embedding is a third: the hardest case for one tensor at a time.
fn shape() -> LlamaConfig {
    let mut config = LlamaConfig::tiny(28_000);
    config.hidden_size = 512;
    config.intermediate_size = 2048;
    config.layers = 7;
    config.heads = 8;
    config.kv_heads = 4;
    config.head_dim = 64;
    config
}

/// Runs this test again as a child that loads `folder`; returns its peak over the weights' size.
fn ratio_of_child(folder: &std::path::Path, access: &str) -> f64 {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "peak_memory_is_below_1_2_times_the_weights", "--nocapture"])
        .env(FOLDER, folder)
        .env(ACCESS, access)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stderr).into_owned();
    let ratio = text.lines().find_map(|line| line.strip_prefix("ratio ")).unwrap();
    ratio.parse().unwrap()
}

fn child(folder: &str) {
    let access = match std::env::var(ACCESS).unwrap().as_str() {
        "mapped" => FileAccess::Mapped,
        _ => FileAccess::Buffered,
    };
    let device = Device::flex();
    let before = peak();
    let files = ModelFiles::open_with(folder, access).unwrap();
    let (model, report) = files.load(LoadOptions::default(), &device).unwrap();
    eprintln!("ratio {}", (peak() - before) as f64 / report.bytes as f64);
    drop(model);
}

#[test]
fn peak_memory_is_below_1_2_times_the_weights() {
    if let Ok(folder) = std::env::var(FOLDER) {
        return child(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let model = Llama::random(&shape(), RandomInit::default(), &device).unwrap();
    let (whole, half) = (folder.path().join("f32"), folder.path().join("bf16"));
    model.save_folder(&whole, None, SaveOptions::default()).unwrap();
    drop(model);
    let options = LoadOptions::default().with_weight_type(WeightType::Bf16);
    let (model, _) = ModelFiles::open(&whole).unwrap().load(options, &device).unwrap();
    model.save_folder(&half, None, SaveOptions::default()).unwrap();
    for (name, folder) in [("F32", &whole), ("BF16", &half)] {
        for access in ["mapped", "buffered"] {
            let ratio = ratio_of_child(folder, access);
            eprintln!("{name} {access}: peak {ratio:.3} times the weights");
            assert!(ratio < 1.2, "{name} {access}: {ratio}");
        }
    }
}
