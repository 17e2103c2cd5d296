//! Joins the rows of two steps by key, across microbatches.
//!
//! Both sides are indexed by key, microbatch by microbatch, as their files are committed. The n-th row with
//! a key on one side is the partner of the n-th row with that key on the other. So every row has at most
//! one partner, which depends on the rows alone. A microbatch is joined as soon as all its rows have
//! partners, or else when both sides are complete in its iteration: only then is it certain that a row has
//! no partner.
//!
//! An index needs about 80 bytes for each row of the iteration on either side. Files are read twice: once
//! for their keys, once for the rows that are partners.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};

use super::joined::{Join, Joined, KeysOf};
use super::operator::{Context, Operator};
use crate::data::Epoch;
use crate::error::{Error, Result};
use crate::pipeline::Step;
use crate::store::Run;

/// The place of a row within an iteration of a step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Place {
    /// Number of its microbatch.
    pub microbatch: u32,
    /// Row in the microbatch.
    pub row: u32,
}

/// The places of the rows with one key, in order.
enum Places {
    One(Place),
    Many(Vec<Place>),
}

impl Places {
    fn as_slice(&self) -> &[Place] {
        match self {
            // Most keys have one row. A vector for each would double the memory of an index.
            Places::One(place) => std::slice::from_ref(place),
            Places::Many(places) => places,
        }
    }
    fn push(&mut self, place: Place) {
        match self {
            Places::One(first) => *self = Places::Many(vec![*first, place]),
            Places::Many(places) => places.push(place),
        }
    }
}

/// An index by key of the rows of one step's iteration that have been read so far.
#[derive(Default)]
struct KeyIndex {
    places: HashMap<u128, Places>,
    /// Number of microbatches that have been read.
    read: u32,
    /// Number of microbatches of the iteration, once it is complete.
    length: Option<u32>,
}

impl KeyIndex {
    fn add(&mut self, microbatch: u32, keys: &[u128]) {
        for (row, key) in (0..).zip(keys) {
            let place = Place { microbatch, row };
            self.places.entry(*key).and_modify(|p| p.push(place)).or_insert(Places::One(place));
        }
    }
    /// Returns the position of the row at `place` among the rows with this key, counted from 0.
    fn ordinal(&self, key: u128, place: Place) -> Result<usize> {
        // Places are added in order, so a binary search finds them.
        let found = self.places.get(&key).and_then(|p| p.as_slice().binary_search(&place).ok());
        found.ok_or_else(|| Error::bug("a row of a join is not in its index"))
    }
    fn nth(&self, key: u128, n: usize) -> Option<Place> {
        self.places.get(&key)?.as_slice().get(n).copied()
    }
    /// Returns for each row of a microbatch with these keys its partner in `other`.
    fn partners(&self, other: &Self, microbatch: u32, keys: &[u128]) -> Result<Vec<Option<Place>>> {
        let partner = |(row, key): (u32, &u128)| {
            let n = self.ordinal(*key, Place { microbatch, row })?;
            Ok(other.nth(*key, n))
        };
        (0..).zip(keys).map(partner).collect()
    }
}

/// One side of a join: an iteration of a step.
struct JoinSide<'a> {
    run: &'a Run,
    step: &'a str,
    iteration: u32,
}

impl<'a> JoinSide<'a> {
    fn new(cx: &'a Context<'_>, step: &'a str) -> Self {
        Self { run: cx.run(), step, iteration: cx.iteration_of(step) }
    }
    fn load(&self, microbatch: u32) -> Result<Option<RecordBatch>> {
        self.run.load(self.step, Epoch::new(self.iteration, microbatch))
    }
    /// Returns the number of microbatches in the iteration, once all are committed.
    fn length(&self) -> u32 {
        let files = self.run.files(self.step);
        let numbers = files.iter().filter(|f| f.iteration == self.iteration).map(|f| f.microbatch + 1);
        numbers.max().unwrap_or(0)
    }
    /// Extends `index` up to and including microbatch `last`, or to the end. `loaded` is a microbatch that
    /// is loaded already.
    fn extend(
        &self,
        index: &mut KeyIndex,
        keys: KeysOf,
        last: Option<u32>,
        loaded: Option<(u32, &RecordBatch)>,
    ) -> Result<()> {
        let end = match last {
            Some(last) => last + 1,
            // Listing the files is slow, and a complete iteration does not change.
            None => *index.length.get_or_insert_with(|| self.length()),
        };
        while index.read < end {
            let microbatch = index.read;
            match loaded {
                Some((number, rows)) if number == microbatch => index.add(microbatch, &keys(rows)?),
                _ => {
                    if let Some(rows) = self.load(microbatch)? {
                        index.add(microbatch, &keys(&rows)?);
                    }
                }
            }
            index.read += 1;
        }
        Ok(())
    }
}

