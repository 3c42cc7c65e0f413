//! The results that the paper publishes, to put a run beside.

use guard_core::Task;
use serde::Deserialize;

/// The F1 of the systems in the paper's tables, in percent.
///
/// ```
/// use guard_eval::{Published, Task};
///
/// let published = Published::paper();
/// assert_eq!(published.f1("GuardReasoner 8B", "AegisSafetyTest"), Some(90.18));
/// assert_eq!(published.average("GuardReasoner 8B", Task::Request), Some(81.09));
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct Published {
    /// Where the numbers are from.
    pub source: String,
    /// A table for each task.
    pub tables: Vec<PublishedTable>,
    /// The plain means of the tasks' averages.
    pub averages: PublishedAverages,
}

/// The systems on the benchmarks of one task.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct PublishedTable {
    /// The task.
    pub task: Task,
    /// The number of the table in the paper.
    pub paper_table: u32,
    /// The benchmarks, in the order of the columns.
    pub benchmarks: Vec<String>,
    /// The rows with which each is weighted.
    pub weights: Vec<u64>,
    /// The systems, in the paper's order.
    pub systems: Vec<PublishedRow>,
}

/// One system in a table.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct PublishedRow {
    /// The system.
    pub system: String,
    /// Its F1 on each benchmark, in percent; `None` where the paper has none.
    pub f1: Vec<Option<f64>>,
    /// The weighted mean, in percent.
    pub weighted: Option<f64>,
}

/// The three-task averages.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct PublishedAverages {
    /// The number of the table in the paper.
    pub paper_table: u32,
    /// The systems, best first.
    pub systems: Vec<PublishedMacro>,
}

/// The three-task average of one system.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct PublishedMacro {
    /// The system.
    pub system: String,
    /// The mean, in percent.
    #[serde(rename = "macro")]
    pub macro_average: f64,
}

impl Published {
    /// Tables 2, 5, 8 and 10 of arXiv 2501.18492v2.
    #[must_use]
    pub fn paper() -> Self {
        // The file is part of the crate and read by a test, so the error cannot arise.
        serde_json::from_str(include_str!("../data/published.json")).unwrap_or_else(|_| Self {
            source: String::new(),
            tables: Vec::new(),
            averages: PublishedAverages { paper_table: 0, systems: Vec::new() },
        })
    }

    /// The F1 of a system on a benchmark, in percent.
    #[must_use]
    pub fn f1(&self, system: &str, benchmark: &str) -> Option<f64> {
        self.tables.iter().find_map(|table| {
            let column = table.benchmarks.iter().position(|name| name == benchmark)?;
            *table.systems.iter().find(|row| row.system == system)?.f1.get(column)?
        })
    }

    /// The weighted mean of a system over the benchmarks of a task, in percent.
    #[must_use]
    pub fn average(&self, system: &str, task: Task) -> Option<f64> {
        let table = self.tables.iter().find(|table| table.task == task)?;
        table.systems.iter().find(|row| row.system == system)?.weighted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::benchmark;

    /// The tables agree with themselves: what the paper averages can be averaged again.
    #[test]
    fn averages_follow_from_the_tables() {
        let published = Published::paper();
        assert_eq!(published.tables.len(), 3);
        for table in &published.tables {
            for (name, weight) in table.benchmarks.iter().zip(&table.weights) {
                let known = benchmark(name).unwrap();
                assert_eq!((known.task, known.paper_rows), (table.task, *weight), "{name}");
            }
            for row in &table.systems {
                assert_eq!(row.f1.len(), table.weights.len());
                let Some(f1) = row.f1.iter().copied().collect::<Option<Vec<f64>>>() else {
                    continue;
                };
                let total: u64 = table.weights.iter().sum();
                let sum: f64 = f1.iter().zip(&table.weights).map(|(f1, w)| f1 * *w as f64).sum();
                let found = sum / total as f64;
                assert!((found - row.weighted.unwrap()).abs() < 0.011, "{}: {found}", row.system);
            }
        }
        for system in &published.averages.systems {
            let mean = |task| published.average(&system.system, task).unwrap();
            let found = Task::ALL.map(mean).iter().sum::<f64>() / 3.0;
            assert!((found - system.macro_average).abs() < 0.011, "{}", system.system);
        }
    }
}
