//! Layout of the cache and of a step over it.

use candle_core::{Result, Tensor};

use crate::model::Config;

/// Positions in a block.
pub(crate) const BLOCK: usize = 16;

/// The part of a model's configuration that the cache depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheShape {
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl CacheShape {
    pub fn from_config(config: &Config) -> Self {
        Self {
            layers: config.num_hidden_layers,
            heads: config.num_attention_heads,
            kv_heads: config.kv_heads(),
            head_dim: config.head_dim(),
        }
    }
    /// Bytes of a block over all layers, keys and values. They are f32, independent of the weights' type.
    pub fn block_bytes(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * BLOCK * size_of::<f32>()
    }
}

/// The first `len` positions of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockSpan {
    pub block: u32,
    pub len: u32,
}

/// One row of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepRow {
    /// Index of the row's table. Rows of one table are consecutive.
    pub table: usize,
    /// Number of positions of the table that it attends to, including its own; at least 1.
    pub visible: usize,
    /// Block and offset to write its key and value to; none if they are already written.
    pub write: Option<(u32, u32)>,
}

/// The layout of a step for attention, the same for every layer.
#[derive(Debug, Default)]
pub(crate) struct StepPlan {
    pub tables: Vec<Vec<BlockSpan>>,
    pub rows: Vec<StepRow>,
}

/// A cache on some device.
pub(crate) trait KvStore: Send {
    /// Writes the step's keys and values of one layer, then attends. Shapes as in [`Attention::attend`].
    fn attend(&mut self, plan: &StepPlan, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor>;
}
