//! From tensors on burn's `flex` backend to slices, and back.

use std::ops::Range;

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape, Tensor};

use super::attention::{self as causal, Attended, Derivatives, Row, Sizes};
use super::bf16::{self, Parts};
use super::matvec::{MAX_ROWS, matvec};
use super::product::{self as matrices, Matrix, Output};
use super::{Attending, Before};
use super::{head, norm, optimizer, swiglu as gate};
use crate::model::{AdamWStep, Moments, Precision};

pub(super) fn project_few(input: &Tensor<2>, weight: &Tensor<2>) -> Option<Tensor<2>> {
    let [rows, _] = input.dims();
    let [outputs, _] = weight.dims();
    if rows == 0 || rows > MAX_ROWS {
        return None;
    }
    let (input, weight) = (floats(input)?, floats(weight)?);
    let mut output = vec![0.0; rows * outputs];
    matvec(input.as_slice()?, weight.as_slice()?, rows, &mut output);
    Some(tensor(output, [rows, outputs]))
}

/// A product of matrices of whatever strides.
pub(super) fn product(precision: Precision, a: &Tensor<2>, b: &Tensor<2>) -> Option<Tensor<2>> {
    let (left, right) = (strided(a)?, strided(b)?);
    let ([rows, inner], [again, columns]) = (a.dims(), b.dims());
    if inner != again {
        return None;
    }
    let (left, right) = (matrix(&left)?, matrix(&right)?);
    let output = match parts_of(precision) {
        None => matrices::product(left, right),
        Some(parts) => bf16::product(parts, left, right),
    };
    Some(tensor(output, [rows, columns]))
}

/// As [`product`], in the memory of `output` where nobody else holds it.
pub(super) fn product_into(
    precision: Precision,
    [a, b]: [&Tensor<2>; 2],
    output: Tensor<1>,
    before: Before,
) -> Result<Tensor<1>, Tensor<1>> {
    let (Some(left), Some(right)) = (strided(a), strided(b)) else { return Err(output) };
    let (Some(left), Some(right)) = (matrix(&left), matrix(&right)) else { return Err(output) };
    let ([rows, inner], [again, columns]) = (a.dims(), b.dims());
    if inner != again || output.dims() != [rows * columns] {
        return Err(output);
    }
    let [mut owned] = own([output]).map_err(|[output]| output)?;
    let values = Output::of(owned.storage_mut());
    match parts_of(precision) {
        None => matrices::shared(left, right, values, before),
        Some(parts) => bf16::multiply(parts, left, right, values, before),
    }
    Ok(Tensor::from_primitive::<Flex>(owned))
}

/// The brain floats in which factors are written, if they are.
fn parts_of(precision: Precision) -> Option<Parts> {
    match precision {
        Precision::F32 => None,
        Precision::Bf16 => Some(Parts::One),
        Precision::Bf16x3 => Some(Parts::Two),
    }
}

fn matrix(tensor: &FlexTensor) -> Option<Matrix<'_>> {
    let layout = tensor.layout();
    let (shape, strides) = (layout.shape(), layout.strides());
    let stride = |at: usize| usize::try_from(strides[at]).ok();
    let values = tensor.storage::<f32>().get(layout.start_offset()..)?;
    Matrix::new(values, [shape[0], shape[1]], [stride(0)?, stride(1)?])
}

pub(super) fn attention(
    attending: &Attending,
    [query, key, value]: [&Tensor<2>; 3],
) -> Option<(Tensor<2>, Vec<f32>)> {
    let shape = query.dims();
    let [query, key, value] = [floats(query)?, floats(key)?, floats(value)?];
    let (query, key, value) = (query.as_slice()?, key.as_slice()?, value.as_slice()?);
    let mut output = vec![0.0; shape[0] * shape[1]];
    let mut log_sums = Vec::with_capacity(shape[0] * attending.heads);
    for part in parts(attending) {
        let row = part.row(query, key, value);
        log_sums.extend(causal::forward(part.sizes, row, &mut output[part.queries()]));
    }
    Some((tensor(output, shape), log_sums))
}

