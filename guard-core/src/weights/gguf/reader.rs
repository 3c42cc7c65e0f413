//! The container: header, key and value pairs, and where the tensors lie.

use std::collections::BTreeMap;
use std::path::Path;

use super::super::encoding::Encoding;
use super::super::error::{GgufFault, WeightsError};
use super::super::file::{DataFile, FileAccess};
use super::super::names::{Rotary, from_gguf};
use super::super::store::{StoredTensor, TensorStore};
use super::metadata::{MAX_VALUES, Metadata, Value};
use crate::config::LlamaConfig;

/// A GGUF file with everything but its weights read.
#[derive(Debug)]
pub(in super::super) struct GgufFile {
    pub(in super::super) config: LlamaConfig,
    pub(in super::super) store: TensorStore,
    metadata: Metadata,
}

/// The numbers that encodings have in files.
pub(super) const TYPES: [(Encoding, u32); 8] = [
    (Encoding::F32, 0),
    (Encoding::F16, 1),
    (Encoding::Q4_0, 2),
    (Encoding::Q4_1, 3),
    (Encoding::Q8_0, 8),
    (Encoding::Q4K, 12),
    (Encoding::Q6K, 14),
    (Encoding::Bf16, 30),
];

/// More tensors or keys than any file has.
const MAX_ENTRIES: u64 = 100_000;

/// Where tensors begin, in bytes, when a file does not say otherwise: at multiples of this.
pub(super) const DEFAULT_ALIGNMENT: usize = 32;

/// The largest header that is read: vocabularies of 256,000 tokens take about 10 MB.
const MAX_HEADER: u64 = 256 << 20;

impl GgufFile {
    pub(in super::super) fn open(path: &Path, access: FileAccess) -> Result<Self, WeightsError> {
        Self::from_data(DataFile::open(path, access)?)
    }

    /// A file whose bytes are part of the program, under a name for errors.
    pub(in super::super) fn from_bytes(
        name: &str,
        bytes: &'static [u8],
    ) -> Result<Self, WeightsError> {
        Self::from_data(DataFile::from_bytes(Path::new(name), bytes))
    }

    fn from_data(file: DataFile) -> Result<Self, WeightsError> {
        let path = &file.path().to_owned();
        let fault = |fault| WeightsError::Gguf { path: path.to_owned(), fault };
        let (metadata, mut tensors) = read_growing(&file)?.map_err(fault)?;
        check_rope_factors(&tensors).map_err(fault)?;
        let factors = read_rope_factors(&file, &mut tensors)?;
        let config = super::model::config(&metadata, &tensors, factors).map_err(fault)?;
        let mut store = TensorStore { files: vec![file], ..TensorStore::default() };
        for (name, entry) in tensors {
            let (hub, tensor) = entry.into_stored(&name, &config).map_err(fault)?;
            if store.tensors.insert(hub.clone(), tensor).is_some() {
                return Err(fault(GgufFault::Duplicate(hub)));
            }
        }
        Ok(Self { config, store, metadata })
    }

    /// A text among the keys.
    pub(in super::super) fn note(&self, key: &str) -> Option<&str> {
        self.metadata.text(key).ok()
    }

    /// The file's vocabulary as the text of a `tokenizer.json`.
    pub(in super::super) fn tokenizer_json(&self) -> Result<String, WeightsError> {
        let path = self.store.files[0].path().to_owned();
        super::tokenizer::tokenizer_json(&self.metadata)
            .map_err(|fault| WeightsError::Gguf { path, fault })
    }
}

/// Reads the header without knowing its length: more and more of the file until it is whole.
fn read_growing(file: &DataFile) -> Result<Result<(Metadata, Entries), GgufFault>, WeightsError> {
    const FIRST: u64 = 4 << 20;
    let mut length = FIRST;
    loop {
        let header = file.read(0..length.min(file.len()))?;
        match read_header(&header, file.len()) {
            Err(GgufFault::Truncated(_) | GgufFault::TooMany { .. })
                if length < file.len().min(MAX_HEADER) =>
            {
                length *= 4;
            }
            result => return Ok(result),
        }
    }
}

/// A tensor as the header describes it.
#[derive(Debug)]
pub(super) struct Entry {
    /// Outermost first, as everywhere but in GGUF files.
    pub(super) shape: Vec<usize>,
    encoding: Encoding,
    start: u64,
    end: u64,
}

