//! Rows of other people's files as rows of a named schema: which columns fit, what is cast, what is left out and counted.

pub(crate) mod asked;
pub(crate) mod cast;
pub(crate) mod columns;
pub(crate) mod context;
pub(crate) mod conversations;
pub(crate) mod corrections;
pub(crate) mod dataset;
pub(crate) mod json_rows;
pub(crate) mod rename;
pub(crate) mod rows;
pub(crate) mod suggest;
pub(crate) mod text_rows;
