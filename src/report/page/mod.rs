//! The page of a run: one self-contained HTML file with charts, made from a snapshot of what is committed.
//!
//! A [`Snapshot`] is data. It is read from a run's directory only, is bounded whatever the run's size, and says
//! where it shows a sample. The page's script draws any snapshot that it is given. `reflux report` embeds one in
//! the file; a newer snapshot of the same run can be drawn by the same script.
//!
//! A part of the page is a `Section`: a file in `sections/` that reads its figures, a script beside it that draws
//! them, and its line in `sections::ALL`.

mod histogram;
mod html;
mod limits;
mod page_file;
mod section;
mod sections;
mod snapshot;
mod source;
mod step_facts;
mod texts;

pub use html::html;
pub use page_file::write_page;
pub use snapshot::Snapshot;