impl Entry {
    fn into_stored(
        self,
        name: &str,
        config: &LlamaConfig,
    ) -> Result<(String, StoredTensor), GgufFault> {
        let (hub, rotary) = from_gguf(name);
        let heads = match rotary {
            Rotary::Query => Some(config.heads),
            Rotary::Key => Some(config.kv_heads),
            Rotary::No => None,
        };
        let rows = self.shape[0];
        if let Some(heads) =
            heads.filter(|heads| self.shape.len() != 2 || !rows.is_multiple_of(2 * heads))
        {
            return Err(GgufFault::OutOfRange {
                what: format!("shape of `{name}`"),
                found: format!("{:?}", self.shape),
                expected: format!("rows in {heads} heads of even size"),
            });
        }
        let tensor = StoredTensor {
            shape: self.shape,
            encoding: self.encoding,
            file: 0,
            range: self.start..self.end,
            interleaved_heads: heads,
        };
        Ok((hub, tensor))
    }
}

pub(super) type Entries = BTreeMap<String, Entry>;

pub(super) fn read_header(bytes: &[u8], file_len: u64) -> Result<(Metadata, Entries), GgufFault> {
    let mut cursor = Cursor { bytes, at: 0, values_left: MAX_VALUES };
    if cursor.take("its first four bytes")? != *b"GGUF" {
        return Err(GgufFault::Magic);
    }
    match cursor.u32("the version")? {
        2 | 3 => {}
        other => return Err(GgufFault::Version(other)),
    }
    let tensor_count = cursor.count("tensors")?;
    let key_count = cursor.count("keys")?;
    let mut metadata = Metadata::default();
    for _ in 0..key_count {
        let key = cursor.text("a key")?;
        let value = Value::read(&mut cursor)?;
        if metadata.0.insert(key.clone(), value).is_some() {
            return Err(GgufFault::Duplicate(key));
        }
    }
    let described =
        (0..tensor_count).map(|_| Described::read(&mut cursor)).collect::<Result<Vec<_>, _>>()?;
    let alignment = metadata.size_or("general.alignment", DEFAULT_ALIGNMENT)?;
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(GgufFault::OutOfRange {
            what: "`general.alignment`".to_owned(),
            found: alignment.to_string(),
            expected: "a power of two up to 1048576".to_owned(),
        });
    }
    let data_start = (cursor.at as u64).next_multiple_of(alignment as u64);
    let mut tensors = Entries::new();
    for tensor in described {
        let name = tensor.name.clone();
        if tensors.insert(name.clone(), tensor.place(data_start, file_len)?).is_some() {
            return Err(GgufFault::Duplicate(name));
        }
    }
    check_overlap(&tensors)?;
    Ok((metadata, tensors))
}

/// Refuses tensors that share bytes: a small file could otherwise hold a large model.
fn check_overlap(tensors: &Entries) -> Result<(), GgufFault> {
    let mut places: Vec<(u64, u64, &str)> =
        tensors.iter().map(|(name, entry)| (entry.start, entry.end, name.as_str())).collect();
    places.sort_unstable();
    match places.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        Some(pair) => Err(GgufFault::OutOfRange {
            what: format!("place of `{}`", pair[1].2),
            found: format!("bytes of `{}`", pair[0].2),
            expected: "bytes of its own".to_owned(),
        }),
        None => Ok(()),
    }
}

/// What the header says about a tensor, not yet checked against the file.
struct Described {
    name: String,
    shape: Vec<usize>,
    encoding: Encoding,
    offset: u64,
}

impl Described {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, GgufFault> {
        const WHAT: &str = "a tensor";
        let name = cursor.text(WHAT)?;
        let dimensions = cursor.u32(WHAT)?;
        if !(1..=4).contains(&dimensions) {
            return Err(GgufFault::OutOfRange {
                what: format!("dimensions of `{name}`"),
                found: dimensions.to_string(),
                expected: "from 1 to 4".to_owned(),
            });
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let size = cursor.u64(WHAT)?;
            shape.push(usize::try_from(size).map_err(|_| out_of_file(&name))?);
        }
        shape.reverse();
        let encoding = encoding(&name, cursor.u32(WHAT)?)?;
        Ok(Self { name, shape, encoding, offset: cursor.u64(WHAT)? })
    }

