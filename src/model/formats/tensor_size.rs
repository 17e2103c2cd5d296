//! Sizes of tensors as stated in files.

/// Returns the number of elements of a tensor; `None` if it does not fit a `usize`.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}
