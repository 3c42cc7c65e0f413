//! Writing a model as one GGUF file, its matrices packed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::panic::resume_unwind;
use std::path::Path;
use std::str::FromStr;

use half::f16;

use super::super::encoding::Encoding;
use super::super::error::{GgufFault, WeightsError};
use super::super::names::{EMBEDDING, HEAD, Rotary, to_gguf};
use super::super::tensor_file::{NamedTensor, atomically};
use super::metadata::{Value, write_text};
use super::reader::{DEFAULT_ALIGNMENT, ROPE_FACTORS, TYPES};
use super::vocabulary;
use crate::config::{LlamaConfig, RopeScaling};
use crate::model::{Llama, scaled};
use crate::tokenizer::Tokenizer;

/// How a GGUF file stores matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GgufType {
    /// 32-bit floats.
    F32,
    /// 16-bit IEEE floats.
    F16,
    /// 16-bit brain floats.
    Bf16,
    /// Blocks of 32: a 16-bit scale and 8-bit integers; 8.5 bits a weight.
    Q8_0,
    /// Blocks of 32: a 16-bit scale and minimum, and 4-bit integers; 5 bits a weight.
    Q4_1,
    /// Blocks of 32: a 16-bit scale and 4-bit integers around 8; 4.5 bits a weight.
    Q4_0,
}

impl GgufType {
    /// All types, the largest first.
    pub const ALL: [Self; 6] =
        [Self::F32, Self::F16, Self::Bf16, Self::Q8_0, Self::Q4_1, Self::Q4_0];

    fn encoding(self) -> Encoding {
        match self {
            Self::F32 => Encoding::F32,
            Self::F16 => Encoding::F16,
            Self::Bf16 => Encoding::Bf16,
            Self::Q8_0 => Encoding::Q8_0,
            Self::Q4_1 => Encoding::Q4_1,
            Self::Q4_0 => Encoding::Q4_0,
        }
    }
}

impl fmt::Display for GgufType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_1 => "q4_1",
            Self::Q4_0 => "q4_0",
        })
    }
}

/// A word that names no type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown type `{0}`: expected `f32`, `f16`, `bf16`, `q8_0`, `q4_1` or `q4_0`")]
pub struct UnknownGgufType(pub String);

impl FromStr for GgufType {
    type Err = UnknownGgufType;

    fn from_str(word: &str) -> Result<Self, UnknownGgufType> {
        let known = Self::ALL.into_iter().find(|known| known.to_string() == word);
        known.ok_or_else(|| UnknownGgufType(word.to_owned()))
    }
}

/// How a GGUF file is written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GgufOptions {
    /// The matrices of the blocks. Norms are always 32-bit floats.
    pub matrices: GgufType,
    /// The embedding matrix and the head.
    pub embedding: GgufType,
    /// Texts under keys of one's own, which other readers pass over.
    pub notes: BTreeMap<String, String>,
}

impl GgufOptions {
    /// All matrices in this type.
    #[must_use]
    pub fn new(matrices: GgufType) -> Self {
        Self { matrices, embedding: matrices, notes: BTreeMap::new() }
    }

    /// The same options with another type of the embedding matrix and the head.
    #[must_use]
    pub fn with_embedding(mut self, embedding: GgufType) -> Self {
        self.embedding = embedding;
        self
    }

    /// The same options with a text under a key, such as `guard.settings`.
    #[must_use]
    pub fn with_note(mut self, key: impl Into<String>, text: impl Into<String>) -> Self {
        self.notes.insert(key.into(), text.into());
        self
    }

    fn encoding(&self, tensor: &NamedTensor) -> Encoding {
        match tensor.name.as_str() {
            _ if tensor.shape.len() < 2 => Encoding::F32,
            EMBEDDING | HEAD => self.embedding.encoding(),
            _ => self.matrices.encoding(),
        }
    }
}

