//! Folders of predictions, as the reference lays them out.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::benchmark::{Benchmark, benchmark};
use crate::error::EvalError;

/// The name of a file of predictions in the reference's folders.
pub const PREDICTIONS_FILE: &str = "generated_predictions.jsonl";

/// A file of predictions and what its folders say about it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PredictionFile {
    /// The file.
    pub path: PathBuf,
    /// The system: the name of the folder above the benchmark's.
    pub system: String,
    /// The dataset: the name of the file's folder, or of the benchmark that it means.
    pub dataset: String,
    /// The benchmark of that name, if it is a published one.
    pub benchmark: Option<&'static Benchmark>,
}

/// Finds predictions: a file, a benchmark's folder, a system's folder of those, or a folder of
/// systems. In the order of their names.
///
/// # Errors
///
/// [`EvalError::Io`] for what cannot be read, [`EvalError::Empty`] where there are none.
pub fn find_predictions(path: impl AsRef<Path>) -> Result<Vec<PredictionFile>, EvalError> {
    // Systems, benchmarks, files.
    const DEPTH: usize = 3;
    let path = path.as_ref();
    let mut files = Vec::new();
    collect(path, DEPTH, &mut files)?;
    if files.is_empty() {
        return Err(EvalError::Empty { dataset: path.display().to_string() });
    }
    files.sort();
    // A folder may be reached by several links.
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for path in files {
        let whole = path.canonicalize().map_err(|error| EvalError::io("open", &path, error))?;
        if seen.insert(whole) {
            found.push(describe(path)?);
        }
    }
    Ok(found)
}

fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), EvalError> {
    let metadata = std::fs::metadata(path).map_err(|error| EvalError::io("open", path, error))?;
    if metadata.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    let entries = std::fs::read_dir(path).map_err(|error| EvalError::io("list", path, error))?;
    for entry in entries {
        let path = entry.map_err(|error| EvalError::io("list", path, error))?.path();
        let is_predictions = path.file_name().is_some_and(|name| name == PREDICTIONS_FILE);
        if is_predictions || (depth > 0 && path.is_dir()) {
            collect(&path, depth - usize::from(!is_predictions), files)?;
        }
    }
    Ok(())
}

fn describe(path: PathBuf) -> Result<PredictionFile, EvalError> {
    // A relative path may not name the folders above it; links keep the names that they give.
    let whole = std::path::absolute(&path).map_err(|error| EvalError::io("open", &path, error))?;
    let name = |path: Option<&Path>| {
        path.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
    };
    let folder = whole.parent();
    let found = name(folder);
    let benchmark = benchmark(&found);
    let dataset = benchmark.map_or(found, |benchmark| benchmark.name.to_owned());
    Ok(PredictionFile { path, system: name(folder.and_then(Path::parent)), dataset, benchmark })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_from_every_level() {
        let root = tempfile::tempdir().unwrap();
        for (system, set) in [("8B", "AegisSafetyTest"), ("1B", "XSTestReponseHarmful")] {
            let folder = root.path().join(system).join(set);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(PREDICTIONS_FILE), "").unwrap();
            std::fs::write(folder.join("notes.txt"), "").unwrap();
        }
        let found = |path: &Path| {
            let files = find_predictions(path).unwrap();
            files.into_iter().map(|f| format!("{} {}", f.system, f.dataset)).collect::<Vec<_>>()
        };
        let large = root.path().join("8B");
        assert_eq!(found(root.path()), ["1B XSTestResponseHarmful", "8B AegisSafetyTest"]);
        assert_eq!(found(&large), ["8B AegisSafetyTest"]);
        assert_eq!(found(&large.join("AegisSafetyTest")), ["8B AegisSafetyTest"]);
        let file = large.join("AegisSafetyTest").join(PREDICTIONS_FILE);
        assert_eq!(found(&file), ["8B AegisSafetyTest"]);
    }

    #[test]
    fn nothing_found_and_unknown_folders_are_told() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(find_predictions(root.path()), Err(EvalError::Empty { .. })));
        let folder = root.path().join("MyOwn");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(PREDICTIONS_FILE), "").unwrap();
        let own = &find_predictions(root.path()).unwrap()[0];
        assert_eq!((own.dataset.as_str(), own.benchmark), ("MyOwn", None));
        assert!(find_predictions(root.path().join("none")).is_err());
    }
}
