//! Allocation of blocks, and a prefix tree over prompts with reference counts.
//!
//! A node is a block of a prompt: up to [`BLOCK`] token ids, reached through the nodes before it. Sequences whose
//! prompts agree up to a node share it, from the moment the first is admitted: `filled` counts the positions whose keys
//! and values are computed (or will be in the step that is being built), and the next sequence that needs the node
//! computes the rest. Nodes that no sequence holds stay until their block is needed. They are evicted in order of last
//! use, leaves first.

use std::collections::{BTreeMap, BTreeSet};

use super::kv::BLOCK;

/// A node's index.
pub(super) type NodeId = usize;

pub(super) struct PrefixNode {
    parent: Option<NodeId>,
    children: BTreeMap<Box<[u32]>, NodeId>,
    tokens: Box<[u32]>,
    pub block: u32,
    /// Positions whose keys and values are computed.
    pub filled: usize,
    /// The latest step and row in which its last token was computed. A sequence that needs the logits finds them there.
    pub last: Option<(u64, usize)>,
    holders: usize,
    used: u64,
}

impl PrefixNode {
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
    pub fn is_filled(&self) -> bool {
        self.filled == self.tokens.len()
    }
}

/// The blocks of one cache.
pub(super) struct Blocks {
    total: usize,
    free: Vec<u32>,
    /// Blocks that are promised to running sequences.
    reserved: usize,
    nodes: Vec<PrefixNode>,
    vacant: Vec<NodeId>,
    roots: BTreeMap<Box<[u32]>, NodeId>,
    /// Nodes without holders, whose blocks can be reused.
    idle: usize,
    /// Nodes without holders and children, by last use.
    leaves: BTreeSet<(u64, NodeId)>,
    clock: u64,
}

impl Blocks {
    pub fn new(total: usize) -> Self {
        Self {
            total,
            free: (0..total as u32).rev().collect(),
            reserved: 0,
            nodes: Vec::new(),
            vacant: Vec::new(),
            roots: BTreeMap::new(),
            idle: 0,
            leaves: BTreeSet::new(),
            clock: 0,
        }
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.total
    }
    /// Blocks of a prompt and `more` further positions if nothing is shared.
    pub fn needed(prompt: usize, more: usize) -> usize {
        prompt.div_ceil(BLOCK) + more.div_ceil(BLOCK)
    }
    pub fn node(&self, id: NodeId) -> &PrefixNode {
        &self.nodes[id]
    }
    pub fn node_mut(&mut self, id: NodeId) -> &mut PrefixNode {
        &mut self.nodes[id]
    }

    /// Returns the nodes of a prompt, shared ones first and new ones for the rest, and reserves `more` further blocks.
    /// Returns none if there is no room until another sequence leaves.
    pub fn admit(&mut self, prompt: &[u32], more: usize) -> Option<Vec<NodeId>> {
        let mut path = Vec::with_capacity(prompt.len().div_ceil(BLOCK));
        for chunk in prompt.chunks(BLOCK) {
            let children = path.last().map_or(&self.roots, |&id: &NodeId| &self.nodes[id].children);
            // A block is shared as a whole or not at all, because its keys depend on all tokens before it.
            let Some(&child) = children.get(chunk) else { break };
            path.push(child);
        }
        let shared = path.len();
        let fresh = prompt.len().div_ceil(BLOCK) - shared;
        // Idle nodes on the path can be evicted for others, but not for this prompt.
        let waking = path.iter().filter(|&&id| self.nodes[id].holders == 0).count();
        if fresh + more > (self.free.len() + self.idle - waking).saturating_sub(self.reserved) {
            return None;
        }
        // Held before any block is taken, so that the eviction below cannot take a node of this path.
        for &id in &path {
            self.hold(id);
        }
        self.reserved += fresh + more;
        for chunk in prompt.chunks(BLOCK).skip(shared) {
            let block = self.take_reserved();
            let parent = path.last().copied();
            let node = PrefixNode {
                parent,
                children: BTreeMap::new(),
                tokens: chunk.into(),
                block,
                filled: 0,
                last: None,
                holders: 1,
                used: 0,
            };
            let id = self.vacant.pop().unwrap_or(self.nodes.len());
            // Indices of evicted nodes are used again, so the table does not grow over a run.
            if id == self.nodes.len() {
                self.nodes.push(node)
            } else {
                self.nodes[id] = node
            }
            let siblings = parent.map_or(&mut self.roots, |p| &mut self.nodes[p].children);
            siblings.insert(chunk.into(), id);
            path.push(id);
        }
        Some(path)
    }

    fn hold(&mut self, id: NodeId) {
        let node = &mut self.nodes[id];
        node.holders += 1;
        if node.holders == 1 {
            self.idle -= 1;
            // A node with a holder must not be evicted.
            self.leaves.remove(&(node.used, id));
        }
    }

