//! Doubles of the public traits, for tests of code that uses a guard.
//!
//! ```
//! use guard_core::testing::ScriptedGuard;
//! use guard_core::{Answer, Exchange, Guard, Harm, Verdict};
//!
//! let guard = ScriptedGuard::new(|exchange| {
//!     let harmful = exchange.request().contains("bomb");
//!     let label = if harmful { Harm::Harmful } else { Harm::Unharmful };
//!     Ok(Verdict::new(Answer::Given(label), Answer::NotApplicable, Answer::NotApplicable))
//! });
//! let verdict = guard.judge_one(&Exchange::prompt("How is bread baked?")).unwrap();
//! assert_eq!(verdict.request.answer, Answer::Given(Harm::Unharmful));
//! ```

use std::convert::Infallible;
use std::fmt;
use std::sync::Mutex;

use crate::completed::{Completed, Finish};
use crate::exchange::Exchange;
use crate::generate::{GenerateOptions, TextGenerator};
use crate::guard::{Guard, GuardError, GuardInfo, JudgeOptions};
use crate::label::Task;
use crate::prompt::Prompt;
use crate::verdict::Verdict;

/// A generator that answers with what a function says, and remembers its prompts.
pub struct ScriptedGenerator<F> {
    script: F,
    prompts: Mutex<Vec<Prompt>>,
}

impl<F> fmt::Debug for ScriptedGenerator<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedGenerator").finish_non_exhaustive()
    }
}

impl<F: Fn(&Prompt) -> String> ScriptedGenerator<F> {
    /// A generator whose text for a prompt is what `script` returns.
    pub fn new(script: F) -> Self {
        Self { script, prompts: Mutex::default() }
    }

    /// The prompts so far, in order.
    pub fn prompts(&self) -> Vec<Prompt> {
        match self.prompts.lock() {
            Ok(prompts) => prompts.clone(),
            Err(poisoned) => poisoned.into_inner().clone(),
        }
    }
}

impl<F: Fn(&Prompt) -> String> TextGenerator for ScriptedGenerator<F> {
    type Error = Infallible;

    fn generate(
        &self,
        prompts: &[Prompt],
        options: &GenerateOptions,
    ) -> Vec<Result<Vec<Completed>, Infallible>> {
        if let Ok(mut seen) = self.prompts.lock() {
            seen.extend_from_slice(prompts);
        }
        let complete = |prompt| Completed::new((self.script)(prompt), Finish::EndOfText);
        prompts.iter().map(|prompt| Ok(vec![complete(prompt); options.samples])).collect()
    }
}

/// A guard that says what a function says.
pub struct ScriptedGuard<F> {
    info: GuardInfo,
    script: F,
}

impl<F> fmt::Debug for ScriptedGuard<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedGuard").field("info", &self.info).finish_non_exhaustive()
    }
}

impl<F> ScriptedGuard<F>
where
    F: Fn(&Exchange) -> Result<Verdict, GuardError> + Send + Sync,
{
    /// A guard whose verdict on an exchange is what `script` returns.
    pub fn new(script: F) -> Self {
        Self { info: GuardInfo::new("scripted", &Task::ALL), script }
    }
}

impl<F> Guard for ScriptedGuard<F>
where
    F: Fn(&Exchange) -> Result<Verdict, GuardError> + Send + Sync,
{
    fn info(&self) -> &GuardInfo {
        &self.info
    }

    fn judge(&self, items: &[Exchange], _: &JudgeOptions) -> Vec<Result<Verdict, GuardError>> {
        items.iter().map(&self.script).collect()
    }
}
