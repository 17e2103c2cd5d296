//! Lines at the bottom of a terminal that are redrawn.

use std::fmt::Debug;
use std::io::{self, Write};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::data::one_line;
use crate::report::{Paint, Piece};

/// All bars of the process. Messages use it to print above them.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// Redraws per second.
const REDRAWS: u8 = 20;

/// Runs `write` while the bars are hidden, so that no pieces of a bar remain in the output.
pub(super) fn aside<T>(write: impl FnOnce() -> T) -> T {
    match BARS.get() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// A line of standard error that is redrawn. Its text is escaped, because it may contain file names.
pub struct Bar(ProgressBar);

impl Bar {
    /// Creates a bar with indicatif's `template`, which may use `{msg}`.
    pub fn new(template: &'static str) -> Self {
        let target = || ProgressDrawTarget::term_like_with_hz(Box::new(Screen::default()), REDRAWS);
        let bars = BARS.get_or_init(|| MultiProgress::with_draw_target(target()));
        let bar = bars.add(ProgressBar::no_length());
        // Templates are constants; an invalid one falls back to the default bar.
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }
    /// Redraws the bar periodically, even without other updates.
    pub fn keep_ticking(&self) {
        // The ticker needs a thread, and indicatif panics if the system refuses one.
        if std::thread::Builder::new().spawn(|| ()).is_ok() {
            self.0.enable_steady_tick(Duration::from_millis(120));
        }
    }
    /// Sets `{msg}`.
    pub fn message(&self, text: &str) {
        self.0.set_message(one_line(text).into_owned());
    }
    /// Removes the bar from the screen.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

/// Several lines at the bottom that are redrawn together.
pub struct Block(Bar);

impl Block {
    /// Creates an empty block.
    pub fn new() -> Self {
        Self(Bar::new("{msg}"))
    }
    /// Replaces the lines shown. Their texts are escaped, because they may come from a model.
    pub fn show(&self, lines: &[Vec<Piece>]) {
        let colour = super::colour::colour_wanted();
        let lines: Vec<String> = lines.iter().map(|line| painted(line, colour)).collect();
        self.0.0.set_message(lines.join("\n"));
        self.0.0.tick();
    }
    /// Leaves the block on the screen as it is.
    pub fn abandon(&self) {
        self.0.0.abandon();
    }
}

/// Formats a line, with colours if `colour` is set.
fn painted(line: &[Piece], colour: bool) -> String {
    let piece = |piece: &Piece| {
        let text = one_line(&piece.text).into_owned();
        let code = match piece.paint {
            Paint::Plain => return text,
            Paint::Bold => 1,
            Paint::Dim => 2,
            Paint::Done => 32,
            Paint::Running => 36,
        };
        if colour && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text }
    };
    line.iter().map(piece).collect()
}

/// Standard error as a terminal that never fails: if the terminal is closed, nothing is shown and the run
/// continues.
#[derive(Default)]
struct Screen(Mutex<String>);

impl Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("standard error")
    }
}

impl Screen {
    fn push(&self, text: &str) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push_str(text);
        Ok(())
    }
    /// Moves the cursor with the control sequence of a direction.
    fn go(&self, n: usize, direction: char) -> io::Result<()> {
        if n > 0 { self.push(&format!("\u{1b}[{n}{direction}")) } else { Ok(()) }
    }
}

/// Returns width and height of the terminal.
pub(super) fn size() -> (u16, u16) {
    terminal_size::terminal_size_of(io::stderr()).map_or((80, 24), |(width, height)| (width.0.max(1), height.0.max(1)))
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        size().0
    }
    fn height(&self) -> u16 {
        size().1
    }
    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, 'A')
    }
    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, 'B')
    }
    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, 'C')
    }
    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, 'D')
    }
    fn write_line(&self, text: &str) -> io::Result<()> {
        self.push(text)?;
        self.push("\n")
    }
    fn write_str(&self, text: &str) -> io::Result<()> {
        self.push(text)
    }
    fn clear_line(&self) -> io::Result<()> {
        self.push("\r\u{1b}[2K")
    }
    fn flush(&self) -> io::Result<()> {
        let text = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let _unread = io::stderr().lock().write_all(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_add_nothing_but_escape_codes() {
        let piece = |text: &str, paint| Piece { text: text.to_owned(), paint };
        let line = [
            piece("dpo ", Paint::Plain),
            piece("██", Paint::Running),
            piece("", Paint::Dim),
            piece("a\u{1b}[2J\n", Paint::Bold),
        ];
        assert_eq!(painted(&line, false), "dpo ██a\\u{1b}[2J\\n");
        assert_eq!(painted(&line, true), "dpo \u{1b}[36m██\u{1b}[0m\u{1b}[1ma\\u{1b}[2J\\n\u{1b}[0m");
    }
}
