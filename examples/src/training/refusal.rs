//! What is refused before a model is loaded, since it would fail or do harm only after hours.

use std::fs;
use std::path::Path;

use super::TrainArguments;
use crate::lines::Outcome;

/// The folders beneath that of the run whose files are written anew or removed.
const WRITTEN: [&str; 4] = ["model", "best", "adapter", "checkpoints"];

impl TrainArguments {
    pub(super) fn refuse(&self) -> Outcome<()> {
        if self.dashboard && cfg!(not(feature = "dashboard")) {
            let told = "--dashboard needs the feature `dashboard`: build with --features dashboard";
            return Err(told.into());
        }
        self.refuse_own_model()?;
        self.refuse_occupied()?;
        for path in std::iter::once(&self.data).chain(&self.validation) {
            let opened = fs::File::open(path);
            opened.map_err(|error| format!("cannot open {}: {error}", path.display()))?;
        }
        Ok(())
    }

    /// A model that the run would write over.
    fn refuse_own_model(&self) -> Outcome<()> {
        let Some(Ok(model)) = self.model.path().map(Path::canonicalize) else { return Ok(()) };
        for name in WRITTEN {
            let written = self.output.join(name);
            if written.canonicalize().is_ok_and(|written| model.starts_with(written)) {
                let (model, written) = (&self.model, written.display());
                return Err(format!(
                    "--model {model} lies in {written}, which this run writes over: choose another --output"
                )
                .into());
            }
        }
        Ok(())
    }

    /// A folder with another run in it, unless this one goes on from it.
    fn refuse_occupied(&self) -> Outcome<()> {
        if self.resume {
            return Ok(());
        }
        let steps = self.log_path();
        let logged = fs::metadata(&steps).is_ok_and(|file| file.len() > 0);
        let checkpoints = self.checkpoint_folder();
        let occupied = match (logged, has_checkpoint(&checkpoints)) {
            (true, _) => steps,
            (false, true) => checkpoints,
            (false, false) => return Ok(()),
        };
        let occupied = occupied.display();
        Err(format!("{occupied} is of a run already: --resume it, or choose another --output")
            .into())
    }
}

fn has_checkpoint(folder: &Path) -> bool {
    let is_checkpoint = |name: &str| name.strip_prefix("step-")?.parse::<u64>().ok();
    fs::read_dir(folder).is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.file_name().to_str().and_then(is_checkpoint).is_some())
        })
    })
}
