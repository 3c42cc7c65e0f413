//! From tensors on burn's `flex` backend to slices, and back.

use burn::backend::Flex;
use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType, Shape, Tensor};

use super::matvec::{MAX_ROWS, matvec};
use super::swiglu::swiglu as swiglu_slices;

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

pub(super) fn swiglu(gate: &Tensor<2>, up: &Tensor<2>) -> Option<Tensor<2>> {
    let shape = gate.dims();
    let (gate, up) = (floats(gate)?, floats(up)?);
    let mut output = vec![0.0; shape[0] * shape[1]];
    swiglu_slices(gate.as_slice()?, up.as_slice()?, &mut output);
    Some(tensor(output, shape))
}

/// Whether the tensor lies on `flex` and no gradient is wanted.
pub(super) fn holds(tensor: &Tensor<1>) -> bool {
    tensor.clone().try_into_primitive::<Flex>().is_ok()
}

/// The tensor's memory, if it lies on `flex` as contiguous floats of 32 bits and no gradient
/// is wanted.
fn floats(tensor: &Tensor<2>) -> Option<FlexTensor> {
    let primitive = tensor.clone().try_into_primitive::<Flex>().ok()?;
    (primitive.dtype() == DType::F32 && primitive.is_contiguous()).then_some(primitive)
}

fn tensor(values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
    let layout = Layout::contiguous(Shape::new(shape));
    Tensor::from_primitive::<Flex>(FlexTensor::new(Bytes::from_elems(values), layout, DType::F32))
}
