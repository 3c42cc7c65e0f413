//! Memory of keys and values, in pages that are used again.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use half::f16;

/// The most memory that is kept of pages that nobody has, in bytes.
const KEPT: usize = 64 << 20;

/// Pages of one size that nobody has any more. A text needs some for each 64 tokens, and getting them from the
/// system time and again takes several hundredths of the time in which it is written.
pub(super) struct Pages {
    size: usize,
    free: Mutex<Vec<Vec<f16>>>,
}

/// A page, which goes back when nobody has it any more. A new one may hold what another text has left.
pub(super) struct Page {
    values: Vec<f16>,
    pages: Arc<Pages>,
}

impl Pages {
    /// Pages of so many numbers.
    pub(super) fn new(size: usize) -> Self {
        Self { size, free: Mutex::default() }
    }

    /// A page of whatever content.
    pub(super) fn take(self: &Arc<Self>) -> Page {
        let free = self.free().pop();
        let values = free.unwrap_or_else(|| vec![f16::ZERO; self.size]);
        Page { values, pages: Arc::clone(self) }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Vec<f16>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        let mut free = self.pages.free();
        if (free.len() + 1) * size_of_val(&values[..]) <= KEPT {
            free.push(values);
        }
    }
}

impl Clone for Page {
    fn clone(&self) -> Self {
        let mut page = self.pages.take();
        page.values.copy_from_slice(&self.values);
        page
    }
}

impl Deref for Page {
    type Target = [f16];

    fn deref(&self) -> &[f16] {
        &self.values
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut [f16] {
        &mut self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_come_back_and_are_kept_within_bounds() {
        let pages = Arc::new(Pages::new(8));
        let mut page = pages.take();
        page[3] = f16::ONE;
        let copy = page.clone();
        assert_eq!(copy[..], page[..]);
        let place = page.as_ptr();
        drop(page);
        assert_eq!(pages.take().as_ptr(), place);
        drop(copy);
        assert_eq!(pages.free().len(), 2);
        // A third of what is kept each: three of five.
        let pages = Arc::new(Pages::new(KEPT / 6));
        drop((0..5).map(|_| pages.take()).collect::<Vec<_>>());
        assert_eq!(pages.free().len(), 3);
    }
}
