//! Rows that have one text.

use std::collections::HashMap;

use super::row::Place;

/// Rows with one text.
pub(super) struct Group {
    /// In the order of first rows.
    number: u64,
    /// Where its first row is.
    first: Place,
    pub(super) rows: u64,
    /// Which labels the rows give: a bit for each task's positive, and for each negative label.
    labels: u8,
}

impl Group {
    pub(super) fn add(
        groups: &mut HashMap<u128, Self>,
        hash: u128,
        labels: u8,
        place: impl Fn() -> Place,
    ) {
        let number = groups.len() as u64;
        let group = groups.entry(hash).or_insert_with(|| Self {
            number,
            first: place(),
            rows: 0,
            labels: 0,
        });
        group.rows += 1;
        group.labels |= labels;
    }

    /// The groups of several rows, in the order of their first rows.
    pub(super) fn sorted(groups: &HashMap<u128, Self>) -> impl Iterator<Item = &Self> {
        let mut several: Vec<&Self> = groups.values().filter(|group| group.rows > 1).collect();
        several.sort_unstable_by_key(|group| group.number);
        several.into_iter()
    }

    pub(super) fn conflicts(&self) -> bool {
        self.labels & (self.labels >> 3) & 7 != 0
    }

    pub(super) fn place(&self) -> String {
        format!("{} and {} more", self.first, self.rows - 1)
    }
}
