//! The written way back against burn's automatic differentiation of the model's forward path.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use guard_core::burn;
use guard_core::{
    Gradients, Llama, LlamaConfig, LoraOptions, ModelError, PackedBatch, Precision, RandomInit,
    Recompute, RecordOptions, TokenBatch,
};

/// A tiny model whose weights are large enough for every path to matter.
fn model(config: &LlamaConfig, device: &Device) -> Llama {
    Llama::random(config, RandomInit { seed: 3, standard_deviation: 0.3 }, device).unwrap()
}

/// Where the models of a comparison come from: one and the same on each device.
type Make<'a> = &'a dyn Fn(&Device) -> Llama;

/// The tiny model with adapters in which neither matrix is zero, and whose scale is 5 / 3.
fn adapted(config: &LlamaConfig, device: &Device) -> Llama {
    let lora = LoraOptions::default().with_rank(3).with_alpha(5.0);
    let new = model(config, &Device::default()).with_new_adapters(&lora, 1).unwrap();
    let drawn = new.map_parameters(&mut |parameter, old| match parameter.trained {
        true => {
            let values = noise(old.dims()[0]).iter().map(|value| 0.3 * value).collect::<Vec<_>>();
            Tensor::from_data(TensorData::new(values, old.dims()), &old.device())
        }
        false => old,
    });
    let folder = tempfile::tempdir().unwrap();
    drawn.save_adapters(folder.path(), &lora, None).unwrap();
    model(config, device).load_adapters(folder.path()).unwrap().0
}

fn rows(lengths: &[usize], vocabulary: usize) -> Vec<Vec<u32>> {
    let token = |row: usize, at: usize| ((row * 31 + at * 17 + at * at) % vocabulary) as u32;
    let row = |(row, &length): (usize, &usize)| (0..length).map(|at| token(row, at)).collect();
    lengths.iter().enumerate().map(row).collect()
}

fn floats<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().into_data().try_to_vec().unwrap()
}

/// Numbers between -1 and 1 that look like noise.
fn noise(count: usize) -> Vec<f32> {
    (0..count).map(|at| ((at * 7919 + 13) % 1009) as f32 / 504.5 - 1.0).collect()
}

/// The largest difference of two vectors, over the largest value.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    apart / largest.max(1e-6)
}

/// The names and ids of the parameters that are trained.
fn trained(model: &Llama) -> Vec<(String, ParamId)> {
    let trained = model.parameters().into_iter().filter(|parameter| parameter.trained);
    trained.map(|parameter| (parameter.name, parameter.id)).collect()
}

/// Gradients of the trained parameters by their names, by burn, of
/// `sum(log p(targets) * coefficients)` over the padded rows.
fn by_autodiff(
    make: Make<'_>,
    rows: &[Vec<u32>],
    coefficients: &[f32],
) -> BTreeMap<String, Vec<f32>> {
    struct Read<'a>(&'a burn::tensor::Gradients, HashMap<ParamId, Vec<f32>>);
    impl ModuleVisitor for Read<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(self.0).map(|gradient| floats(&gradient));
            self.1.extend(gradient.map(|gradient| (param.id, gradient)));
        }
    }
    let device = Device::default().autodiff();
    let model = make(&device);
    let batch = TokenBatch::new(rows).unwrap();
    let hidden = model.forward(&batch, None).unwrap();
    let places: Vec<usize> = rows
        .iter()
        .enumerate()
        .flat_map(|(row, r)| (0..r.len() - 1).map(move |at| (row, at)))
        .map(|(row, at)| row * batch.width() + at)
        .collect();
    let targets: Vec<i32> =
        rows.iter().flat_map(|row| row[1..].iter().map(|&id| id as i32)).collect();
    let logits = model.logits(model.gather(hidden, &places));
    let log_probs = burn::tensor::activation::log_softmax(logits, 1);
    let count = targets.len();
    let columns =
        Tensor::<2, burn::tensor::Int>::from_data(TensorData::new(targets, [count, 1]), &device);
    let weights =
        Tensor::<2>::from_data(TensorData::new(coefficients.to_vec(), [count, 1]), &device);
    let loss = (log_probs.gather(1, columns) * weights).sum().neg();
    let gradients = loss.backward();
    let mut read = Read(&gradients, HashMap::new());
    model.visit(&mut read);
    let gradient = |(name, id)| (name, read.1.remove(&id).unwrap());
    trained(&model).into_iter().map(gradient).collect()
}

