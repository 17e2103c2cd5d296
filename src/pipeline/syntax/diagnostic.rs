//! Problems of a pipeline file, collected with their places and rendered with a caret under each.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};

use serde_json::{Value, json};

use super::codes::{Code, Severity};
use crate::data::{counted, is_terminal_control, one_line, visible};

/// Width of a rendered diagnostic, independent of the terminal, so that output is the same everywhere.
const WIDTH: usize = 110;
/// Maximum number of rendered diagnostics; the rest is counted.
const MAX_COUNT: usize = 100;
/// Longer lines are not shown, only referred to.
const LONGEST_LINE: usize = 1000;

/// A place: bytes `start..end` of the text numbered `source` (0 is the file, then each `--set` in order).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Span {
    /// Number of the text.
    pub source: usize,
    /// First byte.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
}

/// A text that was parsed.
#[derive(Clone, Debug)]
pub struct SourceText {
    /// The file's path as given, or `--set`.
    pub name: String,
    /// The whole text.
    pub text: Arc<str>,
}

impl SourceText {
    /// Creates a source from its name and text.
    pub fn new(name: impl Into<String>, text: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), text: text.into() }
    }
    /// Returns the nearest character boundary at or before `at`, within the text.
    fn boundary(&self, at: usize) -> usize {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
    /// Returns line and column of a byte, both from 1; the column counts characters.
    pub fn position(&self, at: usize) -> (usize, usize) {
        let before = &self.text[..self.boundary(at)];
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
    }
    /// Returns the span within the text, on character boundaries, cut at the end of its first line.
    fn clamp(&self, span: Span) -> (usize, usize) {
        let start = self.boundary(span.start);
        let end = self.boundary(span.end).max(start);
        let line = self.text[start..end].find(['\n', '\r']).map_or(end, |i| start + i);
        (start, line - start)
    }
    /// Whether the line of `at` and its neighbours are short enough to print.
    fn printable(&self, at: usize) -> bool {
        let at = self.boundary(at);
        let (before, after) = (&self.text[..at], &self.text[at..]);
        let line = before.rsplit('\n').next().unwrap_or("").len() + after.split('\n').next().unwrap_or("").len();
        let neighbours = [before.rsplit('\n').nth(1), after.split('\n').nth(1)];
        line <= LONGEST_LINE && neighbours.iter().flatten().all(|l| l.len() <= LONGEST_LINE)
    }
    /// Returns the text with terminal control characters replaced by characters of the same size, so that
    /// places are unchanged.
    fn tame(&self) -> Arc<str> {
        let is_terminal_control = |c: char| is_terminal_control(c) && c != '\n' && c != '\t';
        if !self.text.contains(is_terminal_control) {
            return self.text.clone();
        }
        let swap = |c: char| match (c, c.len_utf8()) {
            ('\r', _) => ' ',
            (c, 1) if is_terminal_control(c) => '?',
            (c, 2) if is_terminal_control(c) => '·',
            (c, _) if is_terminal_control(c) => '\u{fffd}',
            (c, _) => c,
        };
        self.text.chars().map(swap).collect::<String>().into()
    }
}

/// A place with a remark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// A few words under the caret; may be empty.
    pub text: String,
}

/// A problem.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// Its kind.
    pub code: &'static Code,
    /// The problem, in a sentence.
    pub message: String,
    /// Its places: the first is the main one, the others show related ones.
    pub labels: Vec<Label>,
    /// The remedy: a suggestion, or the possible choices.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Creates a problem at a place.
    pub fn new(code: &'static Code, message: impl Into<String>, span: Span, label: impl Into<String>) -> Self {
        Self { code, message: message.into(), labels: vec![Label { span, text: label.into() }], help: None }
    }
    /// Creates a problem without a place.
    pub fn nowhere(code: &'static Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), labels: Vec::new(), help: None }
    }
    /// Adds a remedy.
    #[must_use]
    pub fn help(mut self, help: impl Into<Option<String>>) -> Self {
        self.help = help.into();
        self
    }
    /// Adds another place.
    #[must_use]
    pub fn also(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }
    /// Returns the main place.
    pub fn span(&self) -> Option<Span> {
        self.labels.first().map(|l| l.span)
    }
    /// Returns the severity.
    pub fn severity(&self) -> Severity {
        self.code.severity()
    }
}

