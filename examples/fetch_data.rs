//! Fetches a file of a dataset from the Hugging Face hub, and checks it against a manifest.
//!
//! cargo run --release --features hub --example fetch_data -- --dataset PKU-Alignment/BeaverTails --file round0/30k/train.jsonl.gz --manifest manifest.json --pin

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use guard_data::{FileName, Hub, Manifest, Observer, Trust};
use guard_examples::lines::{self, Outcome};
use guard_examples::progress;

/// Fetch a file of a dataset.
#[derive(Parser)]
struct Arguments {
    /// The dataset: owner/name.
    #[arg(long)]
    dataset: String,
    /// The file in it.
    #[arg(long)]
    file: String,
    /// A commit, tag or branch.
    #[arg(long, default_value = "main")]
    revision: String,
    /// The sizes and SHA-256 of files that are known.
    #[arg(long)]
    manifest: PathBuf,
    /// Take the file as it comes if the manifest does not know it, and write it down there.
    #[arg(long)]
    pin: bool,
}

fn main() -> ExitCode {
    lines::exit(run(&Arguments::parse()))
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let name = FileName::of_dataset(&arguments.dataset, &arguments.revision, &arguments.file);
    let mut manifest = Manifest::open(&arguments.manifest)?;
    let trust = if arguments.pin { Trust::FirstUse } else { Trust::Pinned };
    let bar = Mutex::new(progress::Watch::new());
    let hub = Hub::new()?.with_watch(move |progress| {
        let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = bar.on_progress(progress);
    });
    let path = hub.fetch(&name, &mut manifest, trust)?;
    drop(hub);
    manifest.write(&arguments.manifest)?;
    lines::print(&format!("{}\n", path.display()))
}
