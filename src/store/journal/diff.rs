//! Line difference of two texts, for showing what changed in a pipeline file.

/// Maximum number of changed lines in the result.
const MAX_LINES: usize = 24;
/// Maximum size of the table for the longest common subsequence. Larger texts are shown as replaced as a
/// whole.
const MAX_CELLS: usize = 4_000_000;

/// Changed lines as `-12 old` and `+12 new`, with their line numbers; empty if the texts agree.
pub fn lines(old: &str, new: &str) -> String {
    let (old, new): (Vec<_>, Vec<_>) = (old.lines().collect(), new.lines().collect());
    // Common lines at both ends are skipped, which keeps the table small.
    let head = old.iter().zip(&new).take_while(|(a, b)| a == b).count();
    let tail = old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[head..old.len() - tail], &new[head..new.len() - tail]);
    let mut changed = Vec::new();
    let (mut i, mut j) = (0, 0);
    if a.len().saturating_mul(b.len()) <= MAX_CELLS {
        // longest[i][j]: longest common subsequence of a[i..] and b[j..]
        let width = b.len() + 1;
        let mut longest = vec![0u32; (a.len() + 1) * width];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                longest[i * width + j] = if a[i] == b[j] {
                    longest[(i + 1) * width + j + 1] + 1
                } else {
                    longest[(i + 1) * width + j].max(longest[i * width + j + 1])
                };
            }
        }
        while i < a.len() && j < b.len() {
            if a[i] == b[j] {
                (i, j) = (i + 1, j + 1);
            } else if longest[(i + 1) * width + j] >= longest[i * width + j + 1] {
                changed.push(format!("-{} {}", head + i + 1, a[i]));
                i += 1;
            } else {
                changed.push(format!("+{} {}", head + j + 1, b[j]));
                j += 1;
            }
        }
    }
    changed.extend((i..a.len()).map(|i| format!("-{} {}", head + i + 1, a[i])));
    changed.extend((j..b.len()).map(|j| format!("+{} {}", head + j + 1, b[j])));
    let more = changed.len().saturating_sub(MAX_LINES);
    changed.truncate(MAX_LINES);
    if more > 0 {
        changed.push(format!("... and {more} more"));
    }
    changed.join("\n")
}

#[cfg(test)]
mod tests {
    use super::lines;

    #[test]
    fn names_only_what_changed() {
        assert_eq!(lines("a\nb\nc\n", "a\nx\nc\nd\n"), "-2 b\n+2 x\n+4 d");
        assert_eq!(lines("a\n", "a\n"), "");
        assert_eq!(lines("", "a"), "+1 a");
        let (long, other) = ("x\n".repeat(3000), "y\n".repeat(3000));
        assert!(lines(&long, &other).ends_with("... and 5976 more"));
    }
}
