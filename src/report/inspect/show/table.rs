//! Text tables: aligned, at most as wide as the terminal, and safe to print.

use serde_json::Value;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::data::is_terminal_control;

/// Spaces between two columns.
const GAP: usize = 2;
/// Columns are not shrunk below this width.
const NARROWEST: usize = 6;
/// Maximum number of characters of a text in a cell.
const MAX_LENGTH: usize = 2000;

/// Number of terminal columns that a text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// Makes a text safe to print in a cell: control characters are replaced, so the terminal does not act on
/// them.
pub(crate) fn printable(text: &str) -> String {
    let shown = |c: char| match c {
        '\n' => '⏎',
        '\t' => ' ',
        c if is_terminal_control(c) => '\u{fffd}',
        c => c,
    };
    text.chars().take(MAX_LENGTH).map(shown).collect()
}

/// Formats a value as a table cell. A conversation is shown by its contents, judgements by their outcomes,
/// and other values as they are.
pub(super) fn cell(value: &Value) -> String {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let judgement = |v: &Value| match &v["score"] {
        Value::Null => text(&v["outcome"]),
        score => score.to_string(),
    };
    match value {
        Value::Null => String::new(),
        Value::Array(items) if !items.is_empty() && items.iter().all(|i| i.get("content").is_some()) => {
            printable(&items.iter().map(|i| text(&i["content"])).collect::<Vec<_>>().join(" | "))
        }
        Value::Array(items) if !items.is_empty() && items.iter().all(|i| i.get("outcome").is_some()) => {
            printable(&items.iter().map(judgement).collect::<Vec<_>>().join(", "))
        }
        Value::Number(n) => number(n),
        other => printable(&text(other)),
    }
}

/// Formats a number for reading: exact if that is short, otherwise with four significant digits. Other
/// formats print the exact number.
fn number(n: &serde_json::Number) -> String {
    const SHORT: usize = 8;
    let exact = n.to_string();
    let (true, Some(value)) = (n.is_f64() && exact.len() > SHORT, n.as_f64()) else { return exact };
    let scale = value.abs().log10().floor();
    match scale {
        // Zero is handled above, because its text is short. Digits before the decimal point are never cut.
        -4.0..=6.0 => format!("{value:.*}", (3. - scale).max(1.) as usize),
        _ => format!("{value:.3e}"),
    }
}

/// Cuts a text to `places` terminal columns; a cut text ends in an ellipsis.
pub fn fitted(text: &str, places: usize) -> String {
    if width(text) <= places {
        return text.to_owned();
    }
    let mut cut = String::new();
    let mut taken = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if taken + wide + 1 > places {
            break;
        }
        taken += wide;
        cut.push(c);
    }
    cut.push('…');
    cut
}

/// Fits columns into `room`. Each would like its `wanted` width and needs at least `least`, because numbers
/// must not be cut. Narrow columns keep their width and the others share the rest. Returns fewer widths
/// than columns if not all fit, but at least one.
pub(super) fn widths(wanted: &[usize], least: &[usize], room: usize) -> Vec<usize> {
    let at_least = |i: usize| wanted[i].min(NARROWEST.max(least[i]));
    let taken = (0..wanted.len()).scan(0, |sum, i| {
        *sum += at_least(i);
        Some(*sum + GAP * i)
    });
    let shown = taken.take_while(|taken| *taken <= room).count().max(wanted.len().min(1));
    let whole = room;
    let mut room = room.saturating_sub(GAP * shown.saturating_sub(1));
    // Each column gets its minimum; the rest is shared, starting with the columns that want least.
    let mut widths: Vec<usize> = (0..shown).map(at_least).collect();
    room = room.saturating_sub(widths.iter().sum());
    let mut order: Vec<usize> = (0..shown).collect();
    order.sort_by_key(|&i| wanted[i]);
    for (done, &i) in order.iter().enumerate() {
        let rest: usize = order[done..].iter().map(|&i| widths[i]).sum();
        let fair = (rest + room) / (shown - done);
        let more = wanted[i].min(fair).saturating_sub(widths[i]).min(room);
        widths[i] += more;
        room -= more;
    }
    if let [only] = &mut widths[..] {
        *only = (*only).min(whole.max(1));
    }
    widths
}

