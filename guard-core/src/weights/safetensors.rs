//! Reading safetensors files, single or sharded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use ::safetensors::tensor::{Metadata, TensorInfo};
use ::safetensors::{Dtype, SafeTensorError};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::encoding::Encoding;
use super::error::{SafetensorsFault, ShardIndexFault, WeightsError};
use super::file::{DataFile, FileAccess, read_small_file};
use super::store::{StoredTensor, TensorStore};

/// More tensors than any LLaMA has, few enough to read their names at once.
const MAX_TENSORS: usize = 100_000;

/// Reads the headers of one file.
pub(super) fn open(path: &Path, access: FileAccess) -> Result<TensorStore, WeightsError> {
    let mut store = TensorStore::default();
    add_file(&mut store, path, access)?;
    Ok(store)
}

/// Reads the headers of all shards that an index names.
pub(super) fn open_sharded(
    index_path: &Path,
    access: FileAccess,
) -> Result<TensorStore, WeightsError> {
    let fault = |fault| WeightsError::ShardIndex { path: index_path.to_owned(), fault };
    let index: ShardIndex =
        serde_json::from_str(&read_small_file(index_path)?).map_err(|e| fault(e.into()))?;
    let names: BTreeSet<&String> = index.weight_map.values().collect();
    let shards = names.into_iter().map(|shard| Ok((shard, shard_path(index_path, shard)?)));
    // No file is opened before all names are known to be harmless.
    let shards = shards.collect::<Result<Vec<_>, _>>().map_err(fault)?;
    let mut store = TensorStore::default();
    for (shard, path) in shards {
        let before: BTreeSet<String> = store.tensors.keys().cloned().collect();
        add_file(&mut store, &path, access)?;
        let held = store.tensors.keys().filter(|name| !before.contains(*name));
        if let Some(tensor) =
            held.into_iter().find(|name| index.weight_map.get(*name) != Some(shard))
        {
            let (tensor, shard) = (tensor.clone(), shard.clone());
            return Err(fault(ShardIndexFault::TensorMisplaced { tensor, shard }));
        }
    }
    match index.weight_map.into_iter().find(|(tensor, _)| !store.tensors.contains_key(tensor)) {
        Some((tensor, shard)) => Err(fault(ShardIndexFault::TensorMissing { tensor, shard })),
        None => Ok(store),
    }
}

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The path of a shard beside its index. A name from a file never becomes a path: only bare
/// file names are accepted, and a link may lead only within the folder or, as the hub's own
/// cache has it, to the `blobs` folder beside `snapshots`.
fn shard_path(index: &Path, shard: &str) -> Result<PathBuf, ShardIndexFault> {
    let mut components = Path::new(shard).components();
    let bare = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    if !bare || shard.contains(['/', '\\', ':', '\0']) || !shard.ends_with(".safetensors") {
        return Err(ShardIndexFault::Name(shard.to_owned()));
    }
    let folder = match index.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let path = folder.join(shard);
    let missing = |_| ShardIndexFault::Missing(shard.to_owned());
    let target = path.canonicalize().map_err(missing)?;
    let folder = folder.canonicalize().map_err(missing)?;
    let blobs = folder.parent().and_then(Path::parent).map(|repository| repository.join("blobs"));
    let within = |root: &Path| target.parent() == Some(root);
    if within(&folder) || blobs.is_some_and(|blobs| within(&blobs)) {
        Ok(path)
    } else {
        Err(ShardIndexFault::Outside(shard.to_owned()))
    }
}

fn add_file(store: &mut TensorStore, path: &Path, access: FileAccess) -> Result<(), WeightsError> {
    let file = DataFile::open(path, access)?;
    let fault = |fault| WeightsError::Safetensors { path: path.to_owned(), fault };
    let index = store.files.len();
    let tensors = read_header(&file, index).map_err(|error| match error {
        HeaderError::File(error) => error,
        HeaderError::Fault(error) => fault(error),
    })?;
    for (name, tensor) in tensors {
        if store.tensors.contains_key(&name) {
            return Err(fault(SafetensorsFault::Duplicate(name)));
        }
        store.tensors.insert(name, tensor);
    }
    store.files.push(file);
    Ok(())
}

enum HeaderError {
    File(WeightsError),
    Fault(SafetensorsFault),
}

impl From<WeightsError> for HeaderError {
    fn from(error: WeightsError) -> Self {
        Self::File(error)
    }
}

impl<E: Into<SafetensorsFault>> From<E> for HeaderError {
    fn from(error: E) -> Self {
        Self::Fault(error.into())
    }
}

/// Reads the header, and of the file nothing else.
fn read_header(file: &DataFile, index: usize) -> Result<Vec<(String, StoredTensor)>, HeaderError> {
    const LENGTH_BYTES: u64 = 8;
    const MAX_HEADER: u64 = 100_000_000;
    let start = file.read(0..LENGTH_BYTES.min(file.len()))?;
    let length = start.as_ref().try_into().map_err(|_| SafeTensorError::HeaderTooSmall)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER {
        return Err(SafeTensorError::HeaderTooLarge.into());
    }
    let data_start = LENGTH_BYTES + length;
    if data_start > file.len() {
        return Err(SafeTensorError::InvalidHeaderLength.into());
    }
    let tensors = parse_header(&file.read(LENGTH_BYTES..data_start)?)?;
    // The crate's own checks: no hole, no overlap, no overflow, sizes as shapes.
    let metadata = Metadata::new(None, tensors)?;
    if data_start + metadata.data_len() as u64 != file.len() {
        return Err(SafeTensorError::MetadataIncompleteBuffer.into());
    }
    let tensors = metadata.tensors().into_iter().map(|(name, info)| {
        let encoding = encoding(info.dtype).ok_or_else(|| SafetensorsFault::Encoding {
            tensor: name.clone(),
            found: format!("{:?}", info.dtype),
        })?;
        let (start, end) = info.data_offsets;
        let range = data_start + start as u64..data_start + end as u64;
        let shape = info.shape.clone();
        let tensor = StoredTensor { shape, encoding, file: index, range, interleaved_heads: None };
        Ok((name, tensor))
    });
    tensors.collect()
}

/// The tensors of a header in the order of their offsets.
///
/// The format forbids duplicate names, but the safetensors crate reads into a map and keeps the
/// last one silently, so the JSON is read here.
fn parse_header(bytes: &[u8]) -> Result<Vec<(String, TensorInfo)>, SafetensorsFault> {
    let json = std::str::from_utf8(bytes).map_err(SafeTensorError::InvalidHeader)?;
    let Header(mut tensors) =
        serde_json::from_str(json).map_err(SafeTensorError::InvalidHeaderDeserialization)?;
    if tensors.len() > MAX_TENSORS {
        return Err(SafetensorsFault::TooMany { found: tensors.len(), limit: MAX_TENSORS });
    }
    let mut seen = BTreeSet::new();
    if let Some((name, _)) = tensors.iter().find(|(name, _)| !seen.insert(name.as_str())) {
        return Err(SafetensorsFault::Duplicate(name.clone()));
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    Ok(tensors)
}

fn encoding(dtype: Dtype) -> Option<Encoding> {
    match dtype {
        Dtype::F32 => Some(Encoding::F32),
        Dtype::F16 => Some(Encoding::F16),
        Dtype::BF16 => Some(Encoding::Bf16),
        _ => None,
    }
}

/// The entries of a header's JSON object, repeated names included, without the free metadata.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Header, M::Error> {
                let mut tensors = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        tensors.push((name, map.next_value()?));
                    }
                }
                Ok(Header(tensors))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
