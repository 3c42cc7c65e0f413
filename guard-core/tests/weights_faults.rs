//! Bad files: T-01 to T-07 of the project's list of faults. Each is a typed error, none a panic.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use guard_core::{
    FileAccess, GgufFault, LoadOptions, ModelFiles, SafetensorsFault, ShardIndexFault, WeightsError,
};
use proptest::prelude::*;
use safetensors::SafeTensorError;
use serde_json::{Value, json};
use support::{device, testdata};
use tempfile::TempDir;

/// A copy of a committed model, to be damaged.
fn copy(model: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    for entry in fs::read_dir(testdata(&format!("models/{model}"))).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

fn open(path: impl AsRef<Path>) -> Result<ModelFiles, WeightsError> {
    ModelFiles::open(path)
}

fn load(path: impl AsRef<Path>) -> Result<(), WeightsError> {
    open(path)?.load(LoadOptions::default(), &device()).map(|_| ())
}

/// A safetensors file with this header and so many bytes of data.
fn safetensors(header: &[u8], data: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, &vec![0; data]].concat()
}

fn fault_of(bytes: &[u8]) -> SafetensorsFault {
    let folder = copy("tied-gqa-llama3");
    fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    match open(folder.path()) {
        Err(WeightsError::Safetensors { fault, .. }) => fault,
        other => panic!("expected a safetensors fault, found {other:?}"),
    }
}

macro_rules! assert_fault {
    ($bytes:expr, $pattern:pat) => {
        let fault = fault_of(&$bytes);
        assert!(matches!(fault, $pattern), "{fault:?}");
    };
}

#[test]
fn t01_lengths_that_lie() {
    use SafetensorsFault::Format;
    assert_fault!([], Format(SafeTensorError::HeaderTooSmall));
    assert_fault!([1, 2, 3], Format(SafeTensorError::HeaderTooSmall));
    assert_fault!(0_u64.to_le_bytes(), Format(SafeTensorError::InvalidHeaderDeserialization(_)));
    assert_fault!(u64::MAX.to_le_bytes(), Format(SafeTensorError::HeaderTooLarge));
    assert_fault!(90_000_u64.to_le_bytes(), Format(SafeTensorError::InvalidHeaderLength));
}

#[test]
fn t01_headers_that_are_no_json_of_tensors() {
    use SafetensorsFault::Format;
    assert_fault!(safetensors(b"\xff\xfe{}", 0), Format(SafeTensorError::InvalidHeader(_)));
    assert_fault!(
        safetensors(b"not json", 0),
        Format(SafeTensorError::InvalidHeaderDeserialization(_))
    );
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    assert_fault!(
        safetensors(deep.as_bytes(), 0),
        Format(SafeTensorError::InvalidHeaderDeserialization(_))
    );
    let unknown = br#"{"a":{"dtype":"F31","shape":[1],"data_offsets":[0,4]}}"#;
    assert_fault!(
        safetensors(unknown, 4),
        Format(SafeTensorError::InvalidHeaderDeserialization(_))
    );
    let integers = br#"{"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    assert_fault!(safetensors(integers, 8), SafetensorsFault::Encoding { .. });
}

#[test]
fn t01_offsets_and_shapes_that_do_not_fit() {
    use SafetensorsFault::Format;
    let tensor = |name: &str, shape: &str, from: u64, to: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[{from},{to}]}}"#)
    };
    let file = |tensors: &[String], data| {
        safetensors(format!("{{{}}}", tensors.join(",")).as_bytes(), data)
    };
    let overlap = file(&[tensor("a", "[2]", 0, 8), tensor("b", "[2]", 4, 12)], 12);
    assert_fault!(overlap, Format(SafeTensorError::InvalidOffset(_)));
    let hole = file(&[tensor("a", "[1]", 0, 4), tensor("b", "[1]", 8, 12)], 12);
    assert_fault!(hole, Format(SafeTensorError::InvalidOffset(_)));
    let backwards = file(&[tensor("a", "[1]", 4, 0)], 4);
    assert_fault!(backwards, Format(SafeTensorError::InvalidOffset(_)));
    assert_fault!(file(&[tensor("a", "[3]", 0, 8)], 8), Format(SafeTensorError::TensorInvalidInfo));
    let huge = format!("[{0},{0}]", u64::MAX / 2);
    assert_fault!(
        file(&[tensor("a", &huge, 0, 4)], 4),
        Format(SafeTensorError::ValidationOverflow)
    );
    let trailing = file(&[tensor("a", "[1]", 0, 4)], 5);
    assert_fault!(trailing, Format(SafeTensorError::MetadataIncompleteBuffer));
    let short = file(&[tensor("a", "[2]", 0, 8)], 4);
    assert_fault!(short, Format(SafeTensorError::MetadataIncompleteBuffer));
    let twice = file(&[tensor("a", "[1]", 0, 4), tensor("a", "[1]", 0, 4)], 4);
    assert_fault!(twice, SafetensorsFault::Duplicate(_));
}