/// All problems of a pipeline, by position, with the texts they refer to.
#[derive(Clone, Default)]
pub struct Diagnostics {
    sources: Vec<SourceText>,
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Sorts the problems by place (file first, then each override) and drops exact duplicates.
    pub fn new(sources: Vec<SourceText>, mut list: Vec<Diagnostic>) -> Self {
        list.sort_by(|a, b| (a.span(), a.code.id, &a.message).cmp(&(b.span(), b.code.id, &b.message)));
        list.dedup_by(|a, b| a.code.id == b.code.id && a.message == b.message && a.labels == b.labels);
        Self { sources, list }
    }
    /// Returns the problems, by position.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.list.iter()
    }
    /// Returns the number of errors.
    pub fn errors(&self) -> usize {
        self.list.iter().filter(|d| d.severity() == Severity::Error).count()
    }
    /// Returns the number of warnings.
    pub fn warnings(&self) -> usize {
        self.list.len() - self.errors()
    }
    /// Whether no problem was found.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
    /// Returns file, line and column of a place, such as `a.toml:3:7`.
    pub fn at(&self, span: Span) -> String {
        self.sources.get(span.source).map_or_else(String::new, |s| {
            let (line, column) = s.position(span.start);
            format!("{}:{line}:{column}", one_line(&s.name))
        })
    }
    /// Renders the problems for people: each with its code, place, caret and help, and a count at the end.
    /// `colour` only adds escape codes.
    pub fn render(&self, colour: bool) -> String {
        let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(WIDTH).with_links(false).tab_width(4);
        let tame: Vec<NamedSource<Arc<str>>> =
            self.sources.iter().map(|s| NamedSource::new(one_line(&s.name), s.tame())).collect();
        let mut out = String::new();
        for diagnostic in self.list.iter().take(MAX_COUNT) {
            let shown = self.shown(diagnostic, &tame);
            if handler.render_report(&mut out, &shown).is_err() {
                let _ = writeln!(out, "{}: {}", diagnostic.code.id, shown.message);
            }
            out.push('\n');
        }
        if self.list.len() > MAX_COUNT {
            let _ = writeln!(out, "... and {} more", self.list.len() - MAX_COUNT);
        }
        let counts = [(self.errors(), "error"), (self.warnings(), "warning")];
        let words: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| counted(*n, word)).collect();
        if let (false, Some(file)) = (words.is_empty(), self.sources.first()) {
            let _ = writeln!(out, "{}: {}", one_line(&file.name), words.join(", "));
        }
        // The renderer pads empty lines; trailing blanks would make snapshots fragile.
        let lines: Vec<&str> = out.lines().map(str::trim_end).collect();
        lines.join("\n") + "\n"
    }
    /// Renders the problems for programs: a JSON object each, with file, line and column if it has a place.
    pub fn json(&self) -> Vec<(Severity, Value)> {
        let one = |problem: &Diagnostic| {
            let mut fields = json!({
                "code": problem.code.id, "name": problem.code.name, "message": problem.message, "help": problem.help,
            });
            let place = problem.span().and_then(|span| Some((self.sources.get(span.source)?, span)));
            // A problem without a place still belongs to the file.
            let source = place.map(|(source, _)| source).or(self.sources.first());
            let position = place.map(|(source, span)| source.position(span.start)).unzip();
            fields["file"] = json!(source.map(|source| &source.name));
            (fields["line"], fields["column"]) = (json!(position.0), json!(position.1));
            (problem.severity(), fields)
        };
        let mut all: Vec<_> = self.list.iter().take(MAX_COUNT).map(one).collect();
        if self.list.len() > MAX_COUNT {
            let rest = &self.list[MAX_COUNT..];
            let worst = rest.iter().map(Diagnostic::severity).find(|s| *s == Severity::Error);
            let fields = json!({ "message": format!("and {} more", counted(rest.len(), "problem")) });
            all.push((worst.unwrap_or(Severity::Warning), fields));
        }
        all
    }
    fn shown<'a>(&self, diagnostic: &'a Diagnostic, tame: &'a [NamedSource<Arc<str>>]) -> ShownDiagnostic<'a> {
        let mut shown = ShownDiagnostic {
            diagnostic,
            message: visible(&diagnostic.message).into_owned(),
            help: diagnostic.help.as_ref().map(|help| visible(help).into_owned()),
            source: None,
            labels: Vec::new(),
        };
        let Some(main) = diagnostic.span() else { return shown };
        let Some(source) = self.sources.get(main.source) else { return shown };
        for (i, label) in diagnostic.labels.iter().enumerate() {
            let here = label.span.source == main.source && source.printable(label.span.start);
            if here {
                let text = (!label.text.is_empty()).then(|| one_line(&label.text).into_owned());
                let place = source.clamp(label.span);
                shown.labels.push(if i == 0 {
                    LabeledSpan::new_primary_with_span(text, place)
                } else {
                    LabeledSpan::new_with_span(text, place)
                });
            } else if i == 0 {
                // The line is too long to show, so the place goes into the words.
                shown.message = format!("{}: {}", self.at(label.span), shown.message);
            } else {
                let note = format!("{}: {}", self.at(label.span), one_line(&label.text));
                shown.help = Some(shown.help.map_or(note.clone(), |h| format!("{h}\n{note}")));
            }
        }
        if !shown.labels.is_empty() {
            shown.source = tame.get(main.source);
        }
        shown
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}
impl fmt::Debug for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n{self}")
    }
}
impl std::error::Error for Diagnostics {}

/// A diagnostic in the form that the renderer takes.
struct ShownDiagnostic<'a> {
    diagnostic: &'a Diagnostic,
    message: String,
    help: Option<String>,
    source: Option<&'a NamedSource<Arc<str>>>,
    labels: Vec<LabeledSpan>,
}
impl fmt::Display for ShownDiagnostic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl fmt::Debug for ShownDiagnostic<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
impl std::error::Error for ShownDiagnostic<'_> {}
impl miette::Diagnostic for ShownDiagnostic<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(format!("{} {}", self.diagnostic.code.id, self.diagnostic.code.name)))
    }
    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.diagnostic.severity() {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.map(|s| s as &dyn SourceCode)
    }
    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }
}
