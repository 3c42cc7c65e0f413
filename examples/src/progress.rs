//! A progress bar on standard error, hidden when that is no terminal.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for `total` items, of which `done` are done already.
#[must_use]
pub fn bar(done: usize, total: usize) -> ProgressBar {
    const TEMPLATE: &str = "{bar:30} {pos}/{len} {per_sec} {eta} left {msg}";
    let style =
        ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total as u64).with_style(style).with_position(done as u64)
}