#[test]
fn t01_a_million_names_are_refused() {
    let names: Vec<String> = (0..1_000_000)
        .map(|index| format!(r#""{index}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let file = safetensors(format!("{{{}}}", names.join(",")).as_bytes(), 0);
    assert_fault!(file, SafetensorsFault::TooMany { found: 1_000_000, .. });
}

#[test]
fn t01_an_empty_tensor_does_not_fit_the_model() {
    let folder = copy("tied-gqa-llama3");
    let header = br#"{"model.norm.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#;
    fs::write(folder.path().join("model.safetensors"), safetensors(header, 0)).unwrap();
    let Err(WeightsError::Mismatch(report)) = load(folder.path()) else { panic!("accepted") };
    assert_eq!(report.mismatched.len(), 1);
    assert!(report.missing.contains(&"model.embed_tokens.weight".to_owned()));
}

fn change_config(folder: &TempDir, change: impl Fn(&mut Value)) {
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

/// The ranges of single fields are unit tests beside the configuration.
#[test]
fn t02_a_configuration_that_is_not_the_weights() {
    let folder = copy("tied-gqa-llama3");
    change_config(&folder, |config| config["num_hidden_layers"] = 3.into());
    let Err(WeightsError::Mismatch(report)) = load(folder.path()) else { panic!("accepted") };
    assert!(report.missing.iter().all(|name| name.starts_with("model.layers.2.")), "{report}");
    assert_eq!(report.missing.len(), 9);

    change_config(&folder, |config| config["num_hidden_layers"] = 1.into());
    let Err(WeightsError::Mismatch(report)) = load(folder.path()) else { panic!("accepted") };
    assert_eq!(report.unused.len(), 9, "{report}");
    let lenient = LoadOptions::default().with_unused_allowed();
    let (_, report) = open(folder.path()).unwrap().load(lenient, &device()).unwrap();
    assert_eq!(report.unused.len(), 9);

    let folder = copy("tied-gqa-llama3");
    change_config(&folder, |config| config["intermediate_size"] = 8192.into());
    let Err(WeightsError::Mismatch(report)) = load(folder.path()) else { panic!("accepted") };
    assert_eq!(report.mismatched[0].expected[0], 8192);
    assert!(report.to_string().contains("expected [8192"), "{report}");
}

#[test]
fn t02_a_tied_head_that_is_not_the_embedding() {
    let tied = copy("untied-mha-llama2");
    change_config(&tied, |config| config["tie_word_embeddings"] = true.into());
    let Err(WeightsError::Mismatch(report)) = load(tied.path()) else { panic!("accepted") };
    assert_eq!(report.unused, ["lm_head.weight"]);
    let untied = copy("tied-gqa-llama3");
    change_config(&untied, |config| config["tie_word_embeddings"] = false.into());
    let Err(WeightsError::Mismatch(report)) = load(untied.path()) else { panic!("accepted") };
    assert_eq!(report.missing, ["lm_head.weight"]);
}

#[test]
fn t02_a_configuration_out_of_range_names_the_file() {
    let folder = copy("tied-gqa-llama3");
    change_config(&folder, |config| config["vocab_size"] = (1_u64 << 50).into());
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, WeightsError::Config { .. }));
    assert!(
        error.to_string().contains("config.json") && error.to_string().contains("vocab_size"),
        "{error}"
    );
}

fn shard_fault(change: impl Fn(&mut Value, &Path)) -> ShardIndexFault {
    let folder = copy("sharded-gqa-f16");
    let path = folder.path().join("model.safetensors.index.json");
    let mut index: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut index, folder.path());
    fs::write(&path, index.to_string()).unwrap();
    match open(folder.path()) {
        Err(WeightsError::ShardIndex { fault, .. }) => fault,
        other => panic!("expected a shard fault, found {other:?}"),
    }
}

const TENSOR: &str = "model.norm.weight";

#[test]
fn t03_shard_names_that_lead_elsewhere() {
    let names = [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        ".",
        "",
        "a\\b.safetensors",
        "C:model.safetensors",
        "model.bin",
        "nul\0.safetensors",
    ];
    for name in names {
        let fault = shard_fault(|index, _| index["weight_map"][TENSOR] = name.into());
        assert!(
            matches!(&fault, ShardIndexFault::Name(found) if found == name),
            "{name}: {fault:?}"
        );
    }
}

