//! Memory that several threads write to in places of their own.
#![allow(unsafe_code, reason = "threads write to parts of one memory")]

use std::ops::Range;

/// Values in memory that belongs to somebody else.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    start: *mut T,
    len: usize,
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

// SAFETY: a pointer and a length. What is done with them is said at `slice`.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub(crate) fn new(values: &mut [T]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len() }
    }

    /// A part of the values.
    ///
    /// # Safety
    ///
    /// The values still exist, and nobody else reads or writes this part as long as the slice is used.
    ///
    /// # Panics
    ///
    /// When there are not so many values.
    #[inline(always)]
    pub(crate) unsafe fn slice<'a>(self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the values; for the rest the caller vouches.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start)
        }
    }

    /// Values that are only read.
    pub(crate) fn of_read(values: &[T]) -> Self {
        Self { start: values.as_ptr().cast_mut(), len: values.len() }
    }

    /// A part of the values, to be read.
    ///
    /// # Safety
    ///
    /// The values still exist, and nobody writes to this part as long as the slice is used.
    ///
    /// # Panics
    ///
    /// When there are not so many values.
    #[inline(always)]
    pub(crate) unsafe fn read<'a>(self, range: Range<usize>) -> &'a [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the values; for the rest the caller vouches.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.end - range.start) }
    }

    /// Sets one value.
    ///
    /// # Safety
    ///
    /// The values still exist and may be written to, and nobody else uses this one meanwhile.
    ///
    /// # Panics
    ///
    /// When there is no such value.
    #[inline(always)]
    pub(crate) unsafe fn set(self, at: usize, value: T) {
        assert!(at < self.len);
        // SAFETY: within the values; for the rest the caller vouches.
        unsafe { self.start.add(at).write(value) };
    }

    /// A part of the memory.
    ///
    /// # Panics
    ///
    /// When there are not so many values.
    pub(crate) fn part(self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len);
        Self { start: self.start.wrapping_add(range.start), len: range.end - range.start }
    }
}
