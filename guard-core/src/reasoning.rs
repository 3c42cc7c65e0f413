//! The reasoning that a guard wrote before its answers.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::label::Task;
use crate::redacted::Redacted;

/// The reasoning of a guard: its text, and the same text as tasks and their steps.
///
/// It is model output about hostile text: show it to reviewers, not to end users, and escape it
/// as you would escape the moderated text. `Debug` shows the length of its texts only.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasoning {
    /// What the model wrote before its block of answers.
    pub text: String,
    /// The tasks in the order in which they were written.
    pub tasks: Vec<TaskReasoning>,
}

impl Reasoning {
    /// The number of reasoning steps in all tasks.
    #[must_use]
    pub fn step_count(&self) -> usize {
        self.tasks.iter().map(|task| task.steps.len()).sum()
    }

    /// All steps, in the order in which they were written.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.tasks.iter().flat_map(|task| &task.steps)
    }
}

/// What was written about one task.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReasoning {
    /// The task; `None` for text outside any of the three.
    pub task: Option<Task>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The conclusion, if it is marked as one.
    pub conclusion: Option<String>,
}

/// One step of reasoning.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The text of the step, without its heading.
    pub text: String,
}

impl fmt::Debug for Reasoning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reasoning")
            .field("text", &Redacted(&self.text))
            .field("tasks", &self.tasks)
            .finish()
    }
}

impl fmt::Debug for TaskReasoning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskReasoning")
            .field("task", &self.task)
            .field("steps", &self.steps)
            .field("conclusion", &self.conclusion.as_deref().map(Redacted))
            .finish()
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Step").field("text", &Redacted(&self.text)).finish()
    }
}