#[cfg(unix)]
#[test]
fn t03_a_shard_that_links_out_of_the_folder() {
    let outside = testdata("models/tied-gqa-llama3/model.safetensors");
    let fault = shard_fault(|index, folder| {
        std::os::unix::fs::symlink(&outside, folder.join("link.safetensors")).unwrap();
        index["weight_map"][TENSOR] = "link.safetensors".into();
    });
    assert!(matches!(fault, ShardIndexFault::Outside(_)), "{fault:?}");
}

#[cfg(unix)]
#[test]
fn a_folder_of_links_as_the_hubs_cache_has_it_is_read() {
    let cache = TempDir::new().unwrap();
    let (blobs, snapshot) = (cache.path().join("blobs"), cache.path().join("snapshots/abc"));
    fs::create_dir_all(&blobs).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    for entry in fs::read_dir(testdata("models/sharded-gqa-f16")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        fs::copy(&path, blobs.join(name)).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), snapshot.join(name))
            .unwrap();
    }
    load(snapshot).unwrap();
}

#[test]
fn t03_shards_that_are_missing_or_hold_other_tensors() {
    let missing =
        shard_fault(|index, _| index["weight_map"][TENSOR] = "model-x.safetensors".into());
    assert!(matches!(missing, ShardIndexFault::Missing(_)), "{missing:?}");
    let absent = shard_fault(|index, _| {
        let shard = index["weight_map"][TENSOR].clone();
        index["weight_map"]["model.ghost.weight"] = shard;
    });
    assert!(
        matches!(&absent, ShardIndexFault::TensorMissing { tensor, .. } if tensor == "model.ghost.weight")
    );
    let unlisted = shard_fault(|index, _| {
        index["weight_map"].as_object_mut().unwrap().remove(TENSOR);
    });
    assert!(
        matches!(&unlisted, ShardIndexFault::TensorMisplaced { tensor, .. } if tensor == TENSOR)
    );
    let elsewhere = shard_fault(|index, _| {
        let map = index["weight_map"].as_object_mut().unwrap();
        let other = map.values().find(|shard| **shard != map[TENSOR]).unwrap().clone();
        map.insert(TENSOR.to_owned(), other);
    });
    assert!(matches!(elsewhere, ShardIndexFault::TensorMisplaced { .. }), "{elsewhere:?}");
    let no_json = shard_fault(|index, _| *index = json!([1, 2]));
    assert!(matches!(no_json, ShardIndexFault::Json(_)), "{no_json:?}");
}

#[test]
fn t03_a_tensor_in_two_shards() {
    let folder = copy("sharded-gqa-f16");
    let shards: Vec<PathBuf> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("-of-"))
        .collect();
    fs::copy(&shards[0], &shards[1]).unwrap();
    let error = open(folder.path()).unwrap_err();
    let twice =
        matches!(&error, WeightsError::Safetensors { fault: SafetensorsFault::Duplicate(_), .. });
    let misplaced = matches!(&error, WeightsError::ShardIndex { .. });
    assert!(twice || misplaced, "{error:?}");
}

#[test]
fn t05_a_file_that_shrinks_after_it_was_opened() {
    for access in [FileAccess::Mapped, FileAccess::Buffered] {
        let folder = copy("tied-gqa-llama3");
        let files = ModelFiles::open_with(folder.path(), access).unwrap();
        let weights = folder.path().join("model.safetensors");
        fs::File::options().write(true).open(weights).unwrap().set_len(10_000).unwrap();
        let error = files.load(LoadOptions::default(), &device()).unwrap_err();
        assert!(matches!(error, WeightsError::Changed { found: 10_000, .. }), "{error:?}");
    }
}

#[test]
fn t05_what_is_no_file() {
    let folder = copy("tied-gqa-llama3");
    let weights = folder.path().join("model.safetensors");
    fs::remove_file(&weights).unwrap();
    fs::create_dir(&weights).unwrap();
    assert!(matches!(open(folder.path()), Err(WeightsError::NotAFile { .. })));
    assert!(matches!(open("/dev/null"), Err(WeightsError::NotAFile { .. })));
    assert!(matches!(
        open(folder.path().join("nothing.gguf")),
        Err(WeightsError::Io { action: "open", .. })
    ));
}

#[cfg(unix)]
#[test]
fn t05_a_pipe_is_refused_and_not_waited_for() {
    let folder = copy("tied-gqa-llama3");
    for name in ["config.json", "model.safetensors"] {
        let path = folder.path().join(name);
        fs::remove_file(&path).unwrap();
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no mkfifo");
            return;
        }
        assert!(matches!(open(folder.path()), Err(WeightsError::NotAFile { .. })));
    }
}

#[cfg(unix)]
#[test]
fn t05_a_file_that_may_not_be_read() {
    use std::os::unix::fs::PermissionsExt;
    let folder = copy("tied-gqa-llama3");
    let weights = folder.path().join("model.safetensors");
    fs::set_permissions(&weights, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&weights).is_ok() {
        eprintln!("skipped: this user may read everything");
        return;
    }
    assert!(matches!(open(folder.path()), Err(WeightsError::Io { action: "open", .. })));
}

