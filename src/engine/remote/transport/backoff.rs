//! How long a row waits before it is sent again.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::balance::mix;

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(30);

/// The wait before attempt `fault + 1` of a row: a quarter of a second, doubled with every fault up to half a
/// minute, and between half of that and all of it by a hash of row and fault, so that rows do not come back together.
pub(super) fn delay(row: u64, fault: u32) -> Duration {
    let whole = FIRST.saturating_mul(1 << fault.saturating_sub(1).min(16)).min(LONGEST);
    let share = (mix(row ^ mix(u64::from(fault))) >> 11) as f64 / (1_u64 << 53) as f64;
    whole.mul_f64(0.5 + 0.5 * share)
}

/// The wait that a `Retry-After` header asks for: seconds, or a date.
pub(super) fn retry_after(header: &str, now: DateTime<Utc>) -> Option<Duration> {
    let header = header.trim();
    if let Ok(seconds) = header.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds.clamp(0., 1e9)).ok();
    }
    let at = DateTime::parse_from_rfc2822(header).ok()?;
    Some((at.with_timezone(&Utc) - now).to_std().unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_are_spread() {
        for (fault, whole) in [(1, 250), (2, 500), (3, 1000), (7, 16_000), (8, 30_000), (4_000_000, 30_000)] {
            let waits: Vec<Duration> = (0..100).map(|row| delay(row, fault)).collect();
            let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            let whole = Duration::from_millis(whole);
            assert!(*least >= whole / 2 && *most <= whole, "{fault}: {least:?} to {most:?}");
            assert!(*most - *least > whole / 4, "{fault}: {least:?} to {most:?}");
            assert_eq!(waits[5], delay(5, fault));
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = DateTime::parse_from_rfc3339("1994-11-06T08:49:07Z").unwrap().with_timezone(&Utc);
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(retry_after("120", now), seconds(120));
        assert_eq!(retry_after(" 0.5 ", now), Some(Duration::from_millis(500)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), seconds(30));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:00:00 GMT", now), seconds(0));
        assert_eq!(retry_after("-5", now), seconds(0));
        assert_eq!(retry_after("99999999999999999999", now), seconds(1_000_000_000));
        for bad in ["", "soon", "NaN", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(retry_after(bad, now), None, "{bad}");
        }
    }
}
