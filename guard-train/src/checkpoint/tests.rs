//! Checkpoints on a file system that fails, and checkpoints that somebody damaged.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use guard_core::burn::tensor::{Device, Tensor};
use guard_core::{NamedTensor, WeightsError};

use super::folder::{CheckpointFolder, Parts};
use super::manifest::{Best, MadeWith, Part, Progress};
use super::storage::{Disk, Storage};
use super::{CheckpointError, CheckpointFault, CheckpointOptions};

/// Fails one call, and writes half of what that was to write.
#[derive(Clone, Debug)]
struct Faulty {
    calls: Arc<AtomicUsize>,
    fails_at: usize,
    kind: io::ErrorKind,
}

impl Faulty {
    fn new(fails_at: usize, kind: io::ErrorKind) -> Self {
        Self { calls: Arc::default(), fails_at, kind }
    }

    fn turn(&self) -> io::Result<()> {
        match self.calls.fetch_add(1, Ordering::Relaxed) {
            call if call == self.fails_at => Err(self.kind.into()),
            _ => Ok(()),
        }
    }
}

impl Storage for Faulty {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.turn()?;
        Disk.create_folder(path)
    }

    fn write_tensors(&self, path: &Path, tensors: &[NamedTensor]) -> Result<(), WeightsError> {
        if let Err(source) = self.turn() {
            let _ = std::fs::write(path, b"half");
            return Err(WeightsError::Io { action: "write", path: path.to_owned(), source });
        }
        Disk.write_tensors(path, tensors)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.turn() {
            let _ = std::fs::write(path, &bytes[..bytes.len() / 2]);
            return Err(error);
        }
        Disk.write(path, bytes)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.turn()?;
        Disk.sync_folder(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.turn()?;
        Disk.rename(from, to)
    }

    fn folders(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.turn()?;
        Disk.folders(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.turn()?;
        Disk.remove_folder(path)
    }

    fn part(&self, path: &Path) -> io::Result<Part> {
        self.turn()?;
        Disk.part(path)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        self.turn()?;
        Disk.read(path)
    }
}

fn at(windows: u64) -> Progress {
    Progress { windows, steps: windows, ..Progress::default() }
}

fn made_with() -> MadeWith {
    MadeWith { data: "d".to_owned(), ..MadeWith::default() }
}

/// Weights that tell the step.
fn parts(windows: u64) -> Parts {
    let tensor = |name: &str| NamedTensor {
        name: name.to_owned(),
        shape: vec![4],
        values: Tensor::full([4], windows as f32, &Device::flex()),
    };
    Parts { weights: vec![tensor("w")], optimizer: vec![tensor("exp_avg.w")] }
}

fn open(folder: &Path, keep_last: usize) -> CheckpointFolder {
    let options = CheckpointOptions::new(folder).with_keep_last(keep_last).with_resume();
    CheckpointFolder::open(options).unwrap()
}

/// The step of the newest checkpoint that is whole, by what its weights tell.
fn newest(folder: &mut CheckpointFolder) -> u64 {
    let found = folder.latest(&made_with()).unwrap().0.unwrap();
    let values = found.weights.read("w", &[4], &Device::flex()).unwrap();
    let told = values.into_data().try_to_vec::<f32>().unwrap()[0] as u64;
    assert_eq!(told, found.progress.windows);
    told
}

fn names(folder: &Path) -> Vec<String> {
    let name = |entry: io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
    let names = std::fs::read_dir(folder).unwrap().map(name);
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name != "run.lock");
    names.sort();
    names
}

#[test]
fn fault_t40_whatever_call_fails_one_checkpoint_is_whole() {
    let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::Other, io::ErrorKind::Interrupted];
    for kind in kinds {
        let mut failed = 0;
        for call in 0.. {
            let folder = tempfile::tempdir().unwrap();
            let options = CheckpointOptions::new(folder.path()).with_keep_last(1).with_resume();
            let mut before = open(folder.path(), 1);
            before.save(at(1), &made_with(), &parts(1)).unwrap();
            drop(before);
            let faulty = Faulty::new(call, kind);
            let saved = CheckpointFolder::open_in(options, Box::new(faulty.clone()))
                .and_then(|mut folder| folder.save(at(2), &made_with(), &parts(2)));
            let mut after = open(folder.path(), 1);
            match saved {
                Ok(_) if faulty.calls.load(Ordering::Relaxed) <= call => break,
                Ok(_) => assert_eq!(newest(&mut after), 2),
                Err(_) => {
                    failed += 1;
                    assert!((1..=2).contains(&newest(&mut after)));
                }
            }
            // And the next one is written as if nothing had been.
            after.save(at(3), &made_with(), &parts(3)).unwrap();
            assert_eq!((newest(&mut after), names(folder.path())), (3, vec!["step-3".to_owned()]));
        }
        assert!(failed >= 10, "only {failed} calls could fail");
    }
}

