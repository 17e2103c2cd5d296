//! Dates for `strftime_now`.

use std::fmt;
use std::str::FromStr;

use chrono::{Datelike, Local, Timelike};

use super::error::{Result, fail};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A date and time of day, without a time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DateTime {
    year: i64,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

impl DateTime {
    /// The local time now, as Python's `datetime.now()`.
    pub fn now() -> Self {
        let now = Local::now();
        Self {
            year: now.year().into(),
            month: now.month(),
            day: now.day(),
            hour: now.hour(),
            minute: now.minute(),
            second: now.second(),
        }
    }

    fn is_leap(&self) -> bool {
        self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0)
    }

    fn month_lengths(&self) -> [u32; 12] {
        [31, if self.is_leap() { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
    }

    /// From 1.
    fn day_of_year(&self) -> u32 {
        self.month_lengths().iter().take(self.month as usize - 1).sum::<u32>() + self.day
    }

    /// 0 is Sunday.
    fn weekday(&self) -> u32 {
        let before = self.year - 1;
        let leap_days = before.div_euclid(4) - before.div_euclid(100) + before.div_euclid(400);
        (before + leap_days + i64::from(self.day_of_year())).rem_euclid(7) as u32
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
        let hour12 = (self.hour + 11) % 12 + 1;
        let (weekday, month) = (DAYS[self.weekday() as usize], MONTHS[self.month as usize - 1]);
        let monday = (self.weekday() + 6) % 7;
        Ok(match code {
            'a' => weekday[..3].into(),
            'A' => weekday.into(),
            'b' | 'h' => month[..3].into(),
            'B' => month.into(),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'm' => format!("{:02}", self.month),
            'y' => format!("{:02}", self.year.rem_euclid(100)),
            'Y' => self.year.to_string(),
            'C' => format!("{:02}", self.year / 100),
            'H' => format!("{:02}", self.hour),
            'k' => format!("{:2}", self.hour),
            'I' => format!("{hour12:02}"),
            'l' => format!("{hour12:2}"),
            'M' => format!("{:02}", self.minute),
            'S' => format!("{:02}", self.second),
            'f' => "000000".into(),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.into(),
            'P' => if self.hour < 12 { "am" } else { "pm" }.into(),
            'j' => format!("{:03}", self.day_of_year()),
            'u' => (monday + 1).to_string(),
            'w' => self.weekday().to_string(),
            'U' => format!("{:02}", (self.day_of_year() + 6 - self.weekday()) / 7),
            'W' => format!("{:02}", (self.day_of_year() + 6 - monday) / 7),
            'D' | 'x' => self.format("%m/%d/%y")?,
            'F' => self.format("%Y-%m-%d")?,
            'T' | 'X' => self.format("%H:%M:%S")?,
            'R' => self.format("%H:%M")?,
            'r' => self.format("%I:%M:%S %p")?,
            'c' => self.format("%a %b %e %H:%M:%S %Y")?,
            // `datetime.now()` has no time zone.
            'z' | 'Z' => String::new(),
            'n' => "\n".into(),
            't' => "\t".into(),
            '%' => "%".into(),
            other => return fail(format!("strftime_now: the code %{other} is not supported")),
        })
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
        let wrong =
            || format!("`{}` is not a date; write it as 2025-01-31 or 2025-01-31T08:30:00", text.escape_debug());
        let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "12:00:00"));
        let numbers = |part: &str, separator: char, lengths: [usize; 3]| -> Option<[u32; 3]> {
            let parts: Vec<&str> = part.split(separator).collect();
            let parts: [&str; 3] = parts.try_into().ok()?;
            let fits = parts.iter().zip(lengths).all(|(p, n)| p.len() == n && p.bytes().all(|b| b.is_ascii_digit()));
            let [Ok(a), Ok(b), Ok(c)] = parts.map(str::parse) else { return None };
            fits.then_some([a, b, c])
        };
        let [year, month, day] = numbers(date, '-', [4, 2, 2]).ok_or_else(wrong)?;
        let [hour, minute, second] = numbers(time, ':', [2, 2, 2]).ok_or_else(wrong)?;
        let found = Self { year: year.into(), month, day, hour, minute, second };
        let days = month.checked_sub(1).and_then(|m| found.month_lengths().get(m as usize).copied()).unwrap_or(0);
        let real = (1..=days).contains(&day) && hour < 24 && minute < 60 && second < 60 && year > 0;
        if real { Ok(found) } else { Err(wrong()) }
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}
