//! [`FormatDef`]: a public format, with everything that the import, its help and its documentation need.

use std::fmt;

use crate::data::Schema;
use crate::store::import::chats::Turns;
use crate::store::import::context::QuestionContext;
use crate::store::import::record::Record;
use crate::store::import::sink::RowSink;

/// A public format. Its rows are read from JSON, CSV, text and Parquet alike.
pub struct FormatDef {
    /// Name for `--format`.
    pub name: &'static str,
    /// Description in the help of `reflux import`.
    pub about: &'static str,
    /// How its rows are recognised, for the table of formats in the documentation.
    pub recognised_by: &'static str,
    /// Which keys are read and what becomes of them, for the same table.
    pub reads: &'static str,
    /// Top-level keys that it reads or is recognised by. Only these columns of a Parquet file are decoded.
    pub keys: &'static [&'static str],
    /// Schemas that its rows can become, the default first.
    pub targets: &'static [&'static Schema],
    /// Names of additional text columns after the schema's own.
    pub extra: &'static [&'static str],
    /// Whether a row has this format. Formats are asked in the order of their list.
    pub(in crate::store::import) recognises: fn(&Record) -> bool,
    /// How rows are converted.
    pub(in crate::store::import) convert: Convert,
}

impl PartialEq for FormatDef {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for FormatDef {}

impl fmt::Debug for FormatDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Options of a conversion.
pub(in crate::store::import) struct RowOptions {
    /// The target schema.
    pub schema: &'static Schema,
    /// The language of Open Assistant's messages; all if `None`.
    pub language: Option<String>,
    /// Which answers of a conversation become rows.
    pub turns: Turns,
}

/// Converts a row to rows of the target schema, or returns its fault.
type ConvertRow = fn(&mut Record, &QuestionContext, &RowOptions, &mut RowSink) -> Result<(), String>;

/// How the rows of a format are converted.
pub(in crate::store::import) enum Convert {
    /// Every row by itself.
    Row(ConvertRow),
    /// Several rows together: the converter has a state.
    Rows(fn(RowOptions) -> Box<dyn RowConverter>),
}

impl Convert {
    /// A converter at the beginning of a file.
    pub fn start(&self, options: RowOptions) -> Box<dyn RowConverter> {
        match self {
            Convert::Row(row) => Box::new(EachRow { row: *row, options }),
            Convert::Rows(start) => start(options),
        }
    }
}

/// Converter of a file's rows.
pub(in crate::store::import) trait RowConverter {
    /// Converts a row, or returns its fault.
    fn row(&mut self, record: &mut Record, context: &QuestionContext, sink: &mut RowSink) -> Result<(), String>;
    /// Converts what was buffered until the end of the file.
    fn end(&mut self, _: &mut RowSink) {}
}

/// Converter of rows that do not depend on each other.
struct EachRow {
    row: ConvertRow,
    options: RowOptions,
}

impl RowConverter for EachRow {
    fn row(&mut self, record: &mut Record, context: &QuestionContext, sink: &mut RowSink) -> Result<(), String> {
        (self.row)(record, context, &self.options, sink)
    }
}