impl Llama {
    /// Writes the model and its tokenizer as one GGUF file, which appears whole or not at all.
    /// Adapters are merged into the weights.
    ///
    /// # Errors
    ///
    /// [`WeightsError`] when the file cannot be written, a matrix is not as wide as whole blocks of
    /// its type, a weight is not finite or too large for it, the model has no end token, or the
    /// tokenizer is one that GGUF has no words for.
    pub fn save_gguf(
        &self,
        path: impl AsRef<Path>,
        tokenizer: &Tokenizer,
        options: &GgufOptions,
    ) -> Result<(), WeightsError> {
        if self.has_adapters() {
            return self.clone().merge_adapters().save_gguf(path, tokenizer, options);
        }
        let path = path.as_ref();
        let fault = |fault| WeightsError::Gguf { path: path.to_owned(), fault };
        let config = self.config();
        let mut metadata = shape(config);
        metadata.extend(vocabulary::pairs(tokenizer, config).map_err(fault)?);
        metadata.extend(options.notes.iter().map(|(k, v)| (k.as_str(), Value::Text(v.clone()))));
        let tensors = self.named_tensors();
        let stored: Vec<Stored<'_>> = tensors
            .iter()
            .map(|tensor| Stored::new(tensor, config, options.encoding(tensor)))
            .collect::<Result<_, _>>()
            .map_err(fault)?;
        let factors = rope_factors(config);
        atomically(path, |scratch| {
            let io = |source| WeightsError::io("write", path, source);
            let mut file = BufWriter::new(File::create(scratch).map_err(io)?);
            file.write_all(&header(&metadata, &stored, &factors)).map_err(io)?;
            if !factors.is_empty() {
                let bytes: Vec<u8> = factors.iter().flat_map(|value| value.to_le_bytes()).collect();
                write_padded(&mut file, &bytes).map_err(io)?;
            }
            for tensor in &stored {
                write_padded(&mut file, &tensor.encode(path)?).map_err(io)?;
            }
            file.flush().map_err(io)
        })
    }
}

fn write_padded(file: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    file.write_all(bytes)?;
    file.write_all(&vec![0; padding(bytes.len())])
}

fn padding(bytes: usize) -> usize {
    bytes.next_multiple_of(DEFAULT_ALIGNMENT) - bytes
}

/// A tensor and how it is to lie in the file.
struct Stored<'a> {
    tensor: &'a NamedTensor,
    name: String,
    encoding: Encoding,
    columns: usize,
    bytes: usize,
    /// Heads whose rows are interleaved.
    heads: Option<usize>,
}

impl<'a> Stored<'a> {
    fn new(
        tensor: &'a NamedTensor,
        config: &LlamaConfig,
        encoding: Encoding,
    ) -> Result<Self, GgufFault> {
        let (name, rotary) =
            to_gguf(&tensor.name).ok_or_else(|| GgufFault::Missing(tensor.name.clone()))?;
        let columns = tensor.shape.last().copied().unwrap_or(1);
        let row_bytes = encoding.row_bytes(columns).filter(|_| encoding.fits(columns));
        let row_bytes = row_bytes.ok_or_else(|| GgufFault::OutOfRange {
            what: format!("columns of `{name}`"),
            found: columns.to_string(),
            expected: format!("a multiple of {}", encoding.block_len()),
        })?;
        let rows = tensor.shape.iter().rev().skip(1).product::<usize>();
        let heads = match rotary {
            Rotary::Query => Some(config.heads),
            Rotary::Key => Some(config.kv_heads),
            Rotary::No => None,
        };
        Ok(Self { tensor, name, encoding, columns, bytes: rows * row_bytes, heads })
    }

