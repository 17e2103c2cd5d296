//! The text that M0 is pretrained on: no scores, no rubric, no answered requests.
//!
//! - *Quizzes*: a list, then claims about it and whether they hold, and remarks about single words of it. The loss is
//!   on the claims. The remarks (`bear up`: it comes after its left neighbour in the alphabet; `bear twice`) say at
//!   every word what the verdicts on order and repetition are made of. Without them those two verdicts are not learnt
//!   within a small budget: a verdict on a whole list says too little about which pair of words is to blame.
//! - *Copies* of words, from which a model learns to look up where it has seen a word before.
//! - *Headed lists*: `three animals in reverse order : ...`, where the header is true of the list.
//! - *Tasks*: requests, none of them held out and none answered.
//!
//! The quizzes teach checking a claim about a list. Which claims a request calls for, and how they make a score, is
//! left to the EFT rows.

use super::draw::Draw;
use super::world::{CATEGORIES, NUMBERS, Order, THANKS, category_of};
use super::writer;

/// One document; see the `text` schema.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    /// The context, without loss. It may be empty.
    pub context: String,
    /// The text with loss.
    pub text: String,
}

/// Shares of the kinds of document; tasks have the rest.
const QUIZ: f64 = 0.6;
const COPY: f64 = 0.08;
const HEADED: f64 = 0.2;
/// Requests in a document of tasks.
const TASKS: usize = 4;
/// Remarks about single words in a quiz.
const REMARKS: usize = 3;

/// Document number `row` of the corpus of this seed.
pub fn document(seed: u64, row: usize) -> Document {
    let mut draw = Draw::row(seed, "pretrain", row);
    let kind = draw.unit();
    if kind < QUIZ {
        quiz(&mut draw)
    } else if kind < QUIZ + COPY {
        copy(&mut draw)
    } else if kind < QUIZ + COPY + HEADED {
        headed(&mut draw)
    } else {
        let tasks = (0..TASKS).map(|_| format!("task : {} .", writer::request(&mut draw)));
        Document { context: String::new(), text: tasks.collect::<Vec<_>>().join(" ") }
    }
}

/// One to seven words, most of one category; sorted, nearly sorted or not, with a repetition in nearly half.
fn list(draw: &mut Draw) -> Vec<&'static str> {
    let length = draw.pick(&[1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 5, 6, 7]);
    let category = draw.below(CATEGORIES.len());
    let mut words = draw.sample(&CATEGORIES[category].words, length);
    if draw.chance(0.3) {
        let (place, other) = (draw.below(length), draw.below(CATEGORIES.len()));
        words[place] = draw.pick(&CATEGORIES[other].words);
    }
    if length > 1 && draw.chance(0.45) {
        let (from, to) = draw.two(length);
        words[to] = words[from];
    }
    let order = draw.unit();
    if order < 0.85 {
        words.sort_unstable();
        if draw.chance(0.5) {
            words.reverse();
        }
    }
    if (0.55..0.85).contains(&order) && length > 1 {
        let place = draw.below(length - 1);
        let other = if draw.chance(0.6) { place + 1 } else { draw.below(length) };
        words.swap(place, other);
    }
    words
}

/// The category of all words, if they share one.
fn common_category(words: &[&str]) -> Option<&'static str> {
    let mut names = words.iter().map(|w| category_of(w).map(|c| c.name));
    let first = names.next()??;
    names.all(|n| n == Some(first)).then_some(first)
}
fn distinct(words: &[&str]) -> bool {
    words.iter().enumerate().all(|(i, w)| !words[..i].contains(w))
}

