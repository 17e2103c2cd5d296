//! Python's methods of texts.

use std::sync::{Arc, LazyLock};

use regex::Regex;

use super::arguments::{CallArgs, text as text_of, whole};
use super::budget::Budget;
use super::chars::{is_cased, is_printable, is_space};
use super::error::{Result, fail};
use super::format::braces;
use super::runtime::Runtime;
use super::value::{ListKind, Value, type_name};

/// The methods that texts have.
pub(super) const METHODS: [&str; 44] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];

/// Where padding goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PadSide {
    Left,
    Right,
    Both,
}

pub(super) fn call(cx: &mut dyn Runtime, text: &Arc<str>, name: &str, args: CallArgs) -> Result<Value> {
    // Every method reads its text a few times and makes at most about three times as much. Methods that can make more
    // pay for it themselves.
    cx.budget().spend_bytes(text.len().saturating_mul(4))?;
    match name {
        "format" | "format_map" => return format(cx, text, name, args),
        "join" => {
            let [items] = args.exactly(name)?;
            let items = texts(cx, &items)?;
            let length: usize = items.iter().map(|t| t.len() + text.len()).sum();
            cx.budget().spend_bytes(length)?;
            return Ok(Value::text(&items.join(&**text)));
        }
        "split" | "rsplit" => return split(cx, text, name == "rsplit", args),
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            let lines = split_lines(text, keep.is_some_and(|k| k.is_true()));
            cx.budget().spend_items(lines.len().saturating_mul(2))?;
            return Value::list(lines.into_iter().map(Value::text).collect());
        }
        "startswith" | "endswith" => return affix(text, name, args),
        "find" | "rfind" | "index" | "rindex" | "count" => return find(text, name, args),
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let (Some(old), Some(new)) = (old, new) else { return fail("replace expected at least 2 arguments") };
            return replace(text, text_of(&old)?, text_of(&new)?, count.as_ref(), cx.budget());
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(name, ["chars"])?;
            let stripped = strip(text, chars.as_ref(), name != "rstrip", name != "lstrip", cx.budget())?;
            return Ok(Value::text(stripped));
        }
        "center" | "ljust" | "rjust" => {
            let [width, fill] = args.bind(name, ["width", "fillchar"])?;
            let side = match name {
                "ljust" => PadSide::Right,
                "rjust" => PadSide::Left,
                _ => PadSide::Both,
            };
            return pad(text, &width.unwrap_or(Value::None), fill.as_ref(), side, cx.budget());
        }
        "zfill" => {
            let [width] = args.exactly(name)?;
            let sign = usize::from(text.starts_with(['+', '-']));
            let width = whole(&width)?.saturating_sub(sign as i64);
            let padded = pad(&text[sign..], &Value::Int(width), Some(&Value::text("0")), PadSide::Left, cx.budget())?;
            return Ok(Value::text(&format!("{}{}", &text[..sign], text_of(&padded)?)));
        }
        "partition" | "rpartition" => return partition(text, name, args),
        "removeprefix" | "removesuffix" => {
            let [affix] = args.exactly(name)?;
            let affix = text_of(&affix)?;
            let rest = if name == "removeprefix" { text.strip_prefix(&**affix) } else { text.strip_suffix(&**affix) };
            return Ok(rest.map_or_else(|| Value::Text(Arc::clone(text)), Value::text));
        }
        "expandtabs" => return expand_tabs(cx, text, args),
        _ => args.exactly::<0>(name)?,
    };
    Ok(match name {
        "upper" => Value::text(&text.to_uppercase()),
        "lower" | "casefold" => Value::text(&text.to_lowercase()),
        "capitalize" => Value::text(&capitalize(text)),
        "title" => Value::text(&title(text)),
        "swapcase" => Value::text(&swap_case(text)),
        _ => Value::Bool(is(text, name)),
    })
}