    /// The bytes of the tensor. Of a head's two halves, the rows take turns.
    fn encode(&self, path: &Path) -> Result<Vec<u8>, WeightsError> {
        let values = self.tensor.values.clone().try_into_vec_as::<f32>();
        let values = values.map_err(|error| WeightsError::Device {
            tensor: self.tensor.name.clone(),
            source: format!("{error:?}").into(),
        })?;
        self.check(path, &values)?;
        let rows = values.len() / self.columns;
        let encode = &|places: Range<usize>| {
            let mut out = Vec::with_capacity(places.len() * (self.bytes / rows.max(1)));
            for place in places {
                let source = self.source_row(place, rows);
                let row = &values[source * self.columns..(source + 1) * self.columns];
                self.encoding.encode(row, &mut out);
            }
            out
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = rows.div_ceil(threads).max(1);
        let shares = (0..rows).step_by(share).map(|start| start..rows.min(start + share));
        let encoded: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let running: Vec<_> = shares.map(|rows| scope.spawn(move || encode(rows))).collect();
            let ended = running.into_iter().map(|thread| thread.join());
            ended.map(|part| part.unwrap_or_else(|panic| resume_unwind(panic))).collect()
        });
        Ok(encoded.concat())
    }

    /// The row of the hub's order that stands at this place of the file.
    fn source_row(&self, row: usize, rows: usize) -> usize {
        let Some(heads) = self.heads else { return row };
        let head_dim = rows / heads;
        let (head, within) = (row / head_dim, row % head_dim);
        head * head_dim + within % 2 * (head_dim / 2) + within / 2
    }

    /// Refuses weights that would come back as something else.
    fn check(&self, path: &Path, values: &[f32]) -> Result<(), WeightsError> {
        let largest = match self.encoding {
            Encoding::F32 | Encoding::Bf16 => f32::MAX,
            _ => f16::MAX.to_f32(),
        };
        match values.iter().find(|value| value.abs() > largest || !value.is_finite()) {
            None => Ok(()),
            Some(&value) => Err(WeightsError::Unrepresentable {
                path: path.to_owned(),
                tensor: self.tensor.name.clone(),
                value,
                kind: format!("{:?}", self.encoding),
            }),
        }
    }
}

/// The keys that describe the shape of the model.
fn shape(config: &LlamaConfig) -> Vec<(&'static str, Value)> {
    let size = |size: usize| Value::Unsigned(size as u64);
    let mut pairs = vec![
        ("general.architecture", Value::Text("llama".to_owned())),
        ("general.quantization_version", Value::Unsigned(2)),
        ("llama.vocab_size", size(config.vocab_size)),
        ("llama.context_length", size(config.max_positions)),
        ("llama.embedding_length", size(config.hidden_size)),
        ("llama.block_count", size(config.layers)),
        ("llama.feed_forward_length", size(config.intermediate_size)),
        ("llama.attention.head_count", size(config.heads)),
        ("llama.attention.head_count_kv", size(config.kv_heads)),
        ("llama.attention.key_length", size(config.head_dim)),
        ("llama.attention.value_length", size(config.head_dim)),
        ("llama.rope.dimension_count", size(config.head_dim)),
        ("llama.rope.freq_base", Value::Float(config.rope.theta)),
        ("llama.attention.layer_norm_rms_epsilon", Value::Float(config.rms_norm_eps)),
    ];
    if let RopeScaling::Linear { factor } = config.rope.scaling {
        pairs.push(("llama.rope.scaling.type", Value::Text("linear".to_owned())));
        pairs.push(("llama.rope.scaling.factor", Value::Float(factor)));
    }
    pairs
}

/// By what each frequency is divided, for scalings that the keys cannot express.
fn rope_factors(config: &LlamaConfig) -> Vec<f32> {
    let scaling = &config.rope.scaling;
    if matches!(scaling, RopeScaling::None | RopeScaling::Linear { .. }) {
        return Vec::new();
    }
    let factor = |pair: usize| {
        let frequency = config.rope.theta.powf(-((2 * pair) as f64) / config.head_dim as f64);
        (frequency / scaled(frequency, pair, scaling)) as f32
    };
    (0..config.head_dim / 2).map(factor).collect()
}

/// Everything before the tensors, padded.
fn header(metadata: &[(&str, Value)], tensors: &[Stored<'_>], factors: &[f32]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    let extra = usize::from(!factors.is_empty());
    out.extend(((tensors.len() + extra) as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        write_text(key, &mut out);
        value.write(&mut out);
    }
    let mut offset = 0;
    let mut describe = |name: &str, shape: &[usize], encoding: Encoding, bytes: usize| {
        write_text(name, &mut out);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|&size| out.extend((size as u64).to_le_bytes()));
        let number = TYPES.iter().find(|(known, _)| *known == encoding).map_or(0, |(_, n)| *n);
        out.extend(number.to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += bytes + padding(bytes);
    };
    if extra > 0 {
        describe(ROPE_FACTORS, &[factors.len()], Encoding::F32, size_of_val(factors));
    }
    for Stored { tensor, name, encoding, bytes, .. } in tensors {
        describe(name, &tensor.shape, *encoding, *bytes);
    }
    out.resize(out.len() + padding(out.len()), 0);
    out
}