/// A claim about the whole list and whether it holds, true about as often as not.
fn claim(words: &[&'static str], thanked: bool, draw: &mut Draw) -> String {
    let (claim, holds) = match draw.below(8) {
        0 | 1 => {
            let near = words.len().saturating_sub(2).max(1)..=(words.len() + 2).min(NUMBERS.len() - 1);
            let wrong: Vec<usize> = near.filter(|n| *n != words.len()).collect();
            let said = if draw.chance(0.5) { words.len() } else { draw.pick(&wrong) };
            (NUMBERS[said], said == words.len())
        }
        2 => {
            let of_a_word = category_of(draw.pick(words)).map(|c| c.name);
            let any = CATEGORIES[draw.below(CATEGORIES.len())].name;
            let said = of_a_word.filter(|_| draw.chance(0.75)).unwrap_or(any);
            (said, common_category(words) == Some(said))
        }
        3 => {
            let said = draw.chance(0.5);
            (if said { THANKS } else { "plain" }, said == thanked)
        }
        4 | 5 => {
            let (up, down) = (Order::Alphabetical.holds(words), Order::Reverse.holds(words));
            let either = if draw.chance(0.5) { Order::Alphabetical } else { Order::Reverse };
            let said = match (up, down) {
                (true, false) if draw.chance(0.75) => Order::Alphabetical,
                (false, true) if draw.chance(0.75) => Order::Reverse,
                _ => either,
            };
            (said.word(), said.holds(words))
        }
        _ => ("different", distinct(words)),
    };
    format!("{claim} {}", if holds { "yes" } else { "no" })
}

/// A remark about one word: whether it comes once or twice, or, if once, how it stands to its left neighbour.
fn remark(words: &[&'static str], draw: &mut Draw) -> String {
    let place = draw.below(words.len());
    let word = words[place];
    let twice = words.iter().filter(|w| **w == word).count() > 1;
    let said = match place.checked_sub(1).map(|left| words[left]) {
        _ if twice => "twice",
        _ if draw.chance(0.4) => "once",
        None => "first",
        Some(left) if word > left => "up",
        Some(_) => "down",
    };
    format!("{word} {said}")
}

fn quiz(draw: &mut Draw) -> Document {
    let words = list(draw);
    let thanked = draw.chance(0.5);
    let mut said: Vec<String> = (0..draw.pick(&[2, 3, 4])).map(|_| claim(&words, thanked, draw)).collect();
    said.extend((0..REMARKS).map(|_| remark(&words, draw)));
    said.sort_unstable();
    said.dedup();
    draw.shuffle(&mut said);
    // What stands before the list has nothing to do with it: claims are about the list alone.
    let kind = draw.unit();
    let before = if kind < 0.3 {
        String::new()
    } else if kind < 0.7 {
        format!("judge {} : ", writer::request(draw))
    } else {
        let other = list(draw);
        format!("judge {} : ", header(&other, draw))
    };
    let thanks = if thanked { " thanks" } else { "" };
    Document { context: format!("{before}{}{thanks} :", words.join(" ")), text: format!("{} .", said.join(" ")) }
}

/// Three to seven words, repeated twice.
fn copy(draw: &mut Draw) -> Document {
    let all: Vec<&str> = CATEGORIES.iter().flat_map(|c| c.words).collect();
    let length = 3 + draw.below(5);
    let words = draw.sample(&all, length).join(" ");
    Document { text: format!(": {words} : {words} ."), context: words }
}

/// A header that is true of the list, worded much like a request.
fn header(words: &[&'static str], draw: &mut Draw) -> String {
    let category = common_category(words).unwrap_or("things");
    let orders: Vec<Order> = [Order::Alphabetical, Order::Reverse].into_iter().filter(|o| o.holds(words)).collect();
    let order = if orders.is_empty() { Order::Any } else { draw.pick(&orders) };
    let repeats = match distinct(words) {
        _ if draw.chance(0.5) => "",
        true => " different",
        false => " repeated",
    };
    format!("{} {category}{}{repeats}", NUMBERS[words.len()], order.phrase())
}

fn headed(draw: &mut Draw) -> Document {
    let words = list(draw);
    let (politely, thanks) = if draw.chance(0.5) { (" politely", " thanks") } else { ("", "") };
    let header = header(&words, draw);
    Document { context: String::new(), text: format!("{header}{politely} : {}{thanks} .", words.join(" ")) }
}
