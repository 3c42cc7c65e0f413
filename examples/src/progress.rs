//! A progress bar on standard error, or a line now and then when that is no terminal.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use guard_data::{Observer, Progress};
use indicatif::{ProgressBar, ProgressStyle};

use crate::lines;

/// Time between two lines.
const BETWEEN_LINES: Duration = Duration::from_secs(10);

/// A bar for `total` items, of which `done` are done already.
#[must_use]
pub fn bar(done: usize, total: usize) -> ProgressBar {
    const TEMPLATE: &str = "{bar:30} {pos}/{len} {per_sec} {eta} left {msg}";
    let style =
        ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total as u64).with_style(style).with_position(done as u64)
}

/// Lets a line through now and then.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    every: Duration,
    last: Option<Instant>,
}

impl Pace {
    /// Lines this far apart; the first is due at once.
    #[must_use]
    pub fn new(every: Duration) -> Self {
        Self { every, last: None }
    }

    /// Counts from now on.
    pub fn restart(&mut self) {
        self.last = Some(Instant::now());
    }

    /// Whether it is time for a line, which is counted then.
    pub fn is_due(&mut self) -> bool {
        let due = self.last.is_none_or(|last| last.elapsed() >= self.every);
        if due {
            self.restart();
        }
        due
    }
}

/// A line every ten seconds.
impl Default for Pace {
    fn default() -> Self {
        Self::new(BETWEEN_LINES)
    }
}

/// Shows the progress of work on data.
#[derive(Debug)]
pub struct Watch {
    bar: ProgressBar,
    stage: &'static str,
    pace: Pace,
}

impl Watch {
    /// Shows nothing until work goes on.
    #[must_use]
    pub fn new() -> Self {
        Self { bar: ProgressBar::hidden(), stage: "", pace: Pace::default() }
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
        // Work that is done at once needs no line.
        self.pace.restart();
    }

    /// The line for readers without a terminal, when it is time for one.
    fn line(&mut self, progress: &Progress) -> Option<String> {
        let Progress { stage, done, total, .. } = progress;
        let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
        self.pace.is_due().then(|| format!("{stage}: {done}{of}"))
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
        if !std::io::stderr().is_terminal()
            && let Some(line) = self.line(progress)
        {
            lines::tell(&line);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_work_tells_a_line_now_and_then() {
        let mut watch = Watch::new();
        let progress = |done| Progress::new("encoding", done, Some(9));
        watch.start(&progress(0));
        assert_eq!(watch.line(&progress(1)), None);
        watch.pace = Pace::new(Duration::ZERO);
        assert_eq!(watch.line(&progress(2)).unwrap(), "encoding: 2 of 9");
        assert_eq!(watch.line(&Progress::new("reading", 3, None)).unwrap(), "reading: 3");
        let mut pace = Pace::default();
        assert!(pace.is_due() && !pace.is_due());
    }
}
