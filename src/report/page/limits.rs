//! Bounds of a snapshot, so that the page stays below 2 MB whatever the size of the run.

/// Prompts in the reading room, over all iterations.
pub(super) const PROMPTS: usize = 120;
/// Prompts in the reading room of one step in one iteration.
pub(super) const PROMPTS_OF_ITERATION: usize = 20;
/// Sample rows of all steps in all iterations.
pub(super) const ROWS: usize = 500;
/// Sample rows of one step in one iteration.
pub(super) const ROWS_OF_ITERATION: usize = 8;
/// Numbers in the training curves, over all trainings and measures.
pub(super) const POINTS: usize = 20_000;
/// Points of one training's curve.
pub(super) const POINTS_OF_CURVE: usize = 300;
/// Scored answers of a step up to which its intervals are resampled; resampling more takes minutes.
pub(super) const RESAMPLED: u64 = 20_000;
/// Resamples of an interval. `reflux eval drift` makes more.
pub(super) const RESAMPLES: u32 = 1_000;
/// Characters of a text in the reading room.
pub(super) const TEXT: usize = 2_000;
/// Characters of a cell of a sample row.
pub(super) const CELL: usize = 160;
/// Characters of a file of the run, such as its pipeline file.
pub(super) const FILE: usize = 60_000;
/// Bytes of the rows of the reading room, and of the sample rows, as JSON.
pub(super) const BYTES: usize = 450_000;
/// Files that the lineage section lists.
pub(super) const INPUTS: usize = 200;

/// Cuts a text to `most` characters and says how many are missing.
pub(super) fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((at, _)) => {
            let left = text[at..].chars().count();
            format!("{}… [{left} more characters]", &text[..at])
        }
    }
}

/// Shares `total` fairly among `groups`: at least 1 and at most `most` for each.
pub(super) fn share(total: usize, groups: usize, most: usize) -> usize {
    (total / groups.max(1)).clamp(1, most)
}

/// Rounds to 5 significant digits, for figures that are only drawn. `None` if the number is not finite.
pub(super) fn drawn(value: f64) -> Option<f64> {
    if value == 0. || !value.is_finite() {
        return value.is_finite().then_some(value);
    }
    // The exponent of a finite number fits.
    format!("{value:.4e}").parse().ok()
}

/// `count` places spread evenly over `0..of`.
pub(super) fn spread(count: usize, of: usize) -> impl Iterator<Item = usize> {
    let count = count.min(of);
    (0..count).map(move |i| i * of / count.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters_and_say_so() {
        assert_eq!(cut("añb", 3), "añb");
        assert_eq!(cut("añbc", 2), "añ… [2 more characters]");
    }

    #[test]
    fn shares_and_places_are_within_their_bounds() {
        assert_eq!((share(120, 2, 20), share(120, 60, 20), share(120, 500, 20), share(1, 0, 5)), (20, 2, 1, 1));
        assert_eq!(spread(3, 9).collect::<Vec<_>>(), [0, 3, 6]);
        assert_eq!(spread(9, 2).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(spread(3, 0).count(), 0);
    }

    #[test]
    fn figures_keep_five_digits() {
        assert_eq!(drawn(3.690785406), Some(3.6908));
        assert_eq!(drawn(-1.23456789e-9), Some(-1.2346e-9));
        assert_eq!((drawn(0.), drawn(f64::NAN), drawn(f64::INFINITY)), (Some(0.), None, None));
    }
}
