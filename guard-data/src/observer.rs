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

/// Is told how work goes on, and can end it. `P` is what the work tells about itself.
pub trait Observer<P = Progress> {
    /// Called now and then. [`ControlFlow::Break`] ends the work; where it leaves a file to go on
    /// from, another run does.
    fn on_progress(&mut self, progress: &P) -> ControlFlow<()>;
}

/// Watches nothing.
impl<P> Observer<P> for () {
    fn on_progress(&mut self, _: &P) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Any function of the progress.
impl<P, F: FnMut(&P) -> ControlFlow<()>> Observer<P> for F {
    fn on_progress(&mut self, progress: &P) -> ControlFlow<()> {
        self(progress)
    }
}
