//! A network of candle-transformers with the tokens that it has read.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma3, qwen2, qwen3};

use super::config::FamilySettings;
use crate::error::{Error, Result};

/// Maximum tokens per pass, which bounds the memory for attention scores.
const CHUNK: usize = 256;

#[derive(Clone)]
enum NetworkKind {
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
    Gemma3(gemma3::Model),
}

/// A network, with the keys and values of the tokens that it has read.
///
/// It is not `Clone`: Gemma's caches are written in place, so clones would overwrite each other.
/// [`Network::fork`] makes the copies that are safe.
pub struct Network {
    kind: NetworkKind,
    device: Device,
    /// Count of tokens read.
    read: usize,
    /// Capacity in tokens.
    positions: usize,
    /// Positions that Gemma's sliding layers keep, in a ring buffer.
    window: Option<usize>,
}

/// A copy of a network that continues independently. It borrows the network until it is dropped.
pub struct ForkedCache<'a> {
    network: Network,
    of: PhantomData<&'a mut Network>,
}

impl Deref for ForkedCache<'_> {
    type Target = Network;
    fn deref(&self) -> &Network {
        &self.network
    }
}
impl DerefMut for ForkedCache<'_> {
    fn deref_mut(&mut self) -> &mut Network {
        &mut self.network
    }
}

impl Network {
    pub(super) fn new(
        settings: &FamilySettings,
        weights: &BTreeMap<String, Tensor>,
        device: &Device,
        positions: usize,
    ) -> Result<Self> {
        let tensors = weights.iter().map(|(name, w)| (name.clone(), w.clone())).collect();
        let builder = VarBuilder::from_tensors(tensors, DType::F32, device);
        let kind = match (settings.family, &settings.gemma) {
            (crate::model::family::Family::Qwen2, _) => {
                NetworkKind::Qwen2(qwen2::ModelForCausalLM::new(&settings.qwen2(positions), builder)?)
            }
            (crate::model::family::Family::Qwen3, _) => {
                NetworkKind::Qwen3(qwen3::ModelForCausalLM::new(&settings.qwen3(positions), builder)?)
            }
            (crate::model::family::Family::Gemma3, Some(gemma)) => {
                NetworkKind::Gemma3(gemma3::Model::new(false, &settings.gemma3(gemma, positions), builder)?)
            }
            (crate::model::family::Family::Gemma3, None) => return Err(Error::bug("a Gemma without its options")),
        };
        let window = settings.gemma.as_ref().map(|g| g.window.min(positions));
        Ok(Self { kind, device: device.clone(), read: 0, positions, window })
    }

    /// Forgets all tokens.
    pub fn clear(&mut self) {
        match &mut self.kind {
            NetworkKind::Qwen2(m) => m.clear_kv_cache(),
            NetworkKind::Qwen3(m) => m.clear_kv_cache(),
            NetworkKind::Gemma3(m) => m.clear_kv_cache(),
        }
        self.read = 0;
    }

    /// Returns how many of the next `left` tokens one pass may read. A pass over several tokens is wrong in
    /// candle-transformers' sliding layers: it sees one position too many once there are more tokens than
    /// the window, and fails where the ring buffer is full. A pass over one token is always correct.
    fn pass(&self, left: usize) -> usize {
        let room = self.window.map_or(CHUNK, |w| w.saturating_sub(self.read).max(1));
        left.min(room).min(CHUNK)
    }

    /// Reads at least one token, in as many passes as needed, and returns the logits after the last,
    /// `[vocab_size]`. Calls `before` with the number of tokens before each pass; an error stops the
    /// passes.
    ///
    /// # Errors
    /// There are no tokens or no capacity for them, `before` fails, or candle fails.
    pub fn push(&mut self, ids: &[u32], mut before: impl FnMut(usize) -> Result<()>) -> Result<Vec<f32>> {
        if ids.len() > self.positions - self.read {
            return Err(Error::bug("more tokens than the network has room for"));
        }
        let mut rest = ids;
        let mut last = None;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.pass(rest.len()));
            before(now.len())?;
            let input = Tensor::new(now, &self.device)?.unsqueeze(0)?;
            let logits = match &mut self.kind {
                NetworkKind::Qwen2(m) => m.forward(&input, self.read),
                NetworkKind::Qwen3(m) => m.forward(&input, self.read),
                NetworkKind::Gemma3(m) => m.forward(&input, self.read),
            };
            last = Some(logits?);
            self.read += now.len();
            rest = later;
        }
        let last = last.ok_or_else(|| Error::bug("a pass over no tokens"))?;
        Ok(last.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
    }

    /// Returns a copy that may read `more` tokens and does not change this network, or `None` if that is
    /// impossible.
    ///
    /// Qwen's caches are new tensors with each token. Gemma's are written in place and shared by copies.
    /// Writing beyond this network's tokens is harmless while only one copy is in use, which the borrow
    /// ensures. But once a sliding layer's ring buffer wraps around, the copy would overwrite what this
    /// network still needs.
    pub fn fork(&mut self, more: usize) -> Option<ForkedCache<'_>> {
        if self.window.is_some_and(|w| more > w.saturating_sub(self.read)) {
            return None;
        }
        let positions = self.read.saturating_add(more).min(self.positions);
        let (kind, device) = (self.kind.clone(), self.device.clone());
        let network = Self { kind, device, read: self.read, positions, window: self.window };
        Some(ForkedCache { network, of: PhantomData })
    }
}
