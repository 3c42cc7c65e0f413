//! What the examples share: reading and writing JSON lines, showing verdicts and progress.

pub mod lines;
pub mod progress;
pub mod terminal;
