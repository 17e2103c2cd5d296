//! Dates for `strftime_now`.

use std::fmt;
use std::str::FromStr;

use chrono::{Datelike, Local, NaiveDateTime, Timelike};

use super::error::{Result, fail};

/// The codes of C's `strftime` that chrono writes in the same way, in English.
const CODES: &str = "aAbhBdemyYCHkIlMSpPjuwUWDxFTXRrcnt%";

/// A date and time of day, without a time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime(NaiveDateTime);

impl DateTime {
    /// The local time now, as Python's `datetime.now()`.
    pub fn now() -> Self {
        Self(Local::now().naive_local())
    }

    /// C's `strftime`, in English.
    pub(super) fn format(&self, format: &str) -> Result<String> {
        let mut out = String::new();
        let mut chars = format.chars().peekable();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let flag = chars.next_if(|c| matches!(c, '-' | '_' | '0' | '^' | '#'));
            let Some(code) = chars.next() else {
                out.push('%');
                break;
            };
            let text = self.one(code)?;
            out.push_str(&with_flag(text, flag));
        }
        Ok(out)
    }

    fn one(&self, code: char) -> Result<String> {
        match code {
            'f' => Ok("000000".into()),
            // `datetime.now()` has no time zone.
            'z' | 'Z' => Ok(String::new()),
            code if CODES.contains(code) => Ok(self.0.format(&format!("%{code}")).to_string()),
            other => fail(format!("strftime_now: the code %{other} is not supported")),
        }
    }
}

/// Padding and case as a flag asks for them.
fn with_flag(text: String, flag: Option<char>) -> String {
    let number = text.trim_start_matches([' ', '0']);
    let number = if number.is_empty() { "0" } else { number };
    match flag {
        Some('-') if text.ends_with(|c: char| c.is_ascii_digit()) => number.into(),
        Some('_') if text.ends_with(|c: char| c.is_ascii_digit()) => format!("{number:>width$}", width = text.len()),
        Some('0') => text.replace(' ', "0"),
        Some('^') => text.to_uppercase(),
        Some('#') => text.to_uppercase(),
        _ => text,
    }
}

impl FromStr for DateTime {
    type Err = String;

    /// Reads `2025-01-31` (noon is assumed) or `2025-01-31T08:30:00`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "12:00:00"));
        let both = format!("{date}T{time}");
        let fits = |(found, wanted): (u8, u8)| found == wanted || (wanted == b'0' && found.is_ascii_digit());
        let pattern = "0000-00-00T00:00:00";
        let has_form = both.len() == pattern.len() && both.bytes().zip(pattern.bytes()).all(fits);
        let found = NaiveDateTime::parse_from_str(&both, "%Y-%m-%dT%H:%M:%S").ok();
        // chrono reads second 60 as a nanosecond beyond the last.
        let found = found.filter(|d| has_form && d.year() > 0 && d.nanosecond() == 0);
        found.map(Self).ok_or_else(|| {
            format!("`{}` is not a date; write it as 2025-01-31 or 2025-01-31T08:30:00", text.escape_debug())
        })
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.format("%Y-%m-%dT%H:%M:%S"))
    }
}
