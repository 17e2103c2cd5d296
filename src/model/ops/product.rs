//! The matrix product of training on the CPU. Both factors change from call to call, or are read along
//! either side. They are packed at each call (Goto and van de Geijn, ACM TOMS 34(3), 2008) and multiplied
//! in tiles that stay in registers.
//!
//! Every result is one chain of fused additions over the inner dimension in order, starting from zero or
//! from the previous value. Its bits depend neither on the other rows and columns nor on threads, and equal
//! those of [`super::PackedWeight`].

use std::cell::Cell;

use rayon::prelude::*;

use super::cpu::Matrix;
use super::tile::{COLUMNS, MIN_PARALLEL_WORK, ROWS, TileLine};

/// Steps of the inner dimension before moving to the next tile: a tile's rows of the left factor stay in
/// the first cache.
const DEPTH: usize = 576;
/// Columns before moving to the next rows: their part of the right factor stays in the second cache.
const WIDTH: usize = 256;
/// Runs of rows per thread. With several, idle threads take over runs of a slow one.
const RUNS: usize = 8;
/// Minimum groups of rows per run: data from the second cache is reused this many times.
const GROUPS: usize = 5;

thread_local! {
    /// Memory of the last packed factors, for reuse.
    static RIGHT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static LEFT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Computes `c = a b`, or `c += a b` if `onto`: `a` is `[m, k]` and `b` is `[k, n]`, each with any strides;
/// `c` is `[m, n]` row by row.
pub(in crate::model) fn product((m, n, k): (usize, usize, usize), a: Matrix, b: Matrix, c: &mut [f32], onto: bool) {
    let c = &mut c[..m * n];
    if c.is_empty() || k == 0 {
        if !onto {
            c.fill(0.);
        }
        return;
    }
    // Taken out of the cell and put back: while this thread waits, rayon may run another product on it.
    let mut right = RIGHT.take();
    let panels = n.div_ceil(COLUMNS) * COLUMNS * k;
    if right.len() < panels {
        right.resize(panels, 0.);
    }
    let sequential = m * n * k < MIN_PARALLEL_WORK;
    let pack = |(p, out): (usize, &mut [f32])| pack_right(b, k, p * COLUMNS..n.min((p + 1) * COLUMNS), out);
    let parts = right[..panels].chunks_exact_mut(COLUMNS * k);
    if sequential {
        parts.enumerate().for_each(pack);
    } else {
        right[..panels].par_chunks_exact_mut(COLUMNS * k).enumerate().for_each(pack);
    }
    let runs = RUNS * rayon::current_num_threads();
    let run = if sequential { m } else { m.div_ceil(runs).max(GROUPS * ROWS) }.next_multiple_of(ROWS);
    let (right_panels, _) = right[..panels].as_chunks::<COLUMNS>();
    let rows = |(i, c): (usize, &mut [f32])| {
        let a = Matrix { numbers: &a.numbers[i * run * a.row..], ..a };
        multiply((c.len() / n, n, k), a, right_panels, c, onto);
    };
    if m <= run {
        rows((0, c));
    } else {
        c.par_chunks_mut(run * n).enumerate().for_each(rows);
    }
    RIGHT.set(right);
}

/// Packs a range of columns of `b`, line by line, with zeros beyond the last.
fn pack_right(b: Matrix, k: usize, columns: std::ops::Range<usize>, out: &mut [f32]) {
    let (first, count) = (columns.start, columns.len());
    let (lines, _) = out.as_chunks_mut::<COLUMNS>();
    if b.column == 1 {
        for (t, line) in lines.iter_mut().enumerate() {
            let from = &b.numbers[t * b.row + first..];
            match from.first_chunk::<COLUMNS>() {
                Some(whole) if count == COLUMNS => *line = *whole,
                _ => {
                    line[..count].copy_from_slice(&from[..count]);
                    line[count..].fill(0.);
                }
            }
        }
        return;
    }
    if count < COLUMNS {
        lines.as_flattened_mut().fill(0.);
    }
    const SQUARE: usize = 16;
    for (t, lines) in lines.chunks_mut(SQUARE).enumerate() {
        let t = t * SQUARE;
        if b.row == 1 && count == COLUMNS && t + SQUARE <= k {
            let from: [&[f32]; COLUMNS] = std::array::from_fn(|c| &b.numbers[(first + c) * b.column + t..][..SQUARE]);
            for (i, line) in lines.iter_mut().enumerate() {
                line.iter_mut().zip(&from).for_each(|(x, from)| *x = from[i]);
            }
        } else {
            for c in 0..count {
                let from = &b.numbers[(first + c) * b.column + t * b.row..];
                lines.iter_mut().enumerate().for_each(|(i, line)| line[c] = from[i * b.row]);
            }
        }
    }
}

/// Packs rows of `a` in groups of [`ROWS`], adjacent at each step, with zeros beyond the last.
fn pack_left(a: Matrix, m: usize, k: usize, out: &mut [f32]) {
    for (p, out) in out.chunks_exact_mut(ROWS * k).enumerate() {
        let rows = ROWS.min(m - p * ROWS);
        let (lines, _) = out.as_chunks_mut::<ROWS>();
        if a.column == 1 {
            let row = |r: usize| if r < rows { &a.numbers[(p * ROWS + r) * a.row..][..k] } else { &[] };
            let from: [&[f32]; ROWS] = std::array::from_fn(row);
            for (t, line) in lines.iter_mut().enumerate() {
                *line = std::array::from_fn(|r| from[r].get(t).copied().unwrap_or(0.));
            }
        } else {
            for (t, line) in lines.iter_mut().enumerate() {
                let from = &a.numbers[t * a.column + p * ROWS * a.row..];
                match from.first_chunk::<ROWS>() {
                    Some(whole) if rows == ROWS && a.row == 1 => *line = *whole,
                    _ => *line = std::array::from_fn(|r| if r < rows { from[r * a.row] } else { 0. }),
                }
            }
        }
    }
}

/// Computes the product of a run of rows on this thread. `right` is the packed `b`: panels of `k` lines.
fn multiply((m, n, k): (usize, usize, usize), a: Matrix, right: &[[f32; COLUMNS]], c: &mut [f32], onto: bool) {
    let mut left = LEFT.take();
    let size = m.div_ceil(ROWS) * ROWS * k.min(DEPTH);
    if left.len() < size {
        left.resize(size, 0.);
    }
    for first in (0..k).step_by(DEPTH) {
        let depth = DEPTH.min(k - first);
        let left = &mut left[..m.div_ceil(ROWS) * ROWS * depth];
        let a = Matrix { numbers: &a.numbers[first * a.column..], ..a };
        // Row-major rows are read in place, except for an incomplete last group.
        let direct = if a.column == 1 { m / ROWS } else { 0 };
        let rest = Matrix { numbers: a.numbers.get(direct * ROWS * a.row..).unwrap_or(&[]), ..a };
        pack_left(rest, m - direct * ROWS, depth, &mut left[direct * ROWS * depth..]);
        for columns in (0..n).step_by(WIDTH) {
            for (i, left) in left.chunks_exact(ROWS * depth).enumerate() {
                let (left, _) = left.as_chunks::<ROWS>();
                let rows = |r: usize| &a.numbers[(i * ROWS + r) * a.row..][..depth];
                let rows: Option<[&[f32]; ROWS]> = (i < direct).then(|| std::array::from_fn(rows));
                for j in (columns..n.min(columns + WIDTH)).step_by(COLUMNS) {
                    let lines = &right[j / COLUMNS * k + first..][..depth];
                    let size = (ROWS.min(m - i * ROWS), COLUMNS.min(n - j));
                    let (c, onto) = (&mut c[i * ROWS * n + j..], onto || first > 0);
                    match &rows {
                        Some(rows) => tile(rows, lines, c, n, size, onto),
                        None => tile(&left, lines, c, n, size, onto),
                    }
                }
            }
        }
    }
    LEFT.set(left);
}

/// A tile's part of the left factor.
trait LeftFactor {
    /// The first `depth` steps of the part.
    fn cut(&self, depth: usize) -> Self;
    /// The number of row `r` at step `t`.
    fn at(&self, r: usize, t: usize) -> f32;
}

/// Packed: the rows are adjacent at each step.
impl LeftFactor for &[[f32; ROWS]] {
    #[inline(always)]
    fn cut(&self, depth: usize) -> Self {
        &self[..depth]
    }
    #[inline(always)]
    fn at(&self, r: usize, t: usize) -> f32 {
        self[t][r]
    }
}

/// Not packed: the rows are read in place.
impl LeftFactor for [&[f32]; ROWS] {
    #[inline(always)]
    fn cut(&self, depth: usize) -> Self {
        self.map(|row| &row[..depth])
    }
    #[inline(always)]
    fn at(&self, r: usize, t: usize) -> f32 {
        self[r][t]
    }
}

/// Computes one tile of `c`, whose rows are `row` apart. It is not inlined, so that it has all registers.
#[inline(never)]
fn tile<L: LeftFactor>(
    left: &L,
    lines: &[[f32; COLUMNS]],
    c: &mut [f32],
    row: usize,
    (rows, columns): (usize, usize),
    onto: bool,
) {
    let mut sums = [TileLine::ZERO; ROWS];
    if onto {
        for (r, sums) in sums.iter_mut().enumerate().take(rows) {
            *sums = TileLine::load(&c[r * row..][..columns]);
        }
    }
    let left = left.cut(lines.len());
    for (t, line) in lines.iter().enumerate() {
        let line = TileLine::new(line);
        for (r, sums) in sums.iter_mut().enumerate() {
            sums.add(left.at(r, t), line);
        }
    }
    for (r, sums) in sums.iter().enumerate().take(rows) {
        sums.store(&mut c[r * row..][..columns]);
    }
}

#[cfg(test)]
mod tests {
    use super::super::cpu::fma;
    use super::*;

    fn numbers(n: usize, s: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + s) % 997) as f32 / 997. - 0.5).collect()
    }

    #[test]
    fn every_result_is_one_chain_whatever_the_shape_and_strides() {
        for (m, n, k) in [(1, 1, 1), (12, 32, 8), (5, 43, 7), (37, 75, 1301), (3, 9, 2), (130, 70, 40), (13, 600, 515)]
        {
            let (a, b, start) = (numbers(m * k, 1), numbers(k * n, 2), numbers(m * n, 3));
            for (a_turned, b_turned, onto) in [(false, true, false), (true, false, true), (false, false, true)] {
                let strides = |turned: bool, rows: usize, columns: usize| if turned { (1, rows) } else { (columns, 1) };
                let ((a_row, a_column), (b_row, b_column)) = (strides(a_turned, m, k), strides(b_turned, k, n));
                let mut c = start.clone();
                let left = Matrix { numbers: &a, row: a_row, column: a_column };
                let right = Matrix { numbers: &b, row: b_row, column: b_column };
                product((m, n, k), left, right, &mut c, onto);
                for i in 0..m {
                    for j in 0..n {
                        let chain = |s, t| fma(a[i * a_row + t * a_column], b[t * b_row + j * b_column], s);
                        let want = (0..k).fold(if onto { start[i * n + j] } else { 0. }, chain);
                        assert_eq!(c[i * n + j], want, "({m} {n} {k}) {a_turned} {b_turned} {onto} at {i} {j}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_to_add_up_is_zero() {
        let none = Matrix { numbers: &[], row: 0, column: 1 };
        let mut c = vec![1.; 6];
        product((2, 3, 0), none, none, &mut c, true);
        assert_eq!(c, [1.; 6]);
        product((2, 3, 0), none, none, &mut c, false);
        assert_eq!(c, [0.; 6]);
        product((0, 3, 2), none, Matrix { numbers: &[0.; 6], row: 3, column: 1 }, &mut [], false);
    }
}