    /// Where the tensor lies in the file, if it does.
    fn place(self, data_start: u64, file_len: u64) -> Result<Entry, GgufFault> {
        let columns = self.shape.last().copied().unwrap_or(0);
        let rows = self.shape.iter().rev().skip(1).try_fold(1_usize, |a, &b| a.checked_mul(b));
        if !self.encoding.fits(columns) {
            return Err(GgufFault::OutOfRange {
                what: format!("columns of `{}`", self.name),
                found: columns.to_string(),
                expected: format!("a multiple of {}", self.encoding.block_len()),
            });
        }
        let place = || {
            let row_bytes = self.encoding.row_bytes(columns)?;
            let bytes = u64::try_from(rows?.checked_mul(row_bytes)?).ok()?;
            let start = data_start.checked_add(self.offset)?;
            let end = start.checked_add(bytes)?;
            (bytes > 0 && end <= file_len).then_some((start, end))
        };
        let (start, end) = place().ok_or_else(|| out_of_file(&self.name))?;
        Ok(Entry { shape: self.shape, encoding: self.encoding, start, end })
    }
}

fn out_of_file(name: &str) -> GgufFault {
    GgufFault::OutOfRange {
        what: format!("place of `{name}`"),
        found: "beyond the end of the file, or empty".to_owned(),
        expected: "within the file".to_owned(),
    }
}

fn encoding(name: &str, kind: u32) -> Result<Encoding, GgufFault> {
    let known = TYPES.iter().find(|(_, number)| *number == kind);
    known.map(|(encoding, _)| *encoding).ok_or_else(|| GgufFault::Type {
        what: format!("tensor `{name}`"),
        found: format!("ggml type {kind}"),
        expected: "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K or Q6_K",
    })
}

/// The tensor that holds rotary factors.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Refuses more rotary factors than any head has, before they are read.
fn check_rope_factors(tensors: &Entries) -> Result<(), GgufFault> {
    const LIMIT: usize = 1 << 16;
    let count = tensors.get(ROPE_FACTORS).map_or(0, |entry| entry.shape.iter().product());
    if count <= LIMIT {
        return Ok(());
    }
    Err(GgufFault::TooMany { what: "rotary factors", found: count as u64, limit: LIMIT as u64 })
}

/// Takes the rotary factors, which are configuration, out of the tensors.
fn read_rope_factors(
    file: &DataFile,
    tensors: &mut Entries,
) -> Result<Option<Vec<f64>>, WeightsError> {
    let Some(entry) = tensors.remove(ROPE_FACTORS) else { return Ok(None) };
    let mut factors: Vec<f32> = Vec::new();
    entry.encoding.decode(&file.read(entry.start..entry.end)?, &mut factors);
    Ok(Some(factors.into_iter().map(f64::from).collect()))
}

/// Reads forward through bytes and never past their end.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// How many values in arrays may still come.
    pub(super) values_left: u64,
}