/// The same, written out.
fn written(
    model: &Llama,
    rows: &[Vec<u32>],
    coefficients: &[f32],
    options: RecordOptions,
    chunk: usize,
) -> (Gradients, Vec<f32>) {
    let recording = model.record(PackedBatch::new(rows).unwrap(), options).unwrap();
    let mut places = Vec::new();
    let mut start = 0;
    for row in rows {
        places.extend(start..start + row.len() - 1);
        start += row.len();
    }
    let targets: Vec<u32> = rows.iter().flat_map(|row| row[1..].to_vec()).collect();
    let hidden = recording.hidden();
    let picked = model.gather(hidden.clone(), &places);
    let pass = model.read_head(picked, &targets, chunk, options.precision).unwrap();
    let log_probs = pass.log_probs().to_vec();
    let mut gradients = Gradients::new();
    let d_picked = model.head_backward(pass, coefficients, &mut gradients);
    let indices: Vec<i32> = places.iter().map(|&place| place as i32).collect();
    let indices = Tensor::<1, burn::tensor::Int>::from_data(
        TensorData::new(indices, [places.len()]),
        &model.device(),
    );
    let d_hidden = hidden.zeros_like().select_assign(
        0,
        indices,
        d_picked,
        burn::tensor::IndexingUpdateOp::Add,
    );
    model.backward(recording, d_hidden, &mut gradients);
    (gradients, log_probs)
}

fn compare(make: Make<'_>, lengths: &[usize]) {
    let device = Device::default();
    let rows = rows(lengths, make(&device).config().vocab_size);
    let count: usize = rows.iter().map(|row| row.len() - 1).sum();
    let coefficients: Vec<f32> = noise(count).iter().map(|c| c / count as f32).collect();
    let expected = by_autodiff(make, &rows, &coefficients);
    // Off the plain device no kernel serves, and burn's own operations go the whole way.
    for device in [device.clone(), device.autodiff()] {
        let model = make(&device);
        for recompute in [Recompute::Projections, Recompute::Nothing] {
            for chunk in [7, 4096] {
                let options = RecordOptions::default().with_recompute(recompute);
                let (found, _) = written(&model, &rows, &coefficients, options, chunk);
                for (name, id) in trained(&model) {
                    let apart = distance(&floats(found.get(id).unwrap()), &expected[&name]);
                    assert!(apart < 2e-4, "{name} is {apart} apart on {device:?}");
                }
            }
        }
    }
}

#[test]
fn gradients_are_those_of_automatic_differentiation() {
    let mut config = LlamaConfig::tiny(53);
    config.tied_head = true;
    compare(&|device| model(&config, device), &[9, 9, 4, 13]);
    config.tied_head = false;
    compare(&|device| model(&config, device), &[5, 3, 3]);
}

#[test]
fn gradients_of_adapters_are_those_of_automatic_differentiation() {
    let mut config = LlamaConfig::tiny(53);
    for tied in [true, false] {
        config.tied_head = tied;
        // An adapter on each of seven layers of a block, of two matrices each.
        assert_eq!(trained(&adapted(&config, &Device::default())).len(), config.layers * 14);
        compare(&|device| adapted(&config, device), &[9, 9, 4, 13]);
    }
}

#[test]
fn nothing_flows_into_frozen_blocks() {
    let mut config = LlamaConfig::tiny(53);
    for (tied, blocks) in [(true, 1), (false, 1), (false, config.layers)] {
        config.tied_head = tied;
        let frozen = |device: &Device| model(&config, device).with_frozen_blocks(blocks).unwrap();
        compare(&frozen, &[9, 9, 4, 13]);
        let model = frozen(&Device::default());
        let rows = rows(&[5, 3], config.vocab_size);
        let (found, _) = written(&model, &rows, &[0.1; 6], RecordOptions::default(), 64);
        let mut expected: Vec<ParamId> = trained(&model).into_iter().map(|(_, id)| id).collect();
        expected.sort();
        assert_eq!(found.iter().map(|(id, _)| id).collect::<Vec<_>>(), expected);
        // Of a block nine parameters; the last norm, and a head of its own.
        assert_eq!(expected.len(), (config.layers - blocks) * 9 + 1 + usize::from(!tied));
    }
    let adapted = adapted(&config, &Device::default());
    let half = |device: &Device| self::adapted(&config, device).with_frozen_blocks(1).unwrap();
    assert_eq!(trained(&half(&Device::default())).len(), trained(&adapted).len() - 14);
    compare(&half, &[9, 4]);
    let layers = config.layers;
    let error = adapted.with_frozen_blocks(layers + 1).unwrap_err();
    assert_eq!(error, ModelError::LayerOutOfRange { layer: layers, layers });
}