pub(super) fn attention_backward(
    attending: &Attending,
    [query, key, value]: [&Tensor<2>; 3],
    output: &Tensor<2>,
    log_sums: &[f32],
    derivative: &Tensor<2>,
) -> Option<[Tensor<2>; 3]> {
    let shapes = [query.dims(), key.dims(), value.dims()];
    let [query, key, value] = [floats(query)?, floats(key)?, floats(value)?];
    let (query, key, value) = (query.as_slice()?, key.as_slice()?, value.as_slice()?);
    let (output, derivative) = (floats(output)?, floats(derivative)?);
    let (output, derivative) = (output.as_slice::<f32>()?, derivative.as_slice::<f32>()?);
    let [mut d_query, mut d_key, mut d_value] = shapes.map(|[rows, wide]| vec![0.0; rows * wide]);
    for part in parts(attending) {
        let (queries, keys) = (part.queries(), part.keys());
        let attended = Attended {
            output: &output[queries.clone()],
            derivative: &derivative[queries.clone()],
            log_sums: &log_sums[part.log_sums()],
        };
        let mut derivatives = Derivatives {
            query: &mut d_query[queries],
            key: &mut d_key[keys.clone()],
            value: &mut d_value[keys],
        };
        causal::backward(part.sizes, part.row(query, key, value), attended, &mut derivatives);
    }
    let [by_query, by_key, by_value] = shapes;
    Some([tensor(d_query, by_query), tensor(d_key, by_key), tensor(d_value, by_value)])
}

/// A row of a packed batch.
struct Part {
    start: usize,
    sizes: Sizes,
}

fn parts(attending: &Attending) -> impl Iterator<Item = Part> {
    let &Attending { heads, kv_heads, head_dim, .. } = attending;
    attending.rows.iter().map(move |&(start, width)| Part {
        start,
        sizes: Sizes { width, heads, kv_heads, head_dim },
    })
}

impl Part {
    fn places(&self, wide: usize) -> Range<usize> {
        self.start * wide..(self.start + self.sizes.width) * wide
    }

    fn queries(&self) -> Range<usize> {
        self.places(self.sizes.heads * self.sizes.head_dim)
    }

    fn keys(&self) -> Range<usize> {
        self.places(self.sizes.kv_heads * self.sizes.head_dim)
    }

    fn log_sums(&self) -> Range<usize> {
        self.places(self.sizes.heads)
    }

    fn row<'a>(&self, query: &'a [f32], key: &'a [f32], value: &'a [f32]) -> Row<'a> {
        Row { query: &query[self.queries()], key: &key[self.keys()], value: &value[self.keys()] }
    }
}

pub(super) fn swiglu(gate: &Tensor<2>, up: &Tensor<2>) -> Option<Tensor<2>> {
    let shape = gate.dims();
    let (left, right) = (floats(gate)?, floats(up)?);
    let mut output = vec![0.0; shape[0] * shape[1]];
    gate::swiglu(left.as_slice()?, right.as_slice()?, &mut output);
    Some(tensor(output, shape))
}

/// Works in the memory of `gate` and `up` where nobody else holds it.
pub(super) fn swiglu_backward(
    gate: Tensor<2>,
    up: Tensor<2>,
    derivative: &Tensor<2>,
) -> Result<[Tensor<2>; 2], [Tensor<2>; 2]> {
    let Some(derivative) = floats(derivative) else { return Err([gate, up]) };
    let [mut d_gate, mut d_up] = own([gate, up])?;
    let Some(derivative) = derivative.as_slice() else {
        return Err([d_gate, d_up].map(Tensor::from_primitive::<Flex>));
    };
    gate::swiglu_backward(d_gate.storage_mut(), d_up.storage_mut(), derivative);
    Ok([d_gate, d_up].map(Tensor::from_primitive::<Flex>))
}

pub(super) fn rms_norm_backward(
    x: &Tensor<2>,
    gamma: &Tensor<1>,
    derivative: &Tensor<2>,
    epsilon: f32,
) -> Option<(Tensor<2>, Tensor<1>)> {
    let shape = x.dims();
    let (x, gamma, derivative) = (floats(x)?, floats(gamma)?, floats(derivative)?);
    let mut d_x = vec![0.0; shape[0] * shape[1]];
    let (x, gamma, derivative) = (x.as_slice()?, gamma.as_slice()?, derivative.as_slice()?);
    let d_gamma = norm::rms_norm_backward(x, gamma, derivative, epsilon, &mut d_x);
    Some((tensor(d_x, shape), tensor(d_gamma, [shape[1]])))
}

