//! The folder of a run: writing, finding and pruning its checkpoints.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use guard_core::{NamedTensor, TensorFile};

use super::error::{CheckpointError, CheckpointFault};
use super::manifest::{AnyFormat, FORMAT, MadeWith, Manifest, Progress};
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
    /// Later checkpoints than the one that the run went on from: of a future that it left.
    abandoned: Vec<PathBuf>,
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
    /// The hash of the set that the best loss was measured on.
    pub(crate) validation: Option<String>,
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
            Ok(()) => Ok(Self { options, storage, abandoned: Vec::new(), _lock: lock }),
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
        &mut self,
        progress: Progress,
        made_with: &MadeWith,
        parts: &Parts,
    ) -> Result<PathBuf, CheckpointError> {
        let path = self.path_of(progress.windows);
        if self.check(&path).is_ok() {
            return Ok(path);
        }
        self.drop_unfinished()?;
        let scratch = path.with_extension(&PARTIAL[1..]);
        // A file of this name is no folder that a kill left behind.
        self.remove(&scratch)?;
        self.write(&scratch, progress, made_with, parts)?;
        self.remove(&path)?;
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
        made_with: &MadeWith,
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
            made_with: made_with.clone(),
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
        &mut self,
        made_with: &MadeWith,
    ) -> Result<(Option<Found>, Vec<Rejected>), CheckpointError> {
        let mut rejected = Vec::new();
        for (_, path) in self.all()?.into_iter().rev() {
            match self.check(&path) {
                Ok(manifest) => {
                    self.may_resume(&path, &manifest, made_with)?;
                    let found = Self::found(path, manifest)?;
                    self.abandoned = rejected.iter().map(|r: &Rejected| r.path.clone()).collect();
                    return Ok((Some(found), rejected));
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
        made_with: &MadeWith,
    ) -> Result<(), CheckpointError> {
        if self.options.resume == Resume::Never {
            let (path, step) = (self.options.folder.clone(), manifest.progress.windows);
            return Err(CheckpointError::Occupied { path, step });
        }
        let changes = manifest.made_with.changes(made_with);
        match changes.is_empty() || self.options.allow_changes {
            true => Ok(()),
            false => Err(CheckpointError::Changed { path: path.to_owned(), changes }),
        }
    }

    fn found(path: PathBuf, manifest: Manifest) -> Result<Found, CheckpointError> {
        let weights = TensorFile::open(path.join(WEIGHTS))?;
        let optimizer = TensorFile::open(path.join(OPTIMIZER))?;
        let Manifest { progress, made_with, .. } = manifest;
        Ok(Found { path, progress, validation: made_with.validation, weights, optimizer })
    }

    /// The manifest of a checkpoint, if all that it says is so.
    fn check(&self, path: &Path) -> Result<Manifest, CheckpointFault> {
        let unreadable = |error: String| CheckpointFault::Unreadable(error);
        let json =
            self.storage.read(&path.join(MANIFEST)).map_err(|e| unreadable(e.to_string()))?;
        let AnyFormat { format } =
            serde_json::from_str(&json).map_err(|error| unreadable(error.to_string()))?;
        if format != FORMAT {
            return Err(CheckpointFault::Format { expected: FORMAT, found: format });
        }
        let manifest: Manifest =
            serde_json::from_str(&json).map_err(|error| unreadable(error.to_string()))?;
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

    /// Drops old checkpoints, but for the best one, and those of a future that the run left. The
    /// one of this progress, which was just written, always stays.
    fn prune(&mut self, progress: Progress) -> Result<(), CheckpointError> {
        let written = self.path_of(progress.windows);
        let abandoned = |path: &PathBuf| self.abandoned.contains(path) && *path != written;
        let mut all = self.all()?;
        let left =
            all.extract_if(.., |(windows, path)| *windows > progress.windows || abandoned(path));
        let left: Vec<_> = left.collect();
        let surplus = all.len().saturating_sub(self.options.keep_last.max(1));
        let best = progress.best.map(|best| best.windows);
        let old = all.into_iter().take(surplus).filter(|(windows, _)| Some(*windows) != best);
        for (_, path) in old.chain(left) {
            self.remove(&path)?;
        }
        self.abandoned.clear();
        Ok(())
    }

    /// Removes what a run that was killed had begun to write.
    fn drop_unfinished(&self) -> Result<(), CheckpointError> {
        let unfinished = |path: &PathBuf| {
            name_of(path).strip_suffix(PARTIAL).is_some_and(|name| step_of(name).is_some())
        };
        self.folders()?
            .iter()
            .filter(|path| unfinished(path))
            .try_for_each(|path| self.remove(path))
    }

    fn remove(&self, path: &Path) -> Result<(), CheckpointError> {
        use std::io::ErrorKind::{NotADirectory, NotFound};
        match self.storage.remove_folder(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == NotFound => Ok(()),
            Err(error) if error.kind() == NotADirectory => {
                Err(CheckpointError::NoFolder { path: path.to_owned() })
            }
            Err(error) => Err(CheckpointError::io("remove", path, error)),
        }
    }

    /// All checkpoints that are there, whole or not, oldest first.
    fn all(&self) -> Result<Vec<(u64, PathBuf)>, CheckpointError> {
        let folders = self.folders()?.into_iter();
        let step = |path: PathBuf| Some((step_of(name_of(&path))?, path));
        let mut all: Vec<_> = folders.filter_map(step).collect();
        all.sort_unstable();
        Ok(all)
    }

    fn folders(&self) -> Result<Vec<PathBuf>, CheckpointError> {
        let folder = &self.options.folder;
        self.storage.folders(folder).map_err(|error| CheckpointError::io("list", folder, error))
    }

    fn path_of(&self, windows: u64) -> PathBuf {
        self.options.folder.join(format!("step-{windows}"))
    }
}

/// The number in the name of a checkpoint.
fn step_of(name: &str) -> Option<u64> {
    name.strip_prefix("step-")?.parse().ok()
}

fn name_of(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}