/// Both sides of a join in one iteration.
#[derive(Default)]
struct Sides {
    ours: KeyIndex,
    theirs: KeyIndex,
}

type SharedSides = Arc<Mutex<Sides>>;

/// The join indices of a run, shared by all threads.
#[derive(Default)]
pub(super) struct Joins {
    /// By joining step and iteration.
    open: Mutex<BTreeMap<(String, u32), SharedSides>>,
}

impl Joins {
    /// Returns the indices of a step's iteration. Those of old iterations are dropped; one that is needed
    /// after all is rebuilt.
    fn sides(&self, step: &str, iteration: u32) -> SharedSides {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // Iterations overlap by one at most, so older indices would only use memory.
        open.retain(|(name, of), _| name != step || of + 1 >= iteration);
        Arc::clone(open.entry((step.to_owned(), iteration)).or_default())
    }

    /// Joins a microbatch of a finished run; `None` if the step joins nothing.
    pub(super) fn join_finished(&self, cx: &Context<'_>) -> Result<Option<Joined>> {
        let joins = cx.step.inputs.iter().any(|i| i.joined);
        let Some(join) = cx.step.op.join().filter(|_| joins) else { return Ok(None) };
        Ok(self.join(cx, join, true)?.map(|(_, joined)| joined))
    }

    /// Returns the rows of the first input and the rows joined to them. Returns `None` if a row has no
    /// partner yet and the inputs are not `complete` in the iteration; both are always complete up to this
    /// microbatch.
    pub(super) fn join(&self, cx: &Context<'_>, join: Join, complete: bool) -> Result<Option<(RecordBatch, Joined)>> {
        let (first, other) = inputs(cx.step)?;
        let (our_side, their_side) = (JoinSide::new(cx, first), JoinSide::new(cx, other));
        let microbatch = cx.epoch.microbatch;
        let ours = first_rows(cx)?;
        let theirs = their_side.load(microbatch)?.map_or_else(|| empty(cx, other), Ok)?;
        let Join::ByKey(keys) = join else {
            let files = hash_of(&their_side, microbatch).into_iter().collect();
            let partner_of = vec![None; ours.num_rows()];
            return Ok(Some((ours, Joined { partners: theirs.slice(0, 0), partner_of, unmatched: theirs, files })));
        };
        let sides = self.sides(&cx.step.name, cx.epoch.iteration);
        let (partners, matched) = {
            let mut sides = sides.lock().unwrap_or_else(PoisonError::into_inner);
            let Sides { ours: our_index, theirs: their_index } = &mut *sides;
            // Files after this microbatch may not be committed yet, unless the inputs are complete.
            let last = (!complete).then_some(microbatch);
            our_side.extend(our_index, keys, last, Some((microbatch, &ours)))?;
            their_side.extend(their_index, keys, last, Some((microbatch, &theirs)))?;
            let partners = our_index.partners(their_index, microbatch, &keys(&ours)?)?;
            // Their rows are matched too: a row without a partner on our side must be accounted for.
            (partners, their_index.partners(our_index, microbatch, &keys(&theirs)?)?)
        };
        if !complete && partners.iter().chain(&matched).any(Option::is_none) {
            return Ok(None);
        }
        let alone = (0..).zip(&matched).filter(|(_, m)| m.is_none()).map(|(row, _)| row);
        let unmatched = take_record_batch(&theirs, &UInt32Array::from_iter_values(alone))?;
        let joined = gather(&their_side, (microbatch, &theirs), &partners, unmatched)?;
        Ok(Some((ours, joined)))
    }
}

/// Returns the names of the first and the joined input.
fn inputs(step: &Step<dyn Operator>) -> Result<(&str, &str)> {
    let first = step.inputs.iter().find(|i| !i.whole && !i.joined);
    let other = step.inputs.iter().find(|i| i.joined);
    let both = first.zip(other).map(|(a, b)| (a.step.as_str(), b.step.as_str()));
    both.ok_or_else(|| Error::bug(format!("step `{}` joins nothing", step.name)))
}

/// Returns the rows of the first input in a joined microbatch; no rows if it has no microbatch of that
/// number.
pub(super) fn first_rows(cx: &Context<'_>) -> Result<RecordBatch> {
    let (first, _) = inputs(cx.step)?;
    JoinSide::new(cx, first).load(cx.epoch.microbatch)?.map_or_else(|| empty(cx, first), Ok)
}

