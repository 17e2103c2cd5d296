//! Sizes that a file states for a tensor.

/// Numbers of elements and bytes of a tensor; `None` if they do not fit a `usize`.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}