#[test]
fn fault_t42_as_many_are_kept_as_are_asked_for() {
    for keep in 1..=3 {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoints = open(folder.path(), keep);
        for windows in 1..=5 {
            std::fs::create_dir(folder.path().join("step-4.partial")).ok();
            checkpoints.save(at(windows), &made_with(), &parts(windows)).unwrap();
        }
        let kept: Vec<String> = (6 - keep..=5).map(|windows| format!("step-{windows}")).collect();
        assert_eq!(names(folder.path()), kept);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = open(folder.path(), 1);
    for windows in 1..=5 {
        let best = Some(Best::new(windows.min(2), 0.5));
        let progress = Progress { best, ..at(windows) };
        checkpoints.save(progress, &made_with(), &parts(windows)).unwrap();
    }
    assert_eq!(names(folder.path()), ["step-2", "step-5"]);
}

#[test]
fn fault_t42_damaged_parts_are_found_and_the_one_before_serves() {
    let files = ["weights.safetensors", "optimizer.safetensors", "manifest.json"];
    for file in files {
        for damage in ["flip", "cut", "remove"] {
            let folder = tempfile::tempdir().unwrap();
            let mut checkpoints = open(folder.path(), 2);
            checkpoints.save(at(1), &made_with(), &parts(1)).unwrap();
            checkpoints.save(at(2), &made_with(), &parts(2)).unwrap();
            let path = folder.path().join("step-2").join(file);
            let mut bytes = std::fs::read(&path).unwrap();
            match damage {
                "flip" => {
                    // The last byte of a manifest closes it.
                    *bytes.last_mut().unwrap() ^= 1;
                    std::fs::write(&path, bytes).unwrap();
                }
                "cut" => std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap(),
                _ => std::fs::remove_file(&path).unwrap(),
            }
            let (_, rejected) = checkpoints.latest(&made_with()).unwrap();
            let fault = &rejected[0].fault;
            let expected = match (file, damage) {
                ("manifest.json", _) => matches!(fault, CheckpointFault::Unreadable(_)),
                (_, "flip") => matches!(fault, CheckpointFault::Content { .. }),
                _ => matches!(fault, CheckpointFault::Size { .. }),
            };
            assert!(expected, "{file}, {damage}: {fault}");
            assert_eq!(newest(&mut checkpoints), 1);
            // It is written anew over the damaged one.
            checkpoints.save(at(2), &made_with(), &parts(2)).unwrap();
            assert_eq!(newest(&mut checkpoints), 2);
        }
    }
}

#[test]
fn fault_t42_every_bit_of_a_part_counts() {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = open(folder.path(), 1);
    checkpoints.save(at(1), &made_with(), &parts(1)).unwrap();
    let path = folder.path().join("step-1/weights.safetensors");
    let whole = std::fs::read(&path).unwrap();
    for bit in (0..whole.len() * 8).step_by(7) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, bytes).unwrap();
        let error = checkpoints.latest(&made_with()).unwrap_err();
        assert!(matches!(error, CheckpointError::NoneWhole { .. }), "{error}");
        assert!(error.to_string().contains("step-1: weights.safetensors was changed"), "{error}");
    }
}

#[test]
fn other_formats_and_other_folders_are_no_checkpoints() {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = open(folder.path(), 3);
    checkpoints.save(at(1), &made_with(), &parts(1)).unwrap();
    std::fs::rename(folder.path().join("step-1"), folder.path().join("step-7")).unwrap();
    let error = checkpoints.latest(&made_with()).unwrap_err().to_string();
    assert!(error.contains("step-7: its manifest is that of step 1"), "{error}");
    std::fs::rename(folder.path().join("step-7"), folder.path().join("step-1")).unwrap();
    let path = folder.path().join("step-1/manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"format\": 2", "\"format\": 1")).unwrap();
    let error = checkpoints.latest(&made_with()).unwrap_err().to_string();
    assert!(error.contains("its format is 1, expected 2"), "{error}");
}