/// Returns an empty batch of a step's schema.
fn empty(cx: &Context<'_>, step: &str) -> Result<RecordBatch> {
    let step = cx.shared.plan.step(step);
    let step = step.ok_or_else(|| Error::bug("an input is not in the plan"))?;
    Ok(step.schema.empty())
}

fn hash_of(side: &JoinSide<'_>, microbatch: u32) -> Option<String> {
    side.run.committed(side.step, Epoch::new(side.iteration, microbatch)).map(|f| f.hash)
}

/// Reads the partners, one file at a time.
fn gather(
    side: &JoinSide<'_>,
    loaded: (u32, &RecordBatch),
    partners: &[Option<Place>],
    unmatched: RecordBatch,
) -> Result<Joined> {
    let mut places: Vec<Place> = partners.iter().flatten().copied().collect();
    // In order of files, so that each file is read once.
    places.sort_unstable();
    let partner_of = partners.iter().map(|p| p.and_then(|place| places.binary_search(&place).ok())).collect();
    let mut taken: Vec<RecordBatch> = Vec::new();
    let mut files: Vec<String> = Vec::new();
    for of_file in places.chunk_by(|a, b| a.microbatch == b.microbatch) {
        let microbatch = of_file[0].microbatch;
        let rows = if microbatch == loaded.0 { Some(loaded.1.clone()) } else { side.load(microbatch)? };
        let rows = rows.ok_or_else(|| Error::bug("a microbatch of a join is gone"))?;
        let numbers = UInt32Array::from_iter_values(of_file.iter().map(|p| p.row));
        taken.push(take_record_batch(&rows, &numbers)?);
        files.extend(hash_of(side, microbatch));
    }
    if unmatched.num_rows() > 0 {
        files.extend(hash_of(side, loaded.0).filter(|hash| !files.contains(hash)));
    }
    let partners = concat_batches(&loaded.1.schema(), &taken)?;
    Ok(Joined { partners, partner_of, unmatched, files })
}

/// Matches the rows of two barrier inputs by key over their whole iteration.
pub struct Matching {
    keys: KeysOf,
    ours: KeyIndex,
    theirs: KeyIndex,
}

impl Matching {
    /// Indexes the rows of two steps.
    ///
    /// # Errors
    /// A file cannot be read, or lacks the key.
    pub fn new(cx: &Context<'_>, ours: &str, theirs: &str, keys: KeysOf) -> Result<Self> {
        let mut matching = Self { keys, ours: KeyIndex::default(), theirs: KeyIndex::default() };
        JoinSide::new(cx, ours).extend(&mut matching.ours, keys, None, None)?;
        JoinSide::new(cx, theirs).extend(&mut matching.theirs, keys, None, None)?;
        Ok(matching)
    }
    /// Returns for each row of a microbatch of `ours` the place of its partner.
    ///
    /// # Errors
    /// The rows are not those of this microbatch.
    pub fn of_ours(&self, microbatch: u32, rows: &RecordBatch) -> Result<Vec<Option<Place>>> {
        self.ours.partners(&self.theirs, microbatch, &(self.keys)(rows)?)
    }
    /// Returns for each row of a microbatch of `theirs` the place of its partner.
    ///
    /// # Errors
    /// The rows are not those of this microbatch.
    pub fn of_theirs(&self, microbatch: u32, rows: &RecordBatch) -> Result<Vec<Option<Place>>> {
        self.theirs.partners(&self.ours, microbatch, &(self.keys)(rows)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(microbatches: &[&[u128]]) -> KeyIndex {
        let mut index = KeyIndex::default();
        for (number, keys) in (0..).zip(microbatches) {
            index.add(number, keys);
        }
        index
    }

    #[test]
    fn rows_meet_by_key_whatever_their_microbatches() {
        let ours = index(&[&[1, 2], &[3, 1]]);
        let theirs = index(&[&[3], &[9, 1], &[2, 2, 1, 1]]);
        let place = |microbatch, row| Some(Place { microbatch, row });
        assert_eq!(ours.partners(&theirs, 0, &[1, 2]).unwrap(), [place(1, 1), place(2, 0)]);
        // The second row with key 1 is the partner of the second one on the other side.
        assert_eq!(ours.partners(&theirs, 1, &[3, 1]).unwrap(), [place(0, 0), place(2, 2)]);
        assert_eq!(theirs.partners(&ours, 1, &[9, 1]).unwrap(), [None, place(0, 0)]);
        assert_eq!(theirs.partners(&ours, 2, &[2, 2, 1, 1]).unwrap(), [place(0, 1), None, place(1, 1), None]);
        assert!(ours.partners(&theirs, 0, &[7]).is_err());
    }
}
