//! The paged cache of keys and values, and attention over it.
//!
//! A block holds [`BLOCK`] positions of all layers. Which blocks make up a sequence is said by its table: a list of
//! [`Span`]s, so that sequences share blocks and a shared prompt may end within one. Keys and values are written
//! once, in place, and never copied afterwards.

mod composed;
mod fused;

use candle_core::{Device, Result, Tensor};

use crate::model::{Attention, Config};

/// Positions in a block.
pub(super) const BLOCK: usize = 16;

/// The part of a model's configuration that the cache depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Shape {
    pub fn of(config: &Config) -> Self {
        Self {
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            kv_heads: config.kv_heads(),
            head_dim: config.head_dim(),
        }
    }
    /// Bytes of a block over all layers, keys and values. They are f32, whatever type the weights have.
    pub fn block_bytes(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * BLOCK * size_of::<f32>()
    }
}

/// The first `len` positions of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub block: u32,
    pub len: u32,
}

/// One row of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Index of the row's table. Rows of one table are consecutive.
    pub table: usize,
    /// How many positions of the table it sees, its own included; at least 1.
    pub visible: usize,
    /// Block and offset that its key and value are written to; none where they are there already.
    pub write: Option<(u32, u32)>,
}

/// What attention needs to know about a step, the same for every layer.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub tables: Vec<Vec<Span>>,
    pub rows: Vec<Row>,
}

/// A cache on some device.
pub(super) trait Store: Send {
    /// Writes the step's keys and values of one layer, then attends. Shapes as in [`Attention::attend`].
    fn attend(&mut self, plan: &Plan, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor>;
}

/// A cache of `blocks` blocks: fused code on the CPU, composed candle operations otherwise.
pub(super) fn store(shape: Shape, blocks: usize, device: &Device) -> Result<Box<dyn Store>> {
    Ok(match device {
        Device::Cpu => {
            let bytes = blocks.saturating_mul(shape.block_bytes());
            // An allocation that fails would end the process: it is tried where it can fail.
            if Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
                candle_core::bail!("the system does not give {bytes} bytes for the cache of keys and values");
            }
            Box::new(fused::Fused::new(shape, blocks))
        }
        _ => Box::new(composed::Composed::new(shape, blocks, device)?),
    })
}

/// A step's view of the cache, as the model wants it.
pub(super) struct Paged<'a> {
    pub store: &'a mut dyn Store,
    pub plan: &'a Plan,
}

impl Attention for Paged<'_> {
    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        self.store.attend(self.plan, layer, q, k, v)
    }
}

#[cfg(test)]
mod tests;
