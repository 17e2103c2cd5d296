//! A network of candle-transformers with what it has read so far.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{gemma3, qwen2, qwen3};

use super::config::Settings;
use crate::error::{Error, Result};

/// Most tokens of a pass: bounds the memory for the attention's scores.
const CHUNK: usize = 256;

#[derive(Clone)]
enum Kind {
    Qwen2(qwen2::ModelForCausalLM),
    Qwen3(qwen3::ModelForCausalLM),
    Gemma3(gemma3::Model),
}

/// A network, and the keys and values of the tokens it has read.
///
/// It cannot be cloned freely: Gemma's caches are written in place, so clones would write into each other. What can be
/// copied safely is [`Network::fork`].
pub struct Network {
    kind: Kind,
    device: Device,
    /// Tokens read.
    read: usize,
    /// Tokens that it has room for.
    positions: usize,
    /// Positions that Gemma's sliding layers keep, in a ring.
    window: Option<usize>,
}

/// A copy of a network that goes on by itself; the network waits until it is dropped.
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
        settings: &Settings,
        weights: &BTreeMap<String, Tensor>,
        device: &Device,
        positions: usize,
    ) -> Result<Self> {
        let tensors = weights.iter().map(|(name, w)| (name.clone(), w.clone())).collect();
        let builder = VarBuilder::from_tensors(tensors, DType::F32, device);
        let kind = match (settings.family, &settings.gemma) {
            (crate::model::family::Family::Qwen2, _) => {
                Kind::Qwen2(qwen2::ModelForCausalLM::new(&settings.qwen2(positions), builder)?)
            }
            (crate::model::family::Family::Qwen3, _) => {
                Kind::Qwen3(qwen3::ModelForCausalLM::new(&settings.qwen3(positions), builder)?)
            }
            (crate::model::family::Family::Gemma3, Some(gemma)) => {
                Kind::Gemma3(gemma3::Model::new(false, &settings.gemma3(gemma, positions), builder)?)
            }
            (crate::model::family::Family::Gemma3, None) => return Err(Error::bug("a Gemma without its options")),
        };
        let window = settings.gemma.as_ref().map(|g| g.window.min(positions));
        Ok(Self { kind, device: device.clone(), read: 0, positions, window })
    }

    /// Forgets what it has read.
    pub fn clear(&mut self) {
        match &mut self.kind {
            Kind::Qwen2(m) => m.clear_kv_cache(),
            Kind::Qwen3(m) => m.clear_kv_cache(),
            Kind::Gemma3(m) => m.clear_kv_cache(),
        }
        self.read = 0;
    }

    /// How many of the next `left` tokens one pass may read. candle-transformers lets a pass over several tokens of a
    /// sliding layer see one position too many once they are more than the window, and fails where the ring is full;
    /// a pass over one token is right everywhere.
    fn pass(&self, left: usize) -> usize {
        let room = self.window.map_or(CHUNK, |w| w.saturating_sub(self.read).max(1));
        left.min(room).min(CHUNK)
    }

    /// Reads at least one token, in as many passes as needed, and returns the logits after the last, `[vocab_size]`.
    /// `before` is asked before each pass over so many tokens and may stop it.
    ///
    /// # Errors
    /// There are no tokens or no room for them, `before` says so, or whatever candle reports.
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
                Kind::Qwen2(m) => m.forward(&input, self.read),
                Kind::Qwen3(m) => m.forward(&input, self.read),
                Kind::Gemma3(m) => m.forward(&input, self.read),
            };
            last = Some(logits?);
            self.read += now.len();
            rest = later;
        }
        let last = last.ok_or_else(|| Error::bug("a pass over no tokens"))?;
        Ok(last.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?)
    }

    /// A copy that may read `more` tokens and leaves this network as it is; none if that is impossible.
    ///
    /// Qwen's caches are new tensors with each token. Gemma's are written in place and shared by copies: beyond what
    /// this network has read that harms nothing while only one copy is used at a time, which the borrow ensures; but
    /// once the ring of a sliding layer comes round, it would overwrite what this network still needs.
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