#[test]
fn fault_t46_a_folder_that_cannot_be_written_keeps_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    std::fs::write(&path, "a file").unwrap();
    let error = CheckpointFolder::open(CheckpointOptions::new(&path)).unwrap_err();
    assert!(error.to_string().starts_with("cannot make the folder"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}

/// The checkpoints of these steps, of which those of `damaged` are not whole.
fn folder_with(steps: &[u64], damaged: &[u64]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = open(folder.path(), steps.len());
    for &step in steps {
        checkpoints.save(at(step), &made_with(), &parts(step)).unwrap();
    }
    for step in damaged {
        std::fs::write(folder.path().join(format!("step-{step}/manifest.json")), "{").unwrap();
    }
    folder
}

#[test]
fn fault_t42_what_was_just_written_stays_beside_a_damaged_later_one() {
    for keep_last in 1..=3 {
        let folder = folder_with(&[85, 90, 100], &[100]);
        let mut checkpoints = open(folder.path(), keep_last);
        assert_eq!(newest(&mut checkpoints), 90);
        checkpoints.save(at(95), &made_with(), &parts(95)).unwrap();
        let kept = ["step-85", "step-90", "step-95"];
        assert_eq!(names(folder.path()), kept[3 - keep_last..]);
        assert_eq!(newest(&mut checkpoints), 95);
    }
}

#[test]
fn fault_t42_the_best_and_the_one_just_written_stay() {
    let folder = folder_with(&[50, 100], &[100]);
    let mut checkpoints = open(folder.path(), 1);
    assert_eq!(newest(&mut checkpoints), 50);
    for windows in [51, 60, 99] {
        let progress = Progress { best: Some(Best::new(50, 0.5)), ..at(windows) };
        checkpoints.save(progress, &made_with(), &parts(windows)).unwrap();
        assert_eq!(names(folder.path()), ["step-50".to_owned(), format!("step-{windows}")]);
        assert_eq!(newest(&mut checkpoints), windows);
    }
}

#[test]
fn a_future_that_was_left_goes_when_another_is_whole() {
    // The run goes on from 80, and passes a damaged checkpoint that it did not write.
    let folder = folder_with(&[80, 90, 100], &[90, 100]);
    let mut checkpoints = open(folder.path(), 2);
    assert_eq!(newest(&mut checkpoints), 80);
    assert_eq!(names(folder.path()).len(), 3);
    checkpoints.save(at(95), &made_with(), &parts(95)).unwrap();
    assert_eq!(names(folder.path()), ["step-80", "step-95"]);
    // One that is not whole is written anew.
    let folder = folder_with(&[80, 90], &[90]);
    let mut checkpoints = open(folder.path(), 2);
    assert_eq!(newest(&mut checkpoints), 80);
    checkpoints.save(at(90), &made_with(), &parts(90)).unwrap();
    assert_eq!((names(folder.path()).len(), newest(&mut checkpoints)), (2, 90));
}

#[test]
fn what_is_not_ours_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["notes.partial", "step-x.partial"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    for name in ["step-7", "step-3.partial", "step-8.partial"] {
        std::fs::write(folder.path().join(name), "a file").unwrap();
    }
    let mut checkpoints = open(folder.path(), 1);
    assert!(checkpoints.latest(&made_with()).unwrap().0.is_none());
    std::fs::create_dir(folder.path().join("step-4.partial")).unwrap();
    checkpoints.save(at(5), &made_with(), &parts(5)).unwrap();
    assert_eq!(newest(&mut checkpoints), 5);
    let left = ["notes.partial", "step-3.partial", "step-5", "step-7", "step-8.partial"];
    assert_eq!(names(folder.path()), [&left[..], &["step-x.partial"]].concat());
    // Where one is in the way it is named, and nothing is lost.
    for windows in [7, 8] {
        let error = checkpoints.save(at(windows), &made_with(), &parts(windows)).unwrap_err();
        assert!(matches!(error, CheckpointError::NoFolder { .. }), "{error}");
        assert!(error.to_string().contains(&format!("step-{windows}")), "{error}");
        assert_eq!(newest(&mut checkpoints), 5);
    }
}
