//! A progress bar on standard error, hidden when that is no terminal.

use std::ops::ControlFlow;
use std::time::Duration;

use guard_data::{Observer, Progress};
use indicatif::{ProgressBar, ProgressStyle};

/// A bar for `total` items, of which `done` are done already.
#[must_use]
pub fn bar(done: usize, total: usize) -> ProgressBar {
    const TEMPLATE: &str = "{bar:30} {pos}/{len} {per_sec} {eta} left {msg}";
    let style =
        ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total as u64).with_style(style).with_position(done as u64)
}

/// Shows the progress of work on data.
#[derive(Debug)]
pub struct Watch {
    bar: ProgressBar,
    stage: &'static str,
}

impl Watch {
    /// Shows nothing until work goes on.
    #[must_use]
    pub fn new() -> Self {
        Self { bar: ProgressBar::hidden(), stage: "" }
    }

    fn start(&mut self, progress: &Progress) {
        self.bar.finish_and_clear();
        self.stage = progress.stage;
        self.bar = match progress.total {
            Some(total) => bar(0, usize::try_from(total).unwrap_or(usize::MAX)),
            None => {
                let style = ProgressStyle::with_template("{spinner} {pos} {per_sec} {msg}");
                let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
                ProgressBar::new_spinner().with_style(style)
            }
        };
        self.bar.enable_steady_tick(Duration::from_millis(200));
        self.bar.set_message(progress.stage);
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Observer for Watch {
    fn on_progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        if self.stage != progress.stage {
            self.start(progress);
        }
        self.bar.set_position(progress.done);
        ControlFlow::Continue(())
    }
}