/// Columns to prefer if not all fit, most interesting first.
const FIRST: [&str; 17] = [
    "prompt",
    "instruction",
    "chosen",
    "rejected",
    "response",
    "output",
    "completion",
    "score",
    "rank",
    "chosen_score",
    "rejected_score",
    "margin",
    "judgements",
    "judgement",
    "change",
    "code",
    "message",
];
/// A text column is shown only if this width, or its whole width, is available.
const READABLE: usize = 16;

/// Wanted layout of a table's columns.
pub(super) struct Wishes<'a> {
    pub names: &'a [String],
    /// Full width of each column, and width of its numbers.
    pub wanted: &'a [usize],
    pub least: &'a [usize],
    /// How uninformative a column is: higher for hashes, highest for a column without a value.
    pub last: &'a [u8],
}

/// Selects the columns to show: all in their order if they fit, otherwise the preferred ones first, then
/// the others, and uninformative ones last.
pub(super) fn picked(wishes: &Wishes<'_>, room: usize) -> Vec<usize> {
    let Wishes { names, wanted, least, last } = *wishes;
    let readable = |c: usize| wanted[c].min(if least[c] > 0 { NARROWEST.max(least[c]) } else { READABLE });
    let mut order: Vec<usize> = (0..names.len()).collect();
    if order.iter().map(|&c| readable(c)).sum::<usize>() + GAP * order.len().saturating_sub(1) <= room {
        return order;
    }
    let place = |c: usize| FIRST.iter().position(|name| *name == names[c]).unwrap_or(FIRST.len());
    order.sort_by_key(|&c| (if last[c] > 1 { FIRST.len() } else { place(c) }, last[c]));
    let (mut taken, mut shown) = (0, Vec::new());
    for c in order {
        let more = readable(c) + if shown.is_empty() { 0 } else { GAP };
        if shown.is_empty() || taken + more <= room {
            taken += more;
            shown.push(c);
        }
    }
    shown
}

/// Formats one line of cells in columns of the given widths; columns marked in `right` are aligned to the
/// right.
pub(super) fn line(cells: &[String], widths: &[usize], right: &[bool]) -> String {
    let mut line = String::new();
    for (i, (cell, &places)) in cells.iter().zip(widths).enumerate() {
        // A number that is cut would read as another number.
        let number = right.get(i).copied().unwrap_or(false) && cell.bytes().any(|b| b.is_ascii_digit());
        let cell = if number && width(cell) > places { "…".to_owned() } else { fitted(cell, places) };
        let padding = " ".repeat(places.saturating_sub(width(&cell)));
        if i > 0 {
            line.push_str(&" ".repeat(GAP));
        }
        if right.get(i).copied().unwrap_or(false) {
            line.push_str(&padding);
            line.push_str(&cell);
        } else {
            line.push_str(&cell);
            line.push_str(&padding);
        }
    }
    line.trim_end().to_owned()
}

