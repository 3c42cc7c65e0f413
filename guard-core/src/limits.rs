//! When calls end that are not done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::completed::Finish;

/// Ends calls before they are done: whoever holds a clone of it can.
///
/// A call looks at it after each piece of work, as at a deadline: texts that go on then end as
/// [`Finish::Cancelled`].
///
/// ```
/// use guard_core::Cancel;
///
/// let cancel = Cancel::default();
/// let held_by_the_call = cancel.clone();
/// cancel.cancel();
/// assert!(held_by_the_call.is_cancelled());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Ends the calls that look at this. It cannot be undone.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether they are to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Clones are equal, and nothing else is.
impl PartialEq for Cancel {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// When a call ends that is not done. Default: never.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Limits {
    /// The most wall time for the whole call. Default none.
    pub deadline: Option<Duration>,
    /// What ends the call early. Default none.
    pub cancel: Option<Cancel>,
}

impl Limits {
    /// These limits.
    #[must_use]
    pub fn new(deadline: Option<Duration>, cancel: Option<Cancel>) -> Self {
        Self { deadline, cancel }
    }

    /// Why a call that has taken this long is to end, if it is.
    #[must_use]
    pub fn exceeded(&self, elapsed: Duration) -> Option<Finish> {
        if self.cancel.as_ref().is_some_and(Cancel::is_cancelled) {
            return Some(Finish::Cancelled);
        }
        self.deadline.filter(|deadline| elapsed >= *deadline).map(|_| Finish::Deadline)
    }
}
