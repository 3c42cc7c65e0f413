//! The four seed sets of GuardReasonerTrain in their original files, with the paper's label rules.

mod rows;

use std::path::{Path, PathBuf};

use crate::sample::Sample;
use crate::source::{SampleSource, Samples, SourceError};
use crate::table::{TableFile, TableRow};

/// A published set of labelled exchanges that guards are trained on (paper, table 1).
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrainingSet {
    /// Its name in this project.
    pub name: &'static str,
    /// Where it is published.
    pub home: &'static str,
    /// The file there.
    pub file: &'static str,
    /// Its licence: two forbid commercial use.
    pub licence: &'static str,
    /// The rows of the file.
    pub rows: usize,
    /// The samples that they give.
    pub samples: usize,
    /// Who to cite.
    pub citation: &'static str,
}

/// The seed sets, in the order of the paper's table 1.
pub const TRAINING_SETS: [TrainingSet; 4] = [
    TrainingSet {
        name: "WildGuardTrain",
        home: "huggingface.co/datasets/allenai/wildguardmix",
        file: "train/wildguard_train.parquet",
        licence: "ODC-BY",
        rows: 86_759,
        samples: 86_759,
        citation: "Han et al. 2024, arXiv 2406.18495",
    },
    TrainingSet {
        name: "AegisTrain",
        home: "huggingface.co/datasets/nvidia/Aegis-AI-Content-Safety-Dataset-1.0",
        file: "the Parquet file of the split `train`",
        licence: "CC-BY-4.0",
        rows: 10_798,
        samples: 10_798,
        citation: "Ghosh et al. 2024, arXiv 2404.05993",
    },
    TrainingSet {
        name: "BeaverTailsTrain",
        home: "huggingface.co/datasets/PKU-Alignment/BeaverTails",
        file: "round0/30k/train.jsonl.gz",
        licence: "CC-BY-NC-4.0",
        rows: 27_186,
        samples: 27_186,
        citation: "Ji et al. 2023, arXiv 2307.04657",
    },
    TrainingSet {
        name: "ToxicChatTrain",
        home: "huggingface.co/datasets/lmsys/toxic-chat",
        file: "data/0124/toxic-chat_annotation_train.csv",
        licence: "CC-BY-NC-4.0",
        rows: 5_082,
        samples: 2_801,
        citation: "Lin et al. 2023, arXiv 2310.17389",
    },
];

/// The set of this name, whatever its case, also without `Train` at its end.
///
/// ```
/// assert_eq!(guard_data::training_set("toxicchat").map(|set| set.samples), Some(2_801));
/// assert_eq!(guard_data::training_set("nonsense"), None);
/// ```
#[must_use]
pub fn training_set(name: &str) -> Option<&'static TrainingSet> {
    TRAINING_SETS.iter().find(|set| {
        let short = set.name.strip_suffix("Train").unwrap_or(set.name);
        set.name.eq_ignore_ascii_case(name) || short.eq_ignore_ascii_case(name)
    })
}

/// The original file of a seed set, as a source.
///
/// The labels follow the reference's script, with one difference: a label that a set does not have
/// is left out, where the script writes `None` for the teacher to copy or to decide.
///
/// - **WildGuardTrain:** all three labels as they are; a null is no label.
/// - **AegisTrain:** the request label only. The annotation that most annotators gave counts, of
///   equals the first: `Safe` is unharmful, anything else (`Needs Caution` too) harmful. All texts
///   count as requests, those of assistants too.
/// - **BeaverTailsTrain:** the response label only, from `is_safe`.
/// - **ToxicChatTrain:** the request label only, from `toxicity`, of the rows that people annotated.
///
/// Samples are named by the line, or row, of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainingFile {
    set: &'static TrainingSet,
    table: TableFile,
}

impl TrainingFile {
    /// The set's file at this path. Nothing is read yet.
    ///
    /// # Errors
    ///
    /// [`SourceError::Format`] when the name of the file does not tell a known format.
    pub fn open(set: &'static TrainingSet, path: impl Into<PathBuf>) -> Result<Self, SourceError> {
        Ok(Self { set, table: TableFile::open(path)? })
    }

    /// The set.
    #[must_use]
    pub fn set(&self) -> &'static TrainingSet {
        self.set
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.table.path()
    }
}

impl SampleSource for TrainingFile {
    fn name(&self) -> &str {
        self.set.name
    }

    fn samples(&self) -> Result<Samples<'_>, SourceError> {
        let read = rows::reader(self.set);
        let samples = self.table.rows()?.filter_map(move |(line, row)| {
            let sample = row.and_then(|row| {
                read(&row).map_err(|fault| SourceError::row(self.path(), line, fault))
            });
            let named = |sample: Sample| Sample { id: line.to_string(), ..sample };
            Some(sample.transpose()?.map(named))
        });
        Ok(Box::new(samples))
    }
}

/// What a row of an original file is as a sample, without an id; `None` for one that the set leaves
/// out.
type ReadRow = fn(&TableRow) -> Result<Option<Sample>, crate::row::RowFault>;