pub(super) fn log_sum_and_target(logits: &Tensor<2>, targets: &[u32]) -> Option<Vec<(f32, f32)>> {
    Some(head::log_sum_and_target(floats(logits)?.as_slice()?, targets))
}

/// Works in the memory of the logits, or hands them back.
pub(super) fn d_logits(
    logits: Tensor<2>,
    log_sums: &[f32],
    targets: &[u32],
    coefficients: &[f32],
) -> Result<Tensor<2>, Tensor<2>> {
    let [mut values] = own([logits]).map_err(|[logits]| logits)?;
    head::d_logits(values.storage_mut(), log_sums, targets, coefficients);
    Ok(Tensor::from_primitive::<Flex>(values))
}

pub(super) fn square_sum(values: &Tensor<1>) -> Option<f64> {
    Some(optimizer::square_sum(floats(values)?.as_slice()?))
}

/// Works in the memory of weight and moments, or hands them back.
pub(super) fn adamw(
    step: AdamWStep,
    weight: Tensor<1>,
    gradient: &Tensor<1>,
    moments: Moments,
) -> Result<(Tensor<1>, Moments), (Tensor<1>, Moments)> {
    let together = |[weight, mean, square]: [Tensor<1>; 3]| (weight, Moments { mean, square });
    let Some(gradient) = floats(gradient) else { return Err((weight, moments)) };
    let tensors = [weight, moments.mean, moments.square];
    let [mut weight, mut mean, mut square] = own(tensors).map_err(together)?;
    if let Some(gradient) = gradient.as_slice() {
        let (means, squares) = (mean.storage_mut(), square.storage_mut());
        optimizer::adamw(step, weight.storage_mut(), gradient, means, squares);
        return Ok(together([weight, mean, square].map(Tensor::from_primitive::<Flex>)));
    }
    Err(together([weight, mean, square].map(Tensor::from_primitive::<Flex>)))
}

/// The memory of tensors that are to be changed, if [`floats`] serves all of them and they are
/// all of their memory; else the tensors as they were.
fn own<const D: usize, const N: usize>(
    tensors: [Tensor<D>; N],
) -> Result<[FlexTensor; N], [Tensor<D>; N]> {
    let fits = |tensor: &Tensor<D>| {
        let held = floats(tensor);
        held.is_some_and(|held| {
            held.as_slice::<f32>().is_some_and(|all| all.len() == held.storage::<f32>().len())
        })
    };
    if !tensors.iter().all(fits) {
        return Err(tensors);
    }
    let backup = tensors.clone();
    let mut owned = Vec::with_capacity(N);
    for tensor in tensors {
        owned.extend(tensor.try_into_primitive::<Flex>());
    }
    owned.try_into().map_err(|_| backup)
}

/// Whether the tensor lies on `flex` and no gradient is wanted.
pub(super) fn holds(tensor: &Tensor<1>) -> bool {
    tensor.clone().try_into_primitive::<Flex>().is_ok()
}

/// The tensor's memory, if it lies on `flex` as contiguous floats of 32 bits and no gradient
/// is wanted.
fn floats<const D: usize>(tensor: &Tensor<D>) -> Option<FlexTensor> {
    let primitive = tensor.clone().try_into_primitive::<Flex>().ok()?;
    (primitive.dtype() == DType::F32 && primitive.is_contiguous()).then_some(primitive)
}

/// As [`floats`], whatever its strides.
fn strided<const D: usize>(tensor: &Tensor<D>) -> Option<FlexTensor> {
    let primitive = tensor.clone().try_into_primitive::<Flex>().ok()?;
    (primitive.dtype() == DType::F32).then_some(primitive)
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    let layout = Layout::contiguous(Shape::new(shape));
    Tensor::from_primitive::<Flex>(FlexTensor::new(Bytes::from_elems(values), layout, DType::F32))
}
