//! Loads a pipeline file: text to tree, tree to drafts, drafts to plan.

use std::path::Path;

use super::fields::Problems;
use super::kind::{OperatorDef, StepSpec};
use super::plan::Plan;
use super::syntax::codes;
use super::syntax::diagnostic::{Diagnostic, Diagnostics, SourceText, Span};
use super::syntax::{overrides, tree, values};
use super::{resolve, sections};
use crate::data::open_regular;

/// Maximum size of a file. Nobody writes larger ones by hand.
const LARGEST: u64 = 1 << 20;

/// Reads, resolves and checks a pipeline file. `overrides` are the texts of `--set`.
///
/// # Errors
/// All problems of the file and the overrides, including warnings.
pub fn load<O: StepSpec + ?Sized>(
    path: &Path,
    overrides: &[String],
    kinds: &[&'static OperatorDef<O>],
) -> Result<Plan<O>, Diagnostics> {
    read_and_parse(path, overrides, kinds, false)
}

/// Loads a file like [`load`] on a machine without its datasets and models: missing files are warnings.
///
/// # Errors
/// As [`load`].
pub fn load_without_data<O: StepSpec + ?Sized>(
    path: &Path,
    overrides: &[String],
    kinds: &[&'static OperatorDef<O>],
) -> Result<Plan<O>, Diagnostics> {
    read_and_parse(path, overrides, kinds, true)
}

fn read_and_parse<O: StepSpec + ?Sized>(
    path: &Path,
    overrides: &[String],
    kinds: &[&'static OperatorDef<O>],
    without_data: bool,
) -> Result<Plan<O>, Diagnostics> {
    let name = path.display().to_string();
    match read_file(path) {
        Ok(text) => parse(&name, &text, overrides, kinds, without_data),
        Err(why) => {
            let problem = Diagnostic::nowhere(&codes::UNREADABLE, format!("{name}: {why}"));
            let problem = problem.help(values::sibling(&name));
            Err(Diagnostics::new(vec![SourceText::new(name, "")], vec![problem]))
        }
    }
}

fn read_file(path: &Path) -> Result<String, String> {
    use std::io::Read as _;
    let file = open_regular(path).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > LARGEST {
        return Err("larger than 1 MiB, which no pipeline file needs to be".into());
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..good].iter().filter(|b| **b == b'\n').count() + 1;
        format!("not UTF-8 text: line {line} has a byte that is not")
    })
}

/// Loads a file like [`load`] from its text; `name` stands for its path in messages.
///
/// # Errors
/// As [`load`].
///
/// ```
/// use reflux::{operators, pipeline};
///
/// let file = "[step.pairs]\nop = \"selekt\"\nfrom = \"scores\"\n";
/// let problems = pipeline::parse_str("example.toml", file, &[], operators::ALL).err().unwrap();
/// assert!(problems.render(false).contains("select"));
/// ```
pub fn parse_str<O: StepSpec + ?Sized>(
    name: &str,
    text: &str,
    overrides: &[String],
    kinds: &[&'static OperatorDef<O>],
) -> Result<Plan<O>, Diagnostics> {
    parse(name, text, overrides, kinds, false)
}

/// Loads a file like [`load_without_data`] from its text.
///
/// # Errors
/// As [`load`].
pub fn parse_str_without_data<O: StepSpec + ?Sized>(
    name: &str,
    text: &str,
    kinds: &[&'static OperatorDef<O>],
) -> Result<Plan<O>, Diagnostics> {
    parse(name, text, &[], kinds, true)
}

fn parse<O: StepSpec + ?Sized>(
    name: &str,
    text: &str,
    overrides: &[String],
    kinds: &[&'static OperatorDef<O>],
    without_data: bool,
) -> Result<Plan<O>, Diagnostics> {
    let mut sources = vec![SourceText::new(name, text)];
    if text.len() as u64 > LARGEST || overrides.iter().any(|o| o.len() as u64 > LARGEST) {
        let problem = Diagnostic::nowhere(&codes::UNREADABLE, format!("{name}: larger than 1 MiB"));
        return Err(Diagnostics::new(vec![SourceText::new(name, "")], vec![problem]));
    }
    let mut root = match tree::parse(text, 0) {
        Ok(root) => root,
        Err(problems) => return Err(Diagnostics::new(sources, problems)),
    };
    let mut list = Vec::new();
    overrides::apply(&mut root, overrides, &mut sources, &mut list);
    let problems = Problems { list: list.into(), silent: false, without_data };
    let file = sections::read(&root, kinds, &problems, &stem(name));
    let line = |span: Span| sources.get(span.source).map_or(1, |s| s.position(span.start).0);
    let plan = resolve::plan(file, &problems, line);
    let diagnostics = Diagnostics::new(sources, problems.list.into_inner());
    match plan {
        Some(plan) if diagnostics.errors() == 0 => Ok(Plan { warnings: diagnostics, ..plan }),
        _ => Err(diagnostics),
    }
}

/// Derives a name for the pipeline from the name of its file.
fn stem(name: &str) -> String {
    let stem = Path::new(name).file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let stem: String = stem.trim_start_matches('-').chars().map(plain).take(64).collect();
    if stem.is_empty() { "pipeline".to_owned() } else { stem }
}
