//! Users' datasets as rows of a named schema: matching of columns, casting, and counts of what is left out.

pub(crate) mod builder;
pub(crate) mod cast;
pub(crate) mod columns;
pub(crate) mod comparisons;
pub(crate) mod context;
pub(crate) mod corrections;
pub(crate) mod csv_values;
pub(crate) mod dataset;
pub(crate) mod json_rows;
pub(crate) mod normalize;
pub(crate) mod prompts;
pub(crate) mod rename;
pub(crate) mod rows;
pub(crate) mod suggest;
pub(crate) mod text_rows;
pub(crate) mod turn;
