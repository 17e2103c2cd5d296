//! The oracle: five verdicts on any response text, one point each.

use super::world::{Instruction, THANKS, category_of};

/// The verdicts on a response, one for each aspect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verdicts {
    /// Every word is of the category asked for.
    pub kind: bool,
    /// There are as many words as asked for.
    pub count: bool,
    /// No word comes twice.
    pub distinct: bool,
    /// The words stand in the order asked for, equal neighbours allowed; any order if none was asked for.
    pub order: bool,
    /// `thanks` ends the response if, and only if, politeness was asked for.
    pub closing: bool,
}

impl Verdicts {
    /// Names of the aspects, in the order of [`Verdicts::points`].
    pub const ASPECTS: [&'static str; 5] = ["kind", "count", "distinct", "order", "closing"];

    /// Judges a response. Any text is allowed. A response without a listed word, or with a word of no category, has
    /// no points.
    pub fn of(request: &Instruction, response: &str) -> Self {
        let mut words: Vec<&str> = response.split_whitespace().collect();
        let thanked = words.pop_if(|w| *w == THANKS).is_some();
        let categories: Option<Vec<_>> = words.iter().map(|w| category_of(w)).collect();
        let Some(categories) = categories.filter(|c| !c.is_empty()) else { return Self::default() };
        let mut sorted = words.clone();
        sorted.sort_unstable();
        sorted.dedup();
        Self {
            kind: categories.iter().all(|c| c.name == request.category().name),
            count: words.len() == request.count,
            distinct: sorted.len() == words.len(),
            order: request.order.holds(&words),
            closing: thanked == request.polite,
        }
    }
    /// One entry per aspect.
    pub fn points(&self) -> [bool; 5] {
        [self.kind, self.count, self.distinct, self.order, self.closing]
    }
    /// The score, 0 to 5.
    pub fn score(&self) -> u8 {
        self.points().into_iter().map(u8::from).sum()
    }
}

/// The score, 0 to 5, of a response text to a request text. `None` if the request does not belong to this world.
pub fn score(request: &str, response: &str) -> Option<u8> {
    Some(Verdicts::of(&Instruction::parse(request)?, response).score())
}
