//! Being told how long work goes on.

use std::ops::ControlFlow;

/// How far some work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// What is being done.
    pub stage: &'static str,
    /// The rows that are done.
    pub done: u64,
    /// All rows, where that is known beforehand.
    pub total: Option<u64>,
}

impl Progress {
    /// So many rows of a stage.
    #[must_use]
    pub fn new(stage: &'static str, done: u64, total: Option<u64>) -> Self {
        Self { stage, done, total }
    }
}

/// Is told how work goes on, and can end it.
pub trait Observer {
    /// Called now and then. [`ControlFlow::Break`] ends the work.
    fn on_progress(&mut self, progress: &Progress) -> ControlFlow<()>;
}

/// Watches nothing.
impl Observer for () {
    fn on_progress(&mut self, _: &Progress) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Any function of the progress.
impl<F: FnMut(&Progress) -> ControlFlow<()>> Observer for F {
    fn on_progress(&mut self, progress: &Progress) -> ControlFlow<()> {
        self(progress)
    }
}