/// The methods that test the characters of a text.
fn is(text: &str, name: &str) -> bool {
    static LETTERS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{L}+$").ok());
    static DECIMALS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{Nd}+$").ok());
    static DIGITS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[\p{Nd}²³¹⁰⁴-⁹₀-₉①-⑨]+$").ok());
    static NUMBERS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{N}+$").ok());
    static EITHER: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[\p{L}\p{N}]+$").ok());
    static WORD: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^[\p{L}\p{Nl}_][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}]*$").ok());
    let matches = |pattern: &LazyLock<Option<Regex>>| pattern.as_ref().is_some_and(|p| p.is_match(text));
    match name {
        "isalpha" => matches(&LETTERS),
        "isdecimal" => matches(&DECIMALS),
        "isdigit" => matches(&DIGITS),
        "isnumeric" => matches(&NUMBERS),
        "isalnum" => matches(&EITHER),
        "isidentifier" => matches(&WORD),
        "isascii" => text.is_ascii(),
        "isspace" => !text.is_empty() && text.chars().all(is_space),
        "isprintable" => text.chars().all(is_printable),
        "islower" => is_cased(text, char::is_uppercase, char::is_lowercase),
        "isupper" => is_cased(text, char::is_lowercase, char::is_uppercase),
        _ => is_title(text),
    }
}

fn is_title(text: &str) -> bool {
    let (mut after_letter, mut any) = (false, false);
    for c in text.chars() {
        if (c.is_uppercase() && after_letter) || (c.is_lowercase() && !after_letter) {
            return false;
        }
        after_letter = c.is_uppercase() || c.is_lowercase();
        any |= after_letter;
    }
    any
}

pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(title_case).unwrap_or_default();
    // The rest as a whole: Greek's final sigma depends on what is before it.
    first + &chars.as_str().to_lowercase()
}

/// The form of a character at the start of a word: `Ss` for `ß`.
fn title_case(c: char) -> String {
    match c {
        'Ǆ'..='ǆ' => return 'ǅ'.into(),
        'Ǉ'..='ǉ' => return 'ǈ'.into(),
        'Ǌ'..='ǌ' => return 'ǋ'.into(),
        'Ǳ'..='ǳ' => return 'ǲ'.into(),
        _ => {}
    }
    let mut upper = c.to_uppercase();
    let first = upper.next().unwrap_or(c);
    std::iter::once(first).chain(upper.flat_map(char::to_lowercase)).collect()
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut after_letter = false;
    for c in text.chars() {
        if after_letter {
            out.extend(c.to_lowercase())
        } else {
            out.push_str(&title_case(c))
        }
        after_letter = c.is_uppercase() || c.is_lowercase();
    }
    out
}

fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_uppercase() { out.extend(c.to_lowercase()) } else { out.extend(c.to_uppercase()) }
    }
    out
}