impl Cursor<'_> {
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn take<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], GgufFault> {
        let bytes = self.bytes[self.at..].first_chunk().ok_or(GgufFault::Truncated(what))?;
        self.at += N;
        Ok(*bytes)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufFault> {
        self.take(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufFault> {
        self.take(what).map(u64::from_le_bytes)
    }

    pub(super) fn text(&mut self, what: &'static str) -> Result<String, GgufFault> {
        let length = usize::try_from(self.u64(what)?).map_err(|_| GgufFault::Truncated(what))?;
        let bytes = self.bytes[self.at..].get(..length).ok_or(GgufFault::Truncated(what))?;
        self.at += length;
        let text = std::str::from_utf8(bytes).map_err(|_| GgufFault::Text(what))?;
        Ok(text.to_owned())
    }

    fn count(&mut self, what: &'static str) -> Result<u64, GgufFault> {
        match self.u64(what)? {
            found if found > MAX_ENTRIES => {
                Err(GgufFault::TooMany { what, found, limit: MAX_ENTRIES })
            }
            count => Ok(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Matrices of three rows in each encoding, and the values that the gguf package of Python has of these
    /// blocks, which it made.
    fn quants() -> (TensorStore, BTreeMap<String, Vec<f32>>) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/gguf");
        let file = DataFile::open(&folder.join("quants.gguf"), FileAccess::Mapped).unwrap();
        let (_, entries) = read_growing(&file).unwrap().unwrap();
        let stored = |entry: &Entry| StoredTensor {
            shape: entry.shape.clone(),
            encoding: entry.encoding,
            file: 0,
            range: entry.start..entry.end,
            interleaved_heads: None,
        };
        let tensors = entries.iter().map(|(name, entry)| (name.clone(), stored(entry))).collect();
        let expected = std::fs::read(folder.join("quants.safetensors")).unwrap();
        let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
        let floats = |bytes: &[u8]| {
            bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect()
        };
        let expected = expected.iter().map(|(name, view)| (name.to_owned(), floats(view.data())));
        (TensorStore { files: vec![file], tensors }, expected.collect())
    }

    /// That values are those of the reference, but for a share of the largest.
    fn assert_near(name: &str, found: &[f32], expected: &[f32], share: f32) {
        let scale = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(expected) {
            assert!((found - expected).abs() <= share * scale, "{name}: {found} {expected}");
        }
    }

    #[test]
    fn every_encoding_is_decoded_as_the_reference_does() {
        let (store, expected) = quants();
        assert_eq!(store.tensors.len(), 8);
        for (name, tensor) in &store.tensors {
            let found = store.read::<f32>(tensor).unwrap();
            assert_near(name, &found, &expected[name], 1e-6);
        }
    }

    /// Of sub-blocks of `Q4_K` the scale and the minimum are rounded to 16 bits, and `Q6_K` to steps of 8.
    #[cfg(feature = "flex")]
    #[test]
    fn every_encoding_is_packed_as_the_reference_decodes_it() {
        use super::super::super::{LoadOptions, packed::Stored};

        let (store, expected) = quants();
        let stored = Stored { store: &store, options: LoadOptions::default() };
        for (name, expected) in &expected {
            let matrix = stored.matrix(name).unwrap();
            let mut found = vec![f32::NAN; expected.len()];
            for (output, row) in found.chunks_exact_mut(256).enumerate() {
                matrix.row(output, row);
            }
            let share = match store.tensors[name].encoding {
                Encoding::Q4K => 1e-3,
                Encoding::Q6K => 4e-3,
                _ => 1e-6,
            };
            assert_near(name, &found, expected, share);
        }
    }

    /// Every byte of a real header, each with the values that make lengths and sizes overflow.
    #[test]
    fn a_header_with_any_byte_changed_is_read_or_refused() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/gguf/quants.gguf");
        let mut bytes = std::fs::read(path).unwrap();
        let file_len = bytes.len() as u64;
        bytes.truncate(4096);
        for at in 0..bytes.len() {
            let original = bytes[at];
            for value in [0, 1, 0x3f, 0x7f, 0x80, 0xff] {
                bytes[at] = value;
                let _ = read_header(&bytes, file_len);
            }
            bytes[at] = original;
        }
    }

    /// Two tensors on the same bytes: a small file that holds a large model.
    #[test]
    fn tensors_have_bytes_of_their_own() {
        let header = |offset: u64| {
            let mut header = b"GGUF\x03\0\0\0".to_vec();
            header.extend(2_u64.to_le_bytes());
            header.extend(0_u64.to_le_bytes());
            for (name, offset) in [(b'a', 0), (b'b', offset)] {
                header.extend(1_u64.to_le_bytes());
                header.push(name);
                header.extend(1_u32.to_le_bytes());
                header.extend(8_u64.to_le_bytes());
                header.extend(0_u32.to_le_bytes());
                header.extend(offset.to_le_bytes());
            }
            header
        };
        assert!(read_header(&header(32), 1000).is_ok());
        let fault = read_header(&header(16), 1000).unwrap_err().to_string();
        assert!(fault.contains("place of `b`") && fault.contains("bytes of `a`"), "{fault}");
    }

    /// Many arrays of single bytes, each within bounds: memory is bounded by all of them together.
    #[test]
    fn arrays_share_one_budget() {
        let bytes_each = 1 << 20;
        let mut header = b"GGUF\x03\0\0\0".to_vec();
        header.extend(0_u64.to_le_bytes());
        header.extend(5_u64.to_le_bytes());
        for name in b'a'..b'f' {
            header.extend(1_u64.to_le_bytes());
            header.push(name);
            header.extend(9_u32.to_le_bytes());
            header.extend(0_u32.to_le_bytes());
            header.extend((bytes_each as u64).to_le_bytes());
            header.resize(header.len() + bytes_each, 0);
        }
        let fault = read_header(&header, header.len() as u64).unwrap_err();
        assert!(matches!(fault, GgufFault::TooMany { found: 0x10_0000, limit: 0, .. }), "{fault}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = read_header(&bytes, bytes.len() as u64);
            let headed = [b"GGUF\x03\0\0\0".as_slice(), &bytes].concat();
            let _ = read_header(&headed, headed.len() as u64);
        }
    }
}
