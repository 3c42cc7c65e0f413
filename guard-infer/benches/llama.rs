//! Prefill and decode of a model of SmolLM2-135M's shape, or of the model that GUARD_BENCH_MODEL
//! names: on burn, on the device that GUARD_BENCH_DEVICE names (default cpu), and on packed weights on the
//! CPU.
//!
//! cargo bench -p guard-infer --bench llama
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use guard_core::burn::tensor::{Device, Tensor};
use guard_core::{KvCache, Llama, LlamaConfig, ModelFiles, RandomInit, TokenBatch};
use guard_infer::{DeviceName, LoadOptions};
#[cfg(feature = "flex")]
use guard_infer::{PackedPiece, PackedType};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PREFILL: [usize; 2] = [128, 602];
const DEPTHS: [usize; 2] = [32, 602];

fn smollm2_shape() -> LlamaConfig {
    let mut config = LlamaConfig::tiny(49152);
    config.hidden_size = 576;
    config.intermediate_size = 1536;
    config.layers = 30;
    config.heads = 9;
    config.kv_heads = 3;
    config.head_dim = 64;
    config.max_positions = 8192;
    config.rope.theta = 100_000.0;
    config
}

fn model(device: &Device) -> Llama {
    match std::env::var_os("GUARD_BENCH_MODEL") {
        Some(path) => {
            ModelFiles::open(path).unwrap().load(LoadOptions::default(), device).unwrap().0
        }
        None => Llama::random(&smollm2_shape(), RandomInit::default(), device).unwrap(),
    }
}

fn tokens(length: usize) -> TokenBatch {
    let row: Vec<u32> = (0..length as u32).map(|index| 1000 + index * 7919 % 30_000).collect();
    TokenBatch::new(&[row]).unwrap()
}

/// Reads the logits of the last token, so that nothing is left undone on a lazy device.
fn read(model: &Llama, tokens: &TokenBatch, cache: &mut KvCache) -> f32 {
    let hidden = model.forward(tokens, Some(cache)).unwrap();
    let logits: Tensor<2> = model.logits(model.gather(hidden, &tokens.last_places()));
    logits.max().into_scalar()
}

fn prefill(criterion: &mut Criterion) {
    let device = device();
    let model = model(&device);
    let mut group = criterion.benchmark_group("prefill");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    for length in PREFILL {
        let tokens = tokens(length);
        group.throughput(Throughput::Elements(length as u64));
        group.bench_function(BenchmarkId::from_parameter(length), |bencher| {
            bencher.iter(|| read(&model, &tokens, &mut model.cache(1, length)));
        });
    }
}

fn decode(criterion: &mut Criterion) {
    let device = device();
    let model = model(&device);
    let mut group = criterion.benchmark_group("decode");
    group.sample_size(10).measurement_time(Duration::from_secs(8));
    for depth in DEPTHS {
        let mut cache = model.cache(1, depth + 64);
        read(&model, &tokens(depth), &mut cache);
        let token = tokens(1);
        group.throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("depth", depth), |bencher| {
            bencher.iter(|| {
                cache.truncate(0, depth);
                read(&model, &token, &mut cache)
            });
        });
    }
}

/// The same on packed weights.
#[cfg(feature = "flex")]
fn packed(criterion: &mut Criterion) {
    let model = model(&Device::flex());
    for kind in [PackedType::Float, PackedType::Bf16, PackedType::Q8_0, PackedType::Q4_1] {
        let model = model.packed(kind).unwrap();
        let mut group = criterion.benchmark_group(format!("packed {kind:?}"));
        group.sample_size(10).measurement_time(Duration::from_secs(4));
        let row = |length: usize| -> Vec<u32> {
            (0..length as u32).map(|index| 1000 + index * 7919 % 30_000).collect()
        };
        for length in PREFILL {
            let tokens = row(length);
            group.throughput(Throughput::Elements(length as u64));
            group.bench_function(BenchmarkId::new("prefill", length), |bencher| {
                bencher.iter(|| {
                    let mut cache = model.cache();
                    let mut piece = [PackedPiece::new(&tokens, &mut cache)];
                    model.forward(&mut piece, &[length - 1]).unwrap()
                });
            });
        }
        for depth in DEPTHS {
            let (mut cache, tokens) = (model.cache(), row(depth));
            model.forward(&mut [PackedPiece::new(&tokens, &mut cache)], &[]).unwrap();
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new("decode at", depth), |bencher| {
                bencher.iter(|| {
                    cache.truncate(depth);
                    model.forward(&mut [PackedPiece::new(&[1000], &mut cache)], &[0]).unwrap()
                });
            });
        }
        group.finish();
    }
}

#[cfg(not(feature = "flex"))]
fn packed(_: &mut Criterion) {}

fn device() -> Device {
    let name = std::env::var("GUARD_BENCH_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    name.parse::<DeviceName>().unwrap().open().unwrap()
}

criterion_group!(benches, prefill, decode, packed);
criterion_main!(benches);