/// Python's lines. `keep` keeps their ends.
pub(super) fn split_lines(text: &str, keep: bool) -> Vec<&str> {
    let ends =
        |c: char| matches!(c, '\n' | '\r' | '\x0b' | '\x0c' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some((at, end)) = rest.char_indices().find(|(_, c)| ends(*c)) {
        let length = if rest[at..].starts_with("\r\n") { 2 } else { end.len_utf8() };
        lines.push(&rest[..if keep { at + length } else { at }]);
        rest = &rest[at + length..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// A text without the given characters (or white space) at its ends.
pub(super) fn strip<'a>(
    text: &'a str,
    chars: Option<&Value>,
    left: bool,
    right: bool,
    budget: &mut Budget,
) -> Result<&'a str> {
    let set: Option<Vec<char>> = match chars {
        None | Some(Value::None) => None,
        Some(chars) => {
            let chars = text_of(chars)?;
            budget.spend_bytes(chars.len())?;
            Some(chars.chars().collect())
        }
    };
    if let Some(set) = &set {
        // Each character is looked for in the set.
        budget.spend_bytes(text.len().saturating_mul(set.len()))?;
    }
    let goes = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
    let text = if left { text.trim_start_matches(goes) } else { text };
    Ok(if right { text.trim_end_matches(goes) } else { text })
}

pub(super) fn replace(text: &str, old: &str, new: &str, count: Option<&Value>, budget: &mut Budget) -> Result<Value> {
    let most = match count {
        None | Some(Value::None) => usize::MAX,
        Some(count) => usize::try_from(whole(count)?).unwrap_or(usize::MAX),
    };
    budget.spend_bytes(text.len())?;
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    budget.spend_bytes(found.min(most).saturating_mul(new.len()).saturating_add(text.len()))?;
    Ok(Value::text(&text.replacen(old, new, most)))
}

pub(super) fn pad(
    text: &str,
    width: &Value,
    fill: Option<&Value>,
    side: PadSide,
    budget: &mut Budget,
) -> Result<Value> {
    let width = usize::try_from(whole(width)?).unwrap_or(0);
    let fill = match fill {
        None => ' ',
        Some(fill) => {
            let fill = text_of(fill)?;
            let mut chars = fill.chars();
            match (chars.next(), chars.next()) {
                (Some(c), None) => c,
                _ => return fail("The fill character must be exactly one character long"),
            }
        }
    };
    let length = text.chars().count();
    let missing = width.saturating_sub(length);
    budget.spend_bytes(missing.saturating_mul(fill.len_utf8()).saturating_add(text.len()))?;
    // Python puts the odd one of a centred text's padding by this rule.
    let left = match side {
        PadSide::Left => missing,
        PadSide::Right => 0,
        PadSide::Both => missing / 2 + (missing & width & 1),
    };
    let fill = |n: usize| std::iter::repeat_n(fill, n).collect::<String>();
    Ok(Value::text(&(fill(left) + text + &fill(missing - left))))
}

fn format(cx: &mut dyn Runtime, text: &str, name: &str, args: CallArgs) -> Result<Value> {
    if name == "format" {
        return braces(cx, text, args);
    }
    let [mapping] = args.exactly(name)?;
    let Value::Dict(dict) = mapping else { return fail("format_map() needs a dict") };
    let mut named = Vec::new();
    for (key, value) in &dict.pairs {
        named.extend(key.as_text().map(|key| (Arc::clone(key), value.clone())));
    }
    braces(cx, text, CallArgs { positional: Vec::new(), named })
}

fn split(cx: &mut dyn Runtime, text: &str, from_right: bool, args: CallArgs) -> Result<Value> {
    let [separator, most] = args.bind("split", ["sep", "maxsplit"])?;
    let most = match most {
        None => usize::MAX,
        Some(most) => usize::try_from(whole(&most)?).unwrap_or(usize::MAX),
    };
    let pieces: Vec<&str> = match &separator {
        None | Some(Value::None) => split_at_space(text, most, from_right),
        Some(separator) => {
            let separator = text_of(separator)?;
            if separator.is_empty() {
                return fail("empty separator");
            }
            let parts = most.saturating_add(1);
            if from_right {
                let mut pieces: Vec<&str> = text.rsplitn(parts, &**separator).collect();
                pieces.reverse();
                pieces
            } else {
                text.splitn(parts, &**separator).collect()
            }
        }
    };
    cx.budget().spend_items(pieces.len().saturating_mul(2))?;
    Value::list(pieces.into_iter().map(Value::text).collect())
}

fn split_at_space(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = text.trim_matches(is_space);
    while !rest.is_empty() && pieces.len() < most {
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = cut else { break };
        let after = at + rest[at..].chars().next().map_or(0, char::len_utf8);
        if from_right {
            pieces.push(&rest[after..]);
            rest = rest[..at].trim_end_matches(is_space);
        } else {
            pieces.push(&rest[..at]);
            rest = rest[after..].trim_start_matches(is_space);
        }
    }
    if !rest.is_empty() {
        // What is left keeps the white space at its outer end.
        let whole = if from_right { text.trim_end_matches(is_space) } else { text.trim_start_matches(is_space) };
        let last = match (pieces.len() == most, from_right) {
            (true, false) => &whole[whole.rfind(rest).unwrap_or(0)..],
            (true, true) => &whole[..whole.find(rest).map_or(0, |at| at + rest.len())],
            _ => rest,
        };
        pieces.push(last);
    }
    if from_right {
        pieces.reverse();
    }
    pieces
}

fn affix(text: &str, name: &str, args: CallArgs) -> Result<Value> {
    let [wanted, start, end] = args.bind(name, ["prefix", "start", "end"])?;
    let Some((part, _)) = part(text, start.as_ref(), end.as_ref())? else { return Ok(Value::Bool(false)) };
    let has = |affix: &str| if name == "startswith" { part.starts_with(affix) } else { part.ends_with(affix) };
    Ok(Value::Bool(match wanted.unwrap_or(Value::None) {
        Value::List(list) if list.kind == ListKind::Tuple => {
            let affixes = list.items.iter().map(text_of).collect::<Result<Vec<_>>>()?;
            affixes.into_iter().any(|affix| has(affix))
        }
        wanted => has(text_of(&wanted)?),
    }))
}

fn find(text: &str, name: &str, args: CallArgs) -> Result<Value> {
    let [wanted, start, end] = args.bind(name, ["sub", "start", "end"])?;
    let wanted = wanted.unwrap_or(Value::None);
    let wanted = text_of(&wanted)?;
    let part = part(text, start.as_ref(), end.as_ref())?;
    if name == "count" {
        let count = part.map_or(0, |(part, _)| match wanted.is_empty() {
            true => part.chars().count() + 1,
            false => part.matches(&**wanted).count(),
        });
        return Ok(Value::Int(count as i64));
    }
    let found = part.and_then(|(part, before)| {
        let byte = if name.starts_with('r') { part.rfind(&**wanted) } else { part.find(&**wanted) };
        byte.map(|byte| before + part[..byte].chars().count())
    });
    match found {
        Some(at) => Ok(Value::Int(at as i64)),
        None if name.ends_with("index") => fail("substring not found"),
        None => Ok(Value::Int(-1)),
    }
}

fn partition(text: &str, name: &str, args: CallArgs) -> Result<Value> {
    let [separator] = args.exactly(name)?;
    let separator = text_of(&separator)?;
    if separator.is_empty() {
        return fail("empty separator");
    }
    let parts = match name {
        "partition" => text.split_once(&**separator).map_or([text, "", ""], |(a, b)| [a, separator, b]),
        _ => text.rsplit_once(&**separator).map_or(["", "", text], |(a, b)| [a, separator, b]),
    };
    Value::sequence(ListKind::Tuple, parts.into_iter().map(Value::text).collect())
}

fn expand_tabs(cx: &mut dyn Runtime, text: &str, args: CallArgs) -> Result<Value> {
    let [size] = args.bind("expandtabs", ["tabsize"])?;
    let size = usize::try_from(whole(&size.unwrap_or(Value::Int(8)))?).unwrap_or(0);
    cx.budget().spend_bytes(text.matches('\t').count().saturating_mul(size))?;
    let (mut out, mut column) = (String::new(), 0);
    for c in text.chars() {
        match c {
            '\t' if size > 0 => {
                let spaces = size - column % size;
                out.push_str(&" ".repeat(spaces));
                column += spaces;
            }
            '\t' => {}
            c => {
                out.push(c);
                column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            }
        }
    }
    Ok(Value::text(&out))
}

/// The part of a text between the bounds of `find`, `count`, `startswith` and others, and the number of characters
/// before it.
fn part<'a>(text: &'a str, start: Option<&Value>, end: Option<&Value>) -> Result<Option<(&'a str, usize)>> {
    let length = text.chars().count() as i64;
    let bound = |value: Option<&Value>, default: i64| -> Result<i64> {
        Ok(match value {
            None | Some(Value::None) => default,
            Some(value) => {
                let at = whole(value)?;
                if at < 0 { at.saturating_add(length).max(0) } else { at }
            }
        })
    };
    let (start, end) = (bound(start, 0)?, bound(end, length)?.min(length));
    if start > end {
        return Ok(None);
    }
    let place = |at: i64| text.char_indices().nth(at as usize).map_or(text.len(), |(byte, _)| byte);
    Ok(Some((&text[place(start)..place(end)], start as usize)))
}

/// The texts of a list, for `join`.
fn texts(cx: &mut dyn Runtime, value: &Value) -> Result<Vec<Arc<str>>> {
    let items = value.elements(cx.budget())?;
    let kinds = items.iter().enumerate();
    for (at, item) in kinds {
        if item.as_text().is_none() {
            return fail(format!("sequence item {at}: expected str instance, {} found", type_name(item)));
        }
    }
    items.iter().map(|item| text_of(item).cloned()).collect()
}
