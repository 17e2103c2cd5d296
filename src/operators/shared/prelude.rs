//! The imports that every operator file starts with: `use crate::operators::shared::prelude::*;`.

pub use std::sync::Arc;

pub use arrow::array::{Array, ArrayRef, Float32Array, RecordBatch, StringArray, UInt32Array};

pub(crate) use super::models::Models;
pub(crate) use super::settings;
pub(crate) use super::template::{PromptTemplate, Variables};
pub use crate::data::{Columns, Epoch, List, Prompts, Schema, hash_hex, named};
pub use crate::dataflow::{Context, Ledger, Operator, Output, RowError, Stage};
pub use crate::error::{Error, ErrorContext as _, Result};
pub(crate) use crate::pipeline::{Asks, CostAssumptions, CostEstimate, InputStats, RowStats, TokenCount};
pub use crate::pipeline::{Fields, NeedsModel, OperatorDef, Port, Shape, StepSpec};
