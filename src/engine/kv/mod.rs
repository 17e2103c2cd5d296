//! The paged cache of keys and values, and attention over it.
//!
//! A block holds [`BLOCK`] positions of all layers. A sequence has a table of its blocks, a list of [`BlockSpan`]s,
//! so that sequences can share blocks and a shared prompt may end within one. Keys and values are written once, in
//! place, and never copied afterwards.

mod composed;
mod fused;
mod plan;

use candle_core::{Device, Result, Tensor};

use crate::model::Attention;

pub(super) use plan::{BLOCK, BlockSpan, CacheShape, KvStore, StepPlan, StepRow};

/// A cache of `blocks` blocks: fused code on the CPU, composed candle operations otherwise.
pub(super) fn store(shape: CacheShape, blocks: usize, device: &Device) -> Result<Box<dyn KvStore>> {
    Ok(match device {
        Device::Cpu => {
            let bytes = blocks.saturating_mul(shape.block_bytes());
            // A failed allocation would abort the process, so it is tried first in a way that can return an error.
            if Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
                candle_core::bail!("the system does not give {bytes} bytes for the cache of keys and values");
            }
            Box::new(fused::FusedCache::new(shape, blocks))
        }
        _ => Box::new(composed::Composed::new(shape, blocks, device)?),
    })
}

/// A step's view of the cache, as the model wants it.
pub(super) struct Paged<'a> {
    pub store: &'a mut dyn KvStore,
    pub plan: &'a StepPlan,
}

impl Attention for Paged<'_> {
    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.store.attend(self.plan, layer, q, k, v)
    }
}

#[cfg(test)]
mod tests;
