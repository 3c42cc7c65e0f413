//! The folder of a run: writing, finding and pruning its checkpoints.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use guard_core::{NamedTensor, TensorFile};

use super::error::{CheckpointError, CheckpointFault};
use super::manifest::{FORMAT, Hashes, Manifest, Progress};
use super::storage::{Disk, Storage};
use super::{CheckpointOptions, Resume};

const MANIFEST: &str = "manifest.json";
const WEIGHTS: &str = "weights.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const LOCK: &str = "run.lock";
const PARTIAL: &str = ".partial";

/// The folder of a run, locked while it is open.
#[derive(Debug)]
pub(crate) struct CheckpointFolder {
    options: CheckpointOptions,
    storage: Box<dyn Storage>,
    /// Holds the lock.
    _lock: File,
}

/// What a checkpoint consists of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) weights: Vec<NamedTensor>,
    pub(crate) optimizer: Vec<NamedTensor>,
}

/// A checkpoint that was found whole.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) progress: Progress,
    pub(crate) weights: TensorFile,
    pub(crate) optimizer: TensorFile,
}

/// A checkpoint that was passed over.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) path: PathBuf,
    pub(crate) fault: CheckpointFault,
}

impl CheckpointFolder {
    /// Opens the folder, or makes it, and locks it.
    pub(crate) fn open(options: CheckpointOptions) -> Result<Self, CheckpointError> {
        Self::open_in(options, Box::new(Disk))
    }

