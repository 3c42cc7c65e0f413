//! Fetching published sets from the Hugging Face hub.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::progress::{DownloadEvent, ProgressEvent, ProgressHandler};
use hf_hub::{HFClient, HFClientSync, HFError};

use crate::manifest::{FileName, Manifest, ManifestError};
use crate::observer::Progress;

/// The Hugging Face hub, with the cache and the token that its other tools use on this machine
/// (`HF_HOME`, `HF_TOKEN`). Gated sets need a token that has been let in.
///
/// ```no_run
/// use guard_data::{FileName, Hub, Manifest, TrainingFile, Trust, training_set};
///
/// let mut manifest = Manifest::open("data/manifest.json")?;
/// let file = FileName::of_dataset("PKU-Alignment/BeaverTails", "main", "round0/30k/train.jsonl.gz");
/// let path = Hub::new()?.fetch(&file, &mut manifest, Trust::Pinned)?;
/// let set = training_set("BeaverTails").expect("one of the four");
/// let source = TrainingFile::open(set, path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Hub {
    client: HFClientSync,
    watch: Option<Arc<Watch>>,
}

/// Is told the bytes that came so far.
type Watch = dyn Fn(&Progress) + Send + Sync;

/// Hands the events of a download on.
struct Relay(Arc<Watch>);

impl ProgressHandler for Relay {
    fn on_progress(&self, event: &ProgressEvent) {
        let (done, total) = match event {
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                let Some(file) = files.last() else { return };
                (file.bytes_completed, file.total_bytes)
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress {
                bytes_completed,
                total_bytes,
                ..
            }) => (*bytes_completed, *total_bytes),
            _ => return,
        };
        (self.0)(&Progress::new("bytes", done, Some(total).filter(|total| *total > 0)));
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

/// Which files of the hub count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Those whose hash the manifest has.
    #[default]
    Pinned,
    /// Also those that it does not have yet: they are pinned as they come.
    FirstUse,
}

/// Why a file of the hub cannot be had. The messages hold no token.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A dataset is named `owner/name`, and a revision or path in it leads nowhere else.
    #[error("{0}: expected owner/name, a revision and a relative path")]
    Name(FileName),
    /// There is no such dataset, revision or file.
    #[error("{0} is not on the hub")]
    NotFound(FileName),
    /// The set is gated, or the token is not known there.
    #[error("{0} is gated: accept its terms on the hub and set HF_TOKEN")]
    NoAccess(FileName),
    /// The hub cannot be reached, or the cache not be written.
    #[error("{0} is not in the cache and cannot be fetched")]
    Unreachable(FileName),
    /// The client cannot be set up.
    #[error("the hub's client cannot be set up")]
    Client,
    /// The file came and does not count.
    #[error(transparent)]
    Manifest(Arc<ManifestError>),
}

impl From<ManifestError> for HubError {
    fn from(error: ManifestError) -> Self {
        Self::Manifest(Arc::new(error))
    }
}

impl Hub {
    /// The hub of this machine's settings.
    ///
    /// # Errors
    ///
    /// [`HubError::Client`] when the settings make no client.
    pub fn new() -> Result<Self, HubError> {
        HFClientSync::new().map(Self::of).map_err(|_| HubError::Client)
    }

    /// A hub at another address, with its cache in this folder.
    ///
    /// # Errors
    ///
    /// As [`Hub::new`].
    pub fn at(address: &str, cache: &Path) -> Result<Self, HubError> {
        let client = HFClient::builder().endpoint(address).cache_dir(cache).build_sync();
        client.map(Self::of).map_err(|_| HubError::Client)
    }

    fn of(client: HFClientSync) -> Self {
        Self { client, watch: None }
    }

    /// The same hub, telling how downloads go on.
    #[must_use]
    pub fn with_watch(mut self, watch: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.watch = Some(Arc::new(watch));
        self
    }

    /// Fetches a file, or finds it in the cache, and checks it against the manifest.
    ///
    /// # Errors
    ///
    /// [`HubError`] when it cannot be had, or its bytes are not those of the manifest.
    pub fn fetch(
        &self,
        name: &FileName,
        manifest: &mut Manifest,
        trust: Trust,
    ) -> Result<PathBuf, HubError> {
        let is_known = manifest.names().any(|known| known == name);
        if !is_known && trust == Trust::Pinned {
            return Err(ManifestError::Unknown { name: name.clone() }.into());
        }
        let path = self.download(name)?;
        match is_known {
            true => manifest.check(name, &path)?,
            false => manifest.pin(name.clone(), &path)?,
        }
        Ok(path)
    }

    fn download(&self, name: &FileName) -> Result<PathBuf, HubError> {
        let bad_name = || HubError::Name(name.clone());
        let dataset = name.dataset.as_deref().and_then(|dataset| dataset.split_once('/'));
        let (owner, repository) = dataset.ok_or_else(bad_name)?;
        let is_plain =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\\');
        let revision = name.revision.clone().unwrap_or_else(|| "main".to_owned());
        let parts = [owner, repository].into_iter().chain(name.path.split('/'));
        let parts = parts.chain(revision.split('/'));
        if !parts.clone().all(is_plain) || repository.contains('/') {
            return Err(bad_name());
        }
        let dataset = self.client.dataset(owner, repository);
        let relay = self.watch.clone().map(Relay);
        let file = dataset
            .download_file()
            .filename(&name.path)
            .revision(revision.as_str())
            .maybe_progress(relay)
            .send();
        file.map_err(|error| match error {
            HFError::RepoNotFound { .. }
            | HFError::EntryNotFound { .. }
            | HFError::RevisionNotFound { .. } => HubError::NotFound(name.clone()),
            HFError::AuthRequired { .. } | HFError::Forbidden { .. } => {
                HubError::NoAccess(name.clone())
            }
            _ => HubError::Unreachable(name.clone()),
        })
    }
}