#[test]
fn t06_pickles_are_refused_by_name_and_templates_ignored() {
    let folder = copy("tied-gqa-llama3");
    let weights = folder.path().join("model.safetensors");
    for name in ["pytorch_model.bin", "model.pt", "model.pth"] {
        let pickle = folder.path().join(name);
        fs::copy(&weights, &pickle).unwrap();
        assert!(matches!(open(&pickle), Err(WeightsError::Pickled { .. })));
    }
    fs::remove_file(&weights).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(matches!(error, WeightsError::NoWeights { pickled: true, .. }));
    assert!(error.to_string().contains("never read"), "{error}");

    let folder = copy("tied-gqa-llama3");
    let template = "{{ cycler.__init__.__globals__.os.system('false') }}";
    change_config(&folder, |config| config["chat_template"] = template.into());
    let tokenizer_config = json!({"chat_template": template}).to_string();
    fs::write(folder.path().join("tokenizer_config.json"), tokenizer_config).unwrap();
    load(folder.path()).unwrap();
}

#[test]
fn t07_weights_that_are_not_finite_are_found() {
    let folder = copy("untied-mha-llama2");
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    for bad in [f32::NAN, f32::INFINITY] {
        bytes[end - 4..].copy_from_slice(&bad.to_le_bytes());
        fs::write(&path, &bytes).unwrap();
        load(folder.path()).unwrap();
        let options = LoadOptions::default().with_finite_check();
        let error = open(folder.path()).unwrap().load(options, &device()).unwrap_err();
        assert!(matches!(error, WeightsError::NotFinite { .. }), "{error:?}");
    }
}

/// The committed GGUF file with one change.
fn gguf_fault(change: impl FnOnce(&mut Vec<u8>)) -> WeightsError {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("model.gguf");
    let mut bytes = fs::read(testdata("gguf/tied-gqa-llama3.f32.gguf")).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    open(path).and_then(|files| files.load(LoadOptions::default(), &device())).unwrap_err()
}

#[test]
fn gguf_headers_that_lie() {
    let fault = |change: fn(&mut Vec<u8>)| match gguf_fault(change) {
        WeightsError::Gguf { fault, .. } => fault,
        other => panic!("expected a GGUF fault, found {other:?}"),
    };
    assert!(matches!(fault(|bytes| bytes[0] = b'X'), GgufFault::Magic));
    assert!(matches!(fault(|bytes| bytes[4] = 9), GgufFault::Version(9)));
    assert!(matches!(fault(|bytes| bytes[8..16].fill(0xff)), GgufFault::TooMany { .. }));
    assert!(matches!(fault(|bytes| bytes[16..24].fill(0xff)), GgufFault::TooMany { .. }));
    assert!(matches!(fault(|bytes| bytes.truncate(100)), GgufFault::Truncated(_)));
    assert!(matches!(fault(|bytes| bytes.truncate(3)), GgufFault::Truncated(_)));
    assert!(matches!(fault(|bytes| bytes.truncate(bytes.len() - 4)), GgufFault::OutOfRange { .. }));
    assert!(matches!(fault(|bytes| bytes[24..32].fill(0xff)), GgufFault::Truncated(_)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// One changed byte anywhere in a header never panics. The data may change: it is only numbers.
    #[test]
    fn damaged_headers_are_read_or_refused(at in 0..13_000_usize, value in any::<u8>()) {
        let folder = TempDir::new().unwrap();
        let gguf = folder.path().join("model.gguf");
        let mut bytes = fs::read(testdata("gguf/tied-gqa-llama3.f32.gguf")).unwrap();
        bytes[at] = value;
        fs::write(&gguf, bytes).unwrap();
        if let Ok(files) = open(&gguf) {
            let _ = files.tokenizer();
            let _ = files.load(LoadOptions::default(), &device());
        }
        let model = copy("tied-gqa-llama3");
        let path = model.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let at = at % 2500;
        bytes[at] = value;
        fs::write(&path, bytes).unwrap();
        let _ = load(model.path());
    }

    /// Any bytes as a header.
    #[test]
    fn any_header_is_read_or_refused(header in proptest::collection::vec(any::<u8>(), 0..300)) {
        let folder = copy("tied-gqa-llama3");
        let path = folder.path().join("model.safetensors");
        fs::write(&path, safetensors(&header, 16)).unwrap();
        prop_assert!(load(folder.path()).is_err());
        fs::write(&path, &header).unwrap();
        prop_assert!(load(folder.path()).is_err());
        fs::write(folder.path().join("config.json"), &header).unwrap();
        prop_assert!(load(folder.path()).is_err());
    }
}
