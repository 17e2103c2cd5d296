//! [`Converter`]: rows of a public format, with the checks and counts that all formats share.

use super::context::QuestionContext;
use super::formats::{FormatDef, RowConverter, RowOptions};
use super::record::{Object, Record};
use super::sink::RowSink;

/// Converts rows of a format to rows of a schema.
pub(super) struct Converter {
    format: &'static FormatDef,
    rows: Box<dyn RowConverter>,
}

impl Converter {
    pub fn new(format: &'static FormatDef, options: RowOptions) -> Self {
        Self { format, rows: format.convert.start(options) }
    }

    /// Converts a row, or returns its fault. Every key of a converted row is read, or counted in `sink`.
    pub fn row(&mut self, row: Object, sink: &mut RowSink) -> Result<(), String> {
        let mut record = Record::new(row, self.format.keys);
        let left_out = |sink: &RowSink| sink.left_out.values().sum::<u64>();
        let (before, made) = (left_out(sink), sink.rows.len());
        match QuestionContext::take(&mut record)? {
            Err(why) => sink.leave_out(why),
            Ok(context) => self.rows.row(&mut record, &context, sink)?,
        }
        // A row that was left out as a whole is counted by its reason alone.
        if before == left_out(sink) || sink.rows.len() > made {
            for key in record.into_unread() {
                sink.count_unread(&key, 1);
            }
        }
        Ok(())
    }

    /// Converts what was buffered until the end.
    pub fn end(&mut self, sink: &mut RowSink) {
        self.rows.end(sink);
    }
}