/// Formats rows under a header and a rule, with each column as wide as its content. Columns marked in
/// `right` are aligned to the right. Control characters are replaced as in `printable`.
pub fn aligned(head: &[&str], right: &[bool], rows: &[Vec<String>]) -> Vec<String> {
    let head: Vec<String> = head.iter().map(|cell| printable(cell)).collect();
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let wide = |c: usize| rows.iter().map(|row| width(&row[c])).chain([width(&head[c])]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(wide).collect();
    let rule = "-".repeat(widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1));
    let lines = rows.iter().map(|row| line(row, &widths, right));
    [line(&head, &widths, right), rule].into_iter().chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wide_text_is_cut_where_it_does_not_fit() {
        assert_eq!(fitted("river", 5), "river");
        assert_eq!(fitted("rivers", 5), "rive…");
        assert_eq!(fitted("世界世界", 5), "世界…", "two columns each");
        assert_eq!(fitted("世界世界", 4), "世…");
        assert_eq!(width(&fitted("e\u{301}e\u{301}e\u{301}e\u{301}", 3)), 3, "combining marks have no width");
    }

    #[test]
    fn columns_share_the_room() {
        let texts = |wanted: &[usize], room| widths(wanted, &vec![0; wanted.len()], room);
        assert_eq!(texts(&[3, 4], 80), [3, 4]);
        assert_eq!(texts(&[3, 100, 100], 47), [3, 20, 20]);
        assert_eq!(texts(&[100, 3, 10], 47), [30, 3, 10]);
        assert_eq!(texts(&[32; 10], 30).len(), 4, "columns without space are dropped");
        assert_eq!(texts(&[32, 32], 3), [3], "one column is always shown");
        assert_eq!(widths(&[100, 20, 10], &[0, 9, 9], 30), [8, 9, 9], "numbers are whole, their headers may be cut");
        assert_eq!(widths(&[12; 5], &[9; 5], 30), [12, 12], "a number is shown whole or dropped");
        for room in 1..200 {
            let got = widths(&[32, 5, 60, 9, 200, 1], &[0, 5, 0, 9, 0, 1], room);
            let sum: usize = got.iter().sum::<usize>() + GAP * (got.len() - 1);
            assert!(sum <= room.max(1), "{room}: {got:?}");
        }
    }

    #[test]
    fn what_people_look_for_is_shown_first() {
        let names = ["iteration", "prompt_id", "prompt", "chosen", "rejected", "model", "chosen_score", "margin"];
        let names = names.map(str::to_owned);
        let (wanted, least) = ([9, 9, 40, 90, 80, 9, 12, 6], [1, 0, 0, 0, 0, 0, 3, 4]);
        let last = [0, 1, 0, 0, 0, 1, 0, 0];
        let wishes = Wishes { names: &names, wanted: &wanted, least: &least, last: &last };
        let shown = |room| picked(&wishes, room).into_iter().map(|c| names[c].as_str()).collect::<Vec<_>>();
        assert_eq!(shown(200), names, "all fit");
        assert_eq!(shown(80), ["prompt", "chosen", "rejected", "chosen_score", "margin", "iteration"]);
        assert_eq!(shown(60), ["prompt", "chosen", "rejected", "chosen_score"]);
        assert_eq!(shown(59), ["prompt", "chosen", "rejected"]);
        assert_eq!(shown(1), ["prompt"]);
        for room in 1..300 {
            let some = picked(&wishes, room);
            let widths = widths(
                &some.iter().map(|&c| wanted[c]).collect::<Vec<_>>(),
                &some.iter().map(|&c| least[c]).collect::<Vec<_>>(),
                room,
            );
            assert_eq!(widths.len(), some.len(), "{room}: every selected column fits");
        }
    }

    #[test]
    fn cells_say_what_matters_and_cannot_order_the_terminal_about() {
        assert_eq!(cell(&json!("a\nb\t\u{1b}[2Jc\u{202e}")), "a⏎b \u{fffd}[2Jc\u{fffd}");
        assert_eq!(cell(&json!([{ "role": "user", "content": "Hi" }])), "Hi");
        assert_eq!(
            cell(&json!([{ "outcome": "score", "score": 4.0 }, { "outcome": "no_match", "score": null }])),
            "4.0, no_match"
        );
        assert_eq!(cell(&json!(["x"])), "[\"x\"]");
        let numbers = [
            (json!(4.666666507720947), "4.667"),
            (json!(-2.68805e-7), "-2.688e-7"),
            (json!(0.0003), "0.0003"),
            (json!(0.000123456789), "0.0001235"),
            (json!(-12.34567891), "-12.35"),
            (json!(1234567.891), "1234567.9"),
            (json!(123456789.125), "1.235e8"),
            (json!(1e300), "1e+300"),
            (json!(4.0), "4.0"),
            (json!(12345678901u64), "12345678901"),
        ];
        for (number, shown) in numbers {
            assert_eq!(cell(&number), shown);
        }
        assert_eq!(line(&["-2.688e-7".into(), "learning_rate".into()], &[6, 6], &[true, true]), "     …  learn…");
        assert_eq!(cell(&Value::Null), "");
    }
}