    pub(super) fn open_in(
        options: CheckpointOptions,
        storage: Box<dyn Storage>,
    ) -> Result<Self, CheckpointError> {
        let folder = &options.folder;
        let failed = |action| move |error| CheckpointError::io(action, folder, error);
        storage.create_folder(folder).map_err(failed("make the folder"))?;
        let path = folder.join(LOCK);
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(|error| CheckpointError::io("open", &path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { options, storage, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(CheckpointError::InUse { path: folder.clone() }),
            Err(TryLockError::Error(error)) => Err(CheckpointError::io("lock", &path, error)),
        }
    }

    /// Whether a checkpoint is due after this many windows.
    pub(crate) fn is_due(&self, windows: u64) -> bool {
        windows.is_multiple_of(self.options.every.max(1))
    }

    /// Writes the checkpoint of this progress, then drops those that need not be kept.
    pub(crate) fn save(
        &self,
        progress: Progress,
        hashes: &Hashes,
        parts: &Parts,
    ) -> Result<PathBuf, CheckpointError> {
        let path = self.path_of(progress.windows);
        if self.check(&path).is_ok() {
            return Ok(path);
        }
        let scratch = path.with_extension(&PARTIAL[1..]);
        self.remove(&path)?;
        self.remove(&scratch)?;
        self.write(&scratch, progress, hashes, parts)?;
        let io = CheckpointError::io;
        self.storage.rename(&scratch, &path).map_err(|error| io("rename", &scratch, error))?;
        let folder = &self.options.folder;
        self.storage.sync_folder(folder).map_err(|error| io("sync", folder, error))?;
        self.prune(progress)?;
        Ok(path)
    }

    fn write(
        &self,
        folder: &Path,
        progress: Progress,
        hashes: &Hashes,
        parts: &Parts,
    ) -> Result<(), CheckpointError> {
        let failed = |action| move |error| CheckpointError::io(action, folder, error);
        self.storage.create_folder(folder).map_err(failed("make the folder"))?;
        let mut written = BTreeMap::new();
        for (name, tensors) in [(WEIGHTS, &parts.weights), (OPTIMIZER, &parts.optimizer)] {
            let path = folder.join(name);
            self.storage.write_tensors(&path, tensors)?;
            let part = self.storage.part(&path);
            let part = part.map_err(|error| CheckpointError::io("read", &path, error))?;
            written.insert(name.to_owned(), part);
        }
        let manifest = Manifest {
            format: FORMAT,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            progress,
            hashes: hashes.clone(),
            parts: written,
        };
        let path = folder.join(MANIFEST);
        let written = serde_json::to_vec_pretty(&manifest)
            .map_err(std::io::Error::other)
            .and_then(|json| self.storage.write(&path, &json));
        written.map_err(|error| CheckpointError::io("write", &path, error))?;
        self.storage.sync_folder(folder).map_err(failed("sync"))
    }

    /// The newest checkpoint that is whole, and those that were passed over. There is an error
    /// when there are some and none is whole, or when the newest must not be gone on from.
    pub(crate) fn latest(
        &self,
        hashes: &Hashes,
    ) -> Result<(Option<Found>, Vec<Rejected>), CheckpointError> {
        let mut rejected = Vec::new();
        for (_, path) in self.all()?.into_iter().rev() {
            match self.check(&path) {
                Ok(manifest) => {
                    self.may_resume(&path, &manifest, hashes)?;
                    return Ok((Some(Self::found(path, &manifest)?), rejected));
                }
                Err(fault) => rejected.push(Rejected { path, fault }),
            }
        }
        if rejected.is_empty() {
            return Ok((None, rejected));
        }
        let reason = |r: &Rejected| format!("{}: {}", name_of(&r.path), r.fault);
        let reasons = rejected.iter().map(reason).collect::<Vec<_>>().join("; ");
        Err(CheckpointError::NoneWhole { path: self.options.folder.clone(), reasons })
    }

    fn may_resume(
        &self,
        path: &Path,
        manifest: &Manifest,
        hashes: &Hashes,
    ) -> Result<(), CheckpointError> {
        if self.options.resume == Resume::Never {
            let (path, step) = (self.options.folder.clone(), manifest.progress.windows);
            return Err(CheckpointError::Occupied { path, step });
        }
        match manifest.hashes.difference(hashes) {
            Some((what, [expected, found])) if !self.options.allow_changes => {
                let (expected, found) = (expected.to_owned(), found.to_owned());
                Err(CheckpointError::Changed { path: path.to_owned(), what, expected, found })
            }
            _ => Ok(()),
        }
    }

    fn found(path: PathBuf, manifest: &Manifest) -> Result<Found, CheckpointError> {
        let weights = TensorFile::open(path.join(WEIGHTS))?;
        let optimizer = TensorFile::open(path.join(OPTIMIZER))?;
        Ok(Found { path, progress: manifest.progress, weights, optimizer })
    }

    /// The manifest of a checkpoint, if all that it says is so.
    fn check(&self, path: &Path) -> Result<Manifest, CheckpointFault> {
        let unreadable = |error: String| CheckpointFault::Unreadable(error);
        let json =
            self.storage.read(&path.join(MANIFEST)).map_err(|e| unreadable(e.to_string()))?;
        let manifest: Manifest =
            serde_json::from_str(&json).map_err(|error| unreadable(error.to_string()))?;
        if manifest.format != FORMAT {
            return Err(CheckpointFault::Format { expected: FORMAT, found: manifest.format });
        }
        if self.path_of(manifest.progress.windows) != path {
            return Err(CheckpointFault::Step { found: manifest.progress.windows });
        }
        for name in [WEIGHTS, OPTIMIZER] {
            let part = name.to_owned();
            let expected = manifest.parts.get(name);
            let expected =
                expected.ok_or_else(|| unreadable(format!("it does not name {name}")))?;
            let found = self.storage.part(&path.join(name)).ok();
            let bytes = found.as_ref().map_or(0, |found| found.bytes);
            if bytes != expected.bytes {
                return Err(CheckpointFault::Size { part, expected: expected.bytes, found: bytes });
            }
            let found = found.map(|found| found.sha256).unwrap_or_default();
            if found != expected.sha256 {
                let expected = expected.sha256.clone();
                return Err(CheckpointFault::Content { part, expected, found });
            }
        }
        Ok(manifest)
    }

    /// Drops what was never finished, and old checkpoints, but for the best one.
    fn prune(&self, progress: Progress) -> Result<(), CheckpointError> {
        let all = self.all()?;
        let keep = all.len().saturating_sub(self.options.keep_last.max(1));
        let best = progress.best.map(|best| best.windows);
        for (windows, path) in &all[..keep] {
            if Some(*windows) != best {
                self.remove(path)?;
            }
        }
        for path in self.entries()? {
            if name_of(&path).ends_with(PARTIAL) {
                self.remove(&path)?;
            }
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<(), CheckpointError> {
        match self.storage.remove_folder(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(CheckpointError::io("remove", path, error))
            }
            _ => Ok(()),
        }
    }

    /// All checkpoints that are there, whole or not, oldest first.
    fn all(&self) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        let windows = |path: &PathBuf| name_of(path).strip_prefix("step-")?.parse::<u64>().ok();
        let entries = self.entries()?.into_iter();
        let mut all: Vec<_> = entries.filter_map(|path| Some((windows(&path)?, path))).collect();
        all.sort_unstable();
        Ok(all)
    }

    fn entries(&self) -> Result<Vec<PathBuf>, CheckpointError> {
        let folder = &self.options.folder;
        self.storage.list(folder).map_err(|error| CheckpointError::io("list", folder, error))
    }

    fn path_of(&self, windows: u64) -> PathBuf {
        self.options.folder.join(format!("step-{windows}"))
    }
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
