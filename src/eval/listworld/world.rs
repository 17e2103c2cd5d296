//! Categories, words, requests, and the vocabulary.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::LazyLock;

use crate::data::Id;

/// Words in a category.
pub const WORDS: usize = 12;

/// A named set of words, in alphabetical order.
#[derive(Debug)]
pub struct Category {
    /// Its name, as requests say it.
    pub name: &'static str,
    /// Its words; no word is in two categories.
    pub words: [&'static str; WORDS],
}

/// The eight categories: 96 words, roughly one per initial letter in each.
#[rustfmt::skip]
pub static CATEGORIES: [Category; 8] = [
    Category { name: "animals", words: ["ape", "bear", "cat", "dog", "eagle", "fox", "goat", "horse", "iguana", "jackal", "koala", "lion"] },
    Category { name: "fruits", words: ["apple", "banana", "cherry", "date", "elderberry", "fig", "grape", "kiwi", "lemon", "mango", "nectarine", "orange"] },
    Category { name: "colours", words: ["amber", "blue", "crimson", "denim", "ebony", "fuchsia", "green", "hazel", "indigo", "jade", "lilac", "maroon"] },
    Category { name: "tools", words: ["axe", "brush", "chisel", "drill", "edger", "file", "gouge", "hammer", "jack", "knife", "ladder", "mallet"] },
    Category { name: "foods", words: ["avocado", "bread", "cheese", "dumpling", "egg", "fries", "gravy", "ham", "icecream", "jelly", "lasagna", "muffin"] },
    Category { name: "clothes", words: ["apron", "boots", "coat", "dress", "earmuffs", "frock", "gloves", "hat", "jacket", "kilt", "leggings", "mittens"] },
    Category { name: "vehicles", words: ["ambulance", "bus", "car", "dinghy", "ferry", "glider", "helicopter", "jeep", "kayak", "limousine", "minivan", "plane"] },
    Category { name: "jobs", words: ["actor", "baker", "clerk", "dentist", "editor", "farmer", "guard", "hunter", "inventor", "jeweller", "lawyer", "miner"] },
];

/// Number words; requests use two to five.
pub const NUMBERS: [&str; 9] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight"];
/// What a request may start with.
pub const VERBS: [&str; 3] = ["list", "name", "write"];
/// How many words a request may ask for.
pub const COUNTS: std::ops::RangeInclusive<usize> = 2..=5;
/// The word that ends a polite response.
pub const THANKS: &str = "thanks";

#[rustfmt::skip]
/// Function words of requests, judgements and pretraining text.
const FUNCTION: [&str; 27] = [
    "in", "alphabetical", "reverse", "order", "any", "politely", THANKS, "plain", "list", "name", "write", "judge",
    "score", "yes", "no", "different", "repeated", "things", "task", "once", "twice", "first", "up", "down", "level",
    ":", ".",
];

/// The category that a word belongs to.
pub fn category_of(word: &str) -> Option<&'static Category> {
    CATEGORIES.iter().find(|c| c.words.contains(&word))
}

/// Every word in the order of their token ids: `<unk>`, the plain words, then the three control tokens.
///
/// The control tokens are not words of the tokenizer's model, only added tokens at its end: text that spells `<end>`
/// encodes to `<unk>` when special tokens are disabled, so that no response can end its own turn.
pub fn vocabulary() -> Vec<&'static str> {
    let mut all = vec!["<unk>"];
    all.extend(["0", "1", "2", "3", "4", "5"]);
    all.extend(FUNCTION);
    all.extend(NUMBERS);
    all.extend(CATEGORIES.iter().map(|c| c.name));
    all.extend(CATEGORIES.iter().flat_map(|c| c.words));
    all.extend(["<pad>", "<bos>", "<end>"]);
    all
}

/// The order that a request asks for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Order {
    /// No order was asked for.
    Any,
    /// `in alphabetical order`.
    Alphabetical,
    /// `in reverse order`: from z to a.
    Reverse,
}

impl Order {
    /// The three orders.
    pub const ALL: [Order; 3] = [Order::Any, Order::Alphabetical, Order::Reverse];

