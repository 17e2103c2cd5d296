//! The imperfect writer of seed responses: it tries to answer, and slips on each aspect now and then.

use super::draw::Draw;
use super::world::{CATEGORIES, COUNTS, Instruction, Order, THANKS};

/// Probabilities of the writer's slips, independent for each aspect.
#[derive(Clone, Copy, Debug)]
pub struct Slips {
    /// One word is of another category.
    pub kind: f64,
    /// One or two words too many or too few.
    pub count: f64,
    /// A word is repeated in the place of another.
    pub repeat: f64,
    /// The words are left in a random order.
    pub order: f64,
    /// `thanks` is added where it should not be, or left out.
    pub closing: f64,
}

impl Slips {
    /// The writer of the IFT responses: often wrong, so that there is something left to learn from judging.
    pub const IFT: Slips = Slips { kind: 0.25, count: 0.25, repeat: 0.25, order: 0.5, closing: 0.35 };

    /// The writer of the EFT responses: carefulness differs from row to row, so that every score occurs.
    pub(super) fn eft(draw: &mut Draw) -> Slips {
        let u = draw.unit();
        Slips { kind: 0.6 * u, count: 0.7 * u, repeat: 0.6 * u, order: 0.8 * u, closing: 0.8 * u }
    }
}

/// A request drawn uniformly from those that are not held out.
pub(super) fn request(draw: &mut Draw) -> Instruction {
    loop {
        let request = any_request(draw);
        if !request.is_held_out() {
            return request;
        }
    }
}

fn any_request(draw: &mut Draw) -> Instruction {
    Instruction {
        verb: draw.below(super::world::VERBS.len()),
        count: COUNTS.start() + draw.below(COUNTS.count()),
        category: draw.below(CATEGORIES.len()),
        order: draw.pick(&Order::ALL),
        polite: draw.chance(0.5),
    }
}

/// A response to the request, with slips.
pub(super) fn respond(request: &Instruction, slips: &Slips, draw: &mut Draw) -> String {
    let pool = &request.category().words;
    let mut words = draw.sample(pool, request.count);
    let [kind, count, repeat, order, closing] =
        [slips.kind, slips.count, slips.repeat, slips.order, slips.closing].map(|p| draw.chance(p));
    if kind {
        let foreign = (request.category + 1 + draw.below(CATEGORIES.len() - 1)) % CATEGORIES.len();
        let place = draw.below(words.len());
        words[place] = draw.pick(&CATEGORIES[foreign].words);
    }
    if count {
        match draw.pick(&[-2i32, -1, -1, 1, 1, 2]) {
            more @ 1.. => {
                let unused: Vec<_> = pool.iter().copied().filter(|w| !words.contains(w)).collect();
                words.extend(draw.sample(&unused, more as usize));
            }
            fewer => {
                for _ in 0..(fewer.unsigned_abs() as usize).min(words.len() - 1) {
                    words.remove(draw.below(words.len()));
                }
            }
        }
    }
    if repeat && words.len() > 1 {
        let (from, to) = draw.two(words.len());
        words[to] = words[from];
    }
    match request.order {
        _ if order => draw.shuffle(&mut words),
        Order::Any => {}
        Order::Alphabetical => words.sort_unstable(),
        Order::Reverse => words.sort_unstable_by(|a, b| b.cmp(a)),
    }
    if request.polite != closing {
        words.push(THANKS);
    }
    words.join(" ")
}
