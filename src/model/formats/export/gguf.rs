//! The container of a GGUF file: header, metadata, tensor table, and data at multiples of 32 bytes.
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use std::io::Write;

use super::gguf_type::GgufType;
use super::tensor::BLOCK;
use crate::error::{Error, Result};

/// Alignment of tensors, in bytes.
const ALIGNMENT: u64 = 32;

/// A metadata value, in the type that llama.cpp expects.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum WrittenValue {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
}

/// Keys and values, in file order.
pub(super) type MetadataTable = Vec<(String, WrittenValue)>;

/// An entry of the tensor table.
pub(super) struct TensorTableEntry {
    pub name: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    pub kind: GgufType,
}

impl TensorTableEntry {
    fn bytes(&self) -> u64 {
        let n: u64 = self.shape.iter().map(|&d| d as u64).product();
        match self.kind {
            GgufType::F32 => 4 * n,
            GgufType::F16 => 2 * n,
            GgufType::Q8_0 => n / BLOCK as u64 * (2 + BLOCK as u64),
        }
    }
    fn ggml_type(&self) -> u32 {
        match self.kind {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::Q8_0 => 8,
        }
    }
}

/// A file in progress. Its tables are written; the tensors' data follow in the order of the table.
pub(super) struct GgufWriter<'a> {
    to: &'a mut dyn Write,
    written: u64,
    /// Final length of the file according to its tables.
    length: u64,
}

impl<'a> GgufWriter<'a> {
    /// Writes the tables.
    pub(super) fn start(to: &'a mut dyn Write, metadata: &MetadataTable, infos: &[TensorTableEntry]) -> Result<Self> {
        let mut head = b"GGUF".to_vec();
        head.extend(3u32.to_le_bytes());
        head.extend((infos.len() as u64).to_le_bytes());
        head.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            text(&mut head, key);
            put_value(&mut head, value);
        }
        let mut offset = 0u64;
        for info in infos {
            text(&mut head, &info.name);
            head.extend((info.shape.len() as u32).to_le_bytes());
            for &d in info.shape.iter().rev() {
                head.extend((d as u64).to_le_bytes());
            }
            head.extend(info.ggml_type().to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset += info.bytes().next_multiple_of(ALIGNMENT);
        }
        let mut writer = Self { to, written: 0, length: (head.len() as u64).next_multiple_of(ALIGNMENT) + offset };
        writer.put(&head)?;
        writer.pad()?;
        Ok(writer)
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Writes zeros up to the next position where a tensor may begin.
    pub(super) fn pad(&mut self) -> Result<()> {
        let n = self.written.next_multiple_of(ALIGNMENT) - self.written;
        self.put(&[0; ALIGNMENT as usize][..n as usize])
    }

    /// Checks that the file is complete and returns its length.
    pub(super) fn finish(self) -> Result<u64> {
        if self.written != self.length {
            return Err(Error::bug(format!("a GGUF file of {} bytes has {} bytes", self.length, self.written)));
        }
        Ok(self.written)
    }
}

fn text(to: &mut Vec<u8>, text: &str) {
    to.extend((text.len() as u64).to_le_bytes());
    to.extend(text.as_bytes());
}

/// Appends a value, preceded by its type.
fn put_value(to: &mut Vec<u8>, value: &WrittenValue) {
    let kind = |to: &mut Vec<u8>, kind: u32| to.extend(kind.to_le_bytes());
    let array = |to: &mut Vec<u8>, of: u32, n: usize| {
        to.extend(9u32.to_le_bytes());
        to.extend(of.to_le_bytes());
        to.extend((n as u64).to_le_bytes());
    };
    match value {
        WrittenValue::U32(n) => {
            kind(to, 4);
            to.extend(n.to_le_bytes());
        }
        WrittenValue::F32(x) => {
            kind(to, 6);
            to.extend(x.to_le_bytes());
        }
        WrittenValue::Bool(b) => {
            kind(to, 7);
            to.push(u8::from(*b));
        }
        WrittenValue::Text(t) => {
            kind(to, 8);
            text(to, t);
        }
        WrittenValue::Texts(all) => {
            array(to, 8, all.len());
            all.iter().for_each(|t| text(to, t));
        }
        WrittenValue::F32s(all) => {
            array(to, 6, all.len());
            all.iter().for_each(|x| to.extend(x.to_le_bytes()));
        }
        WrittenValue::I32s(all) => {
            array(to, 5, all.len());
            all.iter().for_each(|n| to.extend(n.to_le_bytes()));
        }
    }
}