    /// Takes a reserved block, and evicts a node if no block is free.
    pub fn take_reserved(&mut self) -> u32 {
        self.reserved -= 1;
        if let Some(block) = self.free.pop() {
            return block;
        }
        let (_, id) = self.leaves.pop_first().expect("what is reserved is free or held by nobody");
        self.idle -= 1;
        let node = &mut self.nodes[id];
        let (block, parent, tokens) = (node.block, node.parent, std::mem::take(&mut node.tokens));
        self.vacant.push(id);
        match parent {
            None => self.roots.remove(&tokens),
            Some(p) => {
                let found = self.nodes[p].children.remove(&tokens);
                // Its parent may be the next leaf.
                self.settle(p);
                found
            }
        };
        block
    }

    /// Adds a node to the leaves that may be evicted, if it is one.
    fn settle(&mut self, id: NodeId) {
        let node = &self.nodes[id];
        if node.holders == 0 && node.children.is_empty() {
            self.leaves.insert((node.used, id));
        }
    }

    /// Releases the nodes, blocks and reservation of a sequence that leaves.
    pub fn release(&mut self, path: &[NodeId], own: &[u32], reserved: usize) {
        self.clock += 1;
        // Leaves first: a parent becomes idle after its children, as eviction expects.
        for &id in path.iter().rev() {
            let node = &mut self.nodes[id];
            node.holders -= 1;
            if node.holders == 0 {
                node.used = self.clock;
                self.idle += 1;
                self.settle(id);
            }
        }
        self.free.extend_from_slice(own);
        self.reserved -= reserved;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(n: usize, tail: u32) -> Vec<u32> {
        (0..n as u32).chain([tail]).collect()
    }

    #[test]
    fn equal_heads_share_blocks_and_tails_differ() {
        let mut blocks = Blocks::new(8);
        let a = blocks.admit(&prompt(39, 7), 1).unwrap();
        let b = blocks.admit(&prompt(39, 8), 1).unwrap();
        assert_eq!(a[..2], b[..2]);
        assert_ne!(a[2], b[2]);
        // 4 nodes and 2 reserved: 2 are left.
        assert!(blocks.admit(&[1], 2).is_none());
        let c = blocks.admit(&[1], 1).unwrap();
        blocks.release(&c, &[], 1);
        blocks.release(&a, &[], 1);
        blocks.release(&b, &[], 1);
        assert_eq!((blocks.idle, blocks.reserved, blocks.free.len()), (5, 0, 3));
        assert_eq!(blocks.admit(&prompt(39, 8), 0).unwrap(), b);
    }

    #[test]
    fn the_longest_unused_goes_first_and_never_what_is_held() {
        let mut blocks = Blocks::new(4);
        let a = blocks.admit(&prompt(19, 0), 0).unwrap();
        let b = blocks.admit(&[9], 0).unwrap();
        blocks.release(&b, &[], 0);
        blocks.release(&a, &[], 0);
        let a = blocks.admit(&prompt(19, 0), 0).unwrap();
        let c = blocks.admit(&[5; 17], 0).unwrap();
        assert!(!blocks.roots.contains_key(&[9u32][..]), "the idle block was evicted");
        assert!(blocks.admit(&[6], 0).is_none(), "all are held");
        blocks.release(&a, &[], 0);
        blocks.release(&c, &[], 0);
        // Leaves before their parents, so that a path is never broken in the middle.
        let d = blocks.admit(&[4], 0).unwrap();
        assert_eq!(blocks.node(d[0]).filled, 0);
        let again = blocks.admit(&prompt(19, 0), 0).unwrap();
        assert_eq!(again[0], a[0]);
    }

    /// Against a model that only counts: whatever happens, no block is lost or given twice.
    #[test]
    fn blocks_are_neither_lost_nor_given_twice() {
        let mut blocks = Blocks::new(20);
        let mut held: Vec<(Vec<NodeId>, Vec<u32>, usize)> = Vec::new();
        let mut x = 1u64;
        for _ in 0..20_000 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let r = (x >> 33) as usize;
            if r.is_multiple_of(3) && !held.is_empty() {
                let (path, own, left) = held.swap_remove(r / 3 % held.len());
                blocks.release(&path, &own, left);
            } else if r % 3 == 1 && !held.is_empty() {
                let n = held.len();
                let (_, own, left) = &mut held[r / 3 % n];
                if *left > 0 {
                    *left -= 1;
                    own.push(blocks.take_reserved());
                }
            } else {
                let prompt: Vec<u32> =
                    (0..1 + r / 3 % 60).map(|i| if i < 20 { 0 } else { (r / 200 % 3) as u32 }).collect();
                let more = r / 1000 % 3;
                held.extend(blocks.admit(&prompt, more).map(|path| (path, Vec::new(), more)));
            }
            let nodes: BTreeSet<u32> = held.iter().flat_map(|(p, ..)| p).map(|&id| blocks.node(id).block).collect();
            let own: Vec<u32> = held.iter().flat_map(|(_, own, _)| own.clone()).collect();
            let distinct: BTreeSet<u32> = own.iter().chain(&nodes).copied().collect();
            assert_eq!(distinct.len(), own.len() + nodes.len(), "a block was given twice");
            assert_eq!(own.len() + nodes.len() + blocks.idle + blocks.free.len(), 20, "a block was lost");
            assert_eq!(blocks.reserved, held.iter().map(|h| h.2).sum::<usize>());
        }
    }
}
