//! What a set of reasoned samples holds, in the numbers of the paper's table 1.

use std::collections::BTreeMap;
use std::fmt;

use guard_core::Reasoning;
use guard_core::visible;
use serde::Serialize;

/// The size of a set of traces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Statistics {
    /// The samples.
    pub samples: u64,
    /// The reasoning steps of all samples, as the parser reads them: what stands under a heading
    /// `## Reasoning Step`, and text under a task, or before the first one, without one.
    pub steps: u64,
    /// The tasks under which there is a step.
    pub tasks: u64,
    /// The characters of all steps, without their headings.
    pub step_chars: u64,
    /// The characters of all outputs.
    pub output_chars: u64,
}

impl Statistics {
    /// Counts the reasoning of one more sample.
    pub fn record(&mut self, output: &str, reasoning: &Reasoning) {
        self.samples += 1;
        self.output_chars += chars(output);
        for task in &reasoning.tasks {
            self.tasks += u64::from(task.task.is_some() && !task.steps.is_empty());
            self.steps += task.steps.len() as u64;
            self.step_chars += task.steps.iter().map(|step| chars(&step.text)).sum::<u64>();
        }
    }

    /// The numbers of both sets together.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.samples += other.samples;
        self.steps += other.steps;
        self.tasks += other.tasks;
        self.step_chars += other.step_chars;
        self.output_chars += other.output_chars;
        self
    }

    /// Steps a sample; 0 without samples.
    #[must_use]
    pub fn mean_steps(&self) -> f64 {
        ratio(self.steps, self.samples)
    }

    /// Steps a task that has any. The paper's means of about 3.6 may be of this kind: its text
    /// does not say, and the outputs of its models have about 7 steps.
    #[must_use]
    pub fn mean_steps_per_task(&self) -> f64 {
        ratio(self.steps, self.tasks)
    }

    /// Characters a step.
    #[must_use]
    pub fn mean_step_chars(&self) -> f64 {
        ratio(self.step_chars, self.steps)
    }

    /// Characters an output.
    #[must_use]
    pub fn mean_output_chars(&self) -> f64 {
        ratio(self.output_chars, self.samples)
    }
}

fn chars(text: &str) -> u64 {
    text.chars().count() as u64
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Statistics by source, and of all together.
///
/// Shown, it is a table like the paper's table 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct StatisticsTable {
    sources: BTreeMap<String, Statistics>,
}

impl StatisticsTable {
    /// The most sources that have numbers of their own; those beyond are counted as `others`.
    pub const MOST_SOURCES: usize = 100;

    /// The numbers of a source, to record more.
    pub fn source(&mut self, name: &str) -> &mut Statistics {
        let is_full = self.sources.len() >= Self::MOST_SOURCES;
        let name = if is_full && !self.sources.contains_key(name) { "others" } else { name };
        self.sources.entry(name.to_owned()).or_default()
    }

    /// The sources by name, with their numbers.
    pub fn sources(&self) -> impl Iterator<Item = (&str, &Statistics)> {
        self.sources.iter().map(|(name, statistics)| (name.as_str(), statistics))
    }

    /// The numbers of all sources.
    #[must_use]
    pub fn total(&self) -> Statistics {
        self.sources.values().fold(Statistics::default(), Statistics::and)
    }

    /// Adds the numbers of another table.
    pub fn merge(&mut self, other: &Self) {
        for (name, statistics) in &other.sources {
            let source = self.source(name);
            *source = source.and(statistics);
        }
    }
}

impl fmt::Display for StatisticsTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.total();
        let rows = self.sources().chain((self.sources.len() != 1).then_some(("total", &total)));
        // Names come from files: a long one, or one that steers the terminal, does neither here.
        let shown =
            |name: &str| visible(&name.chars().take(40).collect::<String>()).replace('\n', " ");
        let rows: Vec<_> = rows.map(|(name, of)| (shown(name), of)).collect();
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0).max(6);
        writeln!(
            f,
            "{:<width$}  {:>8}  {:>8}  {:>12}  {:>10}  {:>10}  {:>12}",
            "source",
            "samples",
            "steps",
            "steps/sample",
            "steps/task",
            "chars/step",
            "chars/output"
        )?;
        for (name, of) in rows {
            writeln!(
                f,
                "{name:<width$}  {:>8}  {:>8}  {:>12.2}  {:>10.2}  {:>10.2}  {:>12.1}",
                of.samples,
                of.steps,
                of.mean_steps(),
                of.mean_steps_per_task(),
                of.mean_step_chars(),
                of.mean_output_chars()
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use guard_core::parse::parse_output;

    use super::*;

    #[test]
    fn the_numbers_are_those_counted_by_hand() {
        let output = "# Task 1\n## Reasoning Step 1\nabcd\n## Reasoning Step 2\nüb\n# Task 2\n\
                      ## Reasoning Step 1\nabc\n# Task 3\nAnswers:\nRequest: harmful";
        let mut table = StatisticsTable::default();
        let reasoning = parse_output(output).reasoning;
        table.source("a").record(output, &reasoning);
        table.source("a").record("", &parse_output("").reasoning);
        table.source("b").record(output, &reasoning);
        let a = *table.source("a");
        assert_eq!((a.samples, a.steps, a.step_chars), (2, 3, 4 + 2 + 3));
        assert_eq!((a.mean_steps(), a.mean_steps_per_task(), a.mean_step_chars()), (1.5, 1.5, 3.0));
        assert_eq!(a.output_chars, output.chars().count() as u64);
        assert_eq!(table.total().steps, 6);
        assert_eq!(Statistics::default().mean_steps(), 0.0);
        assert!(table.to_string().lines().last().unwrap().starts_with("total"), "{table}");
        let mut hostile = StatisticsTable::default();
        for number in 0..200 {
            hostile.source(&format!("{number}\u{1b}[2J\n{}", "x".repeat(70_000)));
        }
        assert_eq!(hostile.sources().count(), StatisticsTable::MOST_SOURCES + 1);
        let shown = hostile.to_string();
        assert!(!shown.contains('\u{1b}') && shown.lines().count() == 103, "{}", shown.len());
        let mut twice = table.clone();
        twice.merge(&table);
        assert_eq!(twice.total().samples, 6);
    }
}