/// Longer than a slice of queries.
#[test]
fn long_rows_go_through_attention_in_slices() {
    let config = LlamaConfig::tiny(53);
    compare(&|device| model(&config, device), &[500]);
}

#[test]
fn the_recorded_forward_path_is_the_models() {
    let config = LlamaConfig::tiny(53);
    let model = model(&config, &Device::default());
    let rows = rows(&[300, 7], config.vocab_size);
    let batch = TokenBatch::new(&rows).unwrap();
    let hidden = model.forward(&batch, None).unwrap();
    let places: Vec<usize> = (0..300).chain(300..307).collect();
    let expected = floats(&model.gather(hidden, &places));
    for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 0.05)] {
        let options = RecordOptions::default().with_precision(precision);
        let recording = model.record(PackedBatch::new(&rows).unwrap(), options).unwrap();
        let apart = distance(&floats(&recording.hidden()), &expected);
        assert!(apart < tolerance, "{precision:?}: {apart}");
    }
}

#[test]
fn the_first_blocks_alone_are_a_model_of_them() {
    let mut config = LlamaConfig::tiny(53);
    (config.bos, config.eos) = (None, Vec::new());
    let whole = model(&config, &Device::default());
    let every: Vec<u32> = (0..53).collect();
    let first = whole.pruned(&[0], &every).unwrap();
    let batch = PackedBatch::new(&rows(&[30, 7], 53)).unwrap();
    let all = RecordOptions::default();
    let read = |model: &Llama, options| floats(&model.read(&batch, options).unwrap());
    let expected = read(&first, all);
    assert_eq!(read(&whole, all.with_blocks(1)), expected);
    assert_eq!(
        floats(&whole.record(batch.clone(), all.with_blocks(1)).unwrap().hidden()),
        expected
    );
    assert_ne!(read(&whole, all), expected);
    assert_eq!(read(&whole, all.with_blocks(99)), read(&whole, all));
}

/// The cosine of the angle between two vectors, and how much longer the first is.
fn direction(found: &[f32], expected: &[f32]) -> (f64, f64) {
    let product = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>()
    };
    let norms = [found, expected].map(|vector| product(vector, vector).sqrt());
    (product(found, expected) / (norms[0] * norms[1]), norms[0] / norms[1])
}

/// Rounding to eight bits is off by 0.2 percent a factor at most, and a gradient is a sum of many
/// products, so it keeps its direction and its length. A wrong rule turns it or stretches it.
#[test]
fn rounded_products_give_almost_the_same_gradients() {
    let config = LlamaConfig::tiny(53);
    let device = Device::default();
    let rows = rows(&[40, 30], config.vocab_size);
    let coefficients = vec![1.0 / 68.0; 68];
    let rounding = RecordOptions::default().with_precision(Precision::Bf16);
    for model in [model(&config, &device), adapted(&config, &device)] {
        let exact = written(&model, &rows, &coefficients, RecordOptions::default(), 64);
        let rounded = written(&model, &rows, &coefficients, rounding, 64);
        assert!(distance(&rounded.1, &exact.1) < 0.05);
        assert!(rounded.0.norm() != exact.0.norm(), "nothing was rounded");
        for (name, id) in trained(&model) {
            let [found, expected] =
                [&rounded.0, &exact.0].map(|gradients| floats(gradients.get(id).unwrap()));
            let (cosine, length) = direction(&found, &expected);
            assert!(cosine > 0.997, "{name} is turned: {cosine}");
            assert!((length - 1.0).abs() < 0.03, "{name} is {length} times as long");
        }
    }
}

#[test]
fn what_lies_beside_a_row_changes_nothing() {
    let config = LlamaConfig::tiny(53);
    let model = model(&config, &Device::default());
    let rows = rows(&[12, 12, 5], config.vocab_size);
    let whole = written(&model, &rows, &[0.1; 26], RecordOptions::default(), 64);
    let mut parts = Vec::new();
    let mut norm = Gradients::new();
    for row in &rows {
        let (gradients, log_probs) = written(
            &model,
            std::slice::from_ref(row),
            &vec![0.1; row.len() - 1],
            RecordOptions::default(),
            64,
        );
        parts.extend(log_probs);
        for (id, gradient) in gradients.iter() {
            norm.add(id, gradient.clone());
        }
    }
    assert!(distance(&parts, &whole.1) < 1e-5);
    assert!((norm.norm() / whole.0.norm() - 1.0).abs() < 1e-5);
}
