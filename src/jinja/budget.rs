//! The budget of a rendering. Every step of a template pays for itself and for every byte that it makes or reads, so
//! the budget bounds time and memory.

use super::error::{Result, TemplateError, TemplateErrorKind};

/// Bytes that one unit of work makes or reads.
const BYTES_A_UNIT: usize = 32;
/// Maximum nested evaluations (expressions, blocks, macro calls). Each takes about 1 KiB of stack, which the test
/// `template_limits` checks.
const MAX_DEPTH: u32 = 400;

/// The remaining budget.
pub(super) struct Budget {
    work: u64,
    depth: u32,
}

impl Budget {
    pub(super) fn new(work: u64) -> Self {
        Self { work, depth: 0 }
    }

    /// Pays for some steps.
    pub(super) fn spend(&mut self, units: usize) -> Result<()> {
        match self.work.checked_sub(units as u64) {
            Some(left) => {
                self.work = left;
                Ok(())
            }
            None => Err(TemplateError::new(TemplateErrorKind::Limit, "it does more work than a template may do")),
        }
    }

    /// Pays for bytes that are made or read. Call it before the bytes are allocated.
    pub(super) fn spend_bytes(&mut self, bytes: usize) -> Result<()> {
        self.spend(bytes / BYTES_A_UNIT + 1)
    }

    /// Pays for the elements of a list. Call it before they are allocated.
    pub(super) fn spend_items(&mut self, items: usize) -> Result<()> {
        self.spend(items.saturating_add(1))
    }

    /// Begins a nested evaluation; [`Budget::leave`] ends it. After an error the budget is not used again.
    pub(super) fn enter(&mut self) -> Result<()> {
        if self.depth == MAX_DEPTH {
            return Err(TemplateError::new(
                TemplateErrorKind::Limit,
                "its blocks, expressions or macros are nested too deeply",
            ));
        }
        self.depth += 1;
        self.spend(1)
    }

    pub(super) fn leave(&mut self) {
        self.depth -= 1;
    }
}