    /// The word that a judgement uses for it.
    pub fn word(self) -> &'static str {
        match self {
            Order::Any => "any",
            Order::Alphabetical => "alphabetical",
            Order::Reverse => "reverse",
        }
    }
    /// The phrase that a request uses for it, with a leading space; empty for any order.
    pub fn phrase(self) -> &'static str {
        match self {
            Order::Any => "",
            Order::Alphabetical => " in alphabetical order",
            Order::Reverse => " in reverse order",
        }
    }
    /// Whether the words stand in this order; equal neighbours are in both.
    pub fn holds<W: Ord>(self, words: &[W]) -> bool {
        match self {
            Order::Any => true,
            Order::Alphabetical => words.is_sorted(),
            Order::Reverse => words.is_sorted_by(|a, b| a >= b),
        }
    }
}

/// One instruction: `(list|name|write) (two..five) CATEGORY [in alphabetical order|in reverse order] [politely]`.
/// There are 576 of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Instruction {
    /// Index into [`VERBS`].
    pub verb: usize,
    /// How many words are asked for, within [`COUNTS`].
    pub count: usize,
    /// Index into [`CATEGORIES`].
    pub category: usize,
    /// The order asked for.
    pub order: Order,
    /// Whether the response is to end with [`THANKS`].
    pub polite: bool,
}

impl Instruction {
    /// All requests, in a fixed order.
    pub fn all() -> impl Iterator<Item = Instruction> {
        (0..VERBS.len()).flat_map(|verb| {
            COUNTS.flat_map(move |count| {
                (0..CATEGORIES.len()).flat_map(move |category| {
                    Order::ALL.into_iter().flat_map(move |order| {
                        [false, true].map(|polite| Instruction { verb, count, category, order, polite })
                    })
                })
            })
        })
    }

    /// Reads a request; `None` if the text is not exactly one (but for the amount of white space).
    pub fn parse(text: &str) -> Option<Instruction> {
        let mut words = text.split_whitespace().peekable();
        let (verb, count, category) = (words.next()?, words.next()?, words.next()?);
        let verb = VERBS.iter().position(|v| *v == verb)?;
        let count = NUMBERS.iter().position(|n| *n == count).filter(|n| COUNTS.contains(n))?;
        let category = CATEGORIES.iter().position(|c| c.name == category)?;
        let mut order = Order::Any;
        if words.next_if_eq(&"in").is_some() {
            order = match words.next()? {
                "alphabetical" => Order::Alphabetical,
                "reverse" => Order::Reverse,
                _ => return None,
            };
            words.next_if_eq(&"order")?;
        }
        let polite = words.next_if_eq(&"politely").is_some();
        words.next().is_none().then_some(Instruction { verb, count, category, order, polite })
    }

    /// The category asked for.
    pub fn category(&self) -> &'static Category {
        &CATEGORIES[self.category]
    }
    /// Whether it is kept for evaluation: such requests are in no seed data and in no pretraining text.
    pub fn is_held_out(&self) -> bool {
        HELD_OUT.contains(self)
    }
}

impl fmt::Display for Instruction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Instruction { verb, count, order, polite, .. } = *self;
        write!(f, "{} {} {}{}", VERBS[verb], NUMBERS[count], self.category().name, order.phrase())?;
        if polite { f.write_str(" politely") } else { Ok(()) }
    }
}

/// The requests kept for evaluation, [`held_out`] many. They do not depend on any seed, so that no choice of seeds can
/// let one into the training data.
static HELD_OUT: LazyLock<BTreeSet<Instruction>> = LazyLock::new(|| {
    let mut all: Vec<_> =
        Instruction::all().map(|r| (Id::from_parts(["list world: held out", &r.to_string()]), r)).collect();
    all.sort_unstable_by_key(|(hash, _)| *hash);
    all.into_iter().take(100).map(|(_, request)| request).collect()
});

/// The requests kept for evaluation, in a fixed order: 100 of the 576.
pub fn held_out() -> &'static BTreeSet<Instruction> {
    &HELD_OUT
}
