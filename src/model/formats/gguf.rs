//! The container of a GGUF file: header, metadata and tensor table. The reader does not trust the file: it
//! checks every count against the bytes left in the file before it allocates memory, and keeps arrays as
//! compactly as the file does.
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Seek, SeekFrom};

use candle_core::quantized::{GgmlDType, ggml_file};
use candle_core::{DType, Device, Tensor};

use super::tensor_size::elements;
use crate::error::{Error, Result};

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum GgufValue {
    Int(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    Ints(Vec<i32>),
    /// An array of another type. No part of a model needs it, so it is skipped.
    Other,
}

/// Type and place of a tensor.
struct TensorInfo {
    kind: u32,
    /// Outermost dimension first, like candle's shapes.
    shape: Vec<usize>,
    offset: u64,
}

/// A GGUF file whose tables have been read.
pub(crate) struct Gguf<R> {
    reader: BufReader<R>,
    length: u64,
    /// Count of bytes read so far; it gives the bytes left without a system call.
    position: u64,
    data: u64,
    pub(crate) metadata: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, TensorInfo>,
    /// The other files of a model that is split over several.
    parts: Vec<Self>,
}

impl<R: Read + Seek> Gguf<R> {
    /// Reads the tables.
    pub(crate) fn read(mut file: R) -> Result<Self> {
        let length = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(0))?;
        let reader = BufReader::with_capacity(1 << 16, file);
        let mut g = Self {
            reader,
            length,
            position: 0,
            data: 0,
            metadata: BTreeMap::new(),
            tensors: BTreeMap::new(),
            parts: Vec::new(),
        };
        if g.bytes()? != *b"GGUF" {
            return Err(Error::user("it is not a GGUF file"));
        }
        let version = g.u32()?;
        if (2..=3).contains(&version.swap_bytes()) {
            return Err(Error::user("it is a big-endian GGUF file; reflux reads little-endian ones")
                .help("convert it with llama.cpp's gguf_convert_endian.py, or use the little-endian file"));
        }
        if !(2..=3).contains(&version) {
            return Err(Error::user(format!("it has GGUF version {version}; reflux reads 2 and 3")));
        }
        let (tensors, pairs) = (g.u64()?, g.u64()?);
        // A pair takes at least 8 + 4 + 1 bytes, a tensor 8 + 4 + 4 + 8.
        g.enough(pairs, 13, "metadata entries")?;
        g.enough(tensors, 24, "tensors")?;
        for _ in 0..pairs {
            let key = g.text()?;
            let kind = g.u32()?;
            let value = g.value(kind).map_err(|e| e.doing(format!("metadata `{key}`")))?;
            if g.metadata.insert(key.clone(), value).is_some() {
                return Err(Error::user(format!("metadata `{key}` occurs twice")));
            }
        }
        for _ in 0..tensors {
            let name = g.text()?;
            let info = g.info().map_err(|e| e.doing(format!("tensor `{name}`")))?;
            if g.tensors.insert(name.clone(), info).is_some() {
                return Err(Error::user(format!("tensor `{name}` is described twice")));
            }
        }
        let alignment = match g.metadata.get("general.alignment") {
            None => 32,
            Some(GgufValue::Int(n)) if (1..=1 << 20).contains(n) => *n as u64,
            Some(other) => return Err(Error::user(format!("general.alignment is {other:?}"))),
        };
        g.data = g.position.div_ceil(alignment) * alignment;
        Ok(g)
    }

    /// Adds another file of the same model. Only its tensors are used.
    pub(crate) fn add_part(&mut self, part: Self) -> Result<()> {
        if let Some(name) = part.names().find(|name| self.shape(name).is_some()) {
            return Err(Error::user(format!("tensor `{name}` is in another file of the model already")));
        }
        self.parts.push(part);
        Ok(())
    }

    /// Names of all tensors, in the order of the files.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let further = self.parts.iter().flat_map(|part| part.tensors.keys());
        self.tensors.keys().chain(further).map(String::as_str)
    }

    /// Returns the shape of a tensor, if the file has it.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        let mut all = std::iter::once(self).chain(&self.parts);
        all.find_map(|part| part.tensors.get(name)).map(|info| info.shape.as_slice())
    }

    /// Reads a tensor's values on the CPU, dequantised to f32.
    pub(crate) fn tensor(&mut self, name: &str) -> Result<Tensor> {
        if let Some(part) = self.parts.iter_mut().find(|part| part.tensors.contains_key(name)) {
            return part.tensor(name);
        }
        let Some(info) = self.tensors.get(name) else {
            return Err(Error::user(format!("tensor `{name}` is missing")));
        };
        self.dequantised(info.kind, info.shape.clone(), info.offset).map_err(|e| e.doing(format!("tensor `{name}`")))
    }

    fn dequantised(&mut self, kind: u32, shape: Vec<usize>, offset: u64) -> Result<Tensor> {
        let (kind, begin, size) = self.place(kind, &shape, offset)?;
        let mut bytes = vec![0u8; size];
        self.reader.seek(SeekFrom::Start(begin))?;
        self.reader.read_exact(&mut bytes)?;
        if kind == GgmlDType::F32 {
            return Ok(Tensor::from_raw_buffer(&bytes, DType::F32, &shape, &Device::Cpu)?);
        }
        Ok(ggml_file::qtensor_from_ggml(kind, &bytes, shape, &Device::Cpu)?.dequantize(&Device::Cpu)?)
    }

    /// Returns a tensor's type, the file offset of its first byte and its length in bytes, and checks that
    /// they are within the file.
    fn place(&self, kind: u32, shape: &[usize], offset: u64) -> Result<(GgmlDType, u64, usize)> {
        let kind = ggml_type(kind)?;
        let n = elements(shape).ok_or_else(|| Error::user(format!("the shape {shape:?} is impossible")))?;
        // Quantisation blocks lie along the innermost dimension.
        let inner = shape.last().copied().unwrap_or(1);
        if inner % kind.block_size() != 0 {
            return Err(Error::user(format!("rows of {inner} values cannot be {kind:?}")));
        }
        let size = (n / kind.block_size()).checked_mul(kind.type_size());
        let begin = self.data.checked_add(offset);
        let end = size.zip(begin).and_then(|(s, b)| b.checked_add(s as u64));
        let (Some(size), Some(begin), Some(end)) = (size, begin, end) else {
            return Err(Error::user("its offset is beyond the end of any file"));
        };
        if end > self.length {
            return Err(
                Error::user(format!("it ends at byte {end}, the file at {}", self.length)).help("the file is cut off")
            );
        }
        Ok((kind, begin, size))
    }

    /// Checks that every tensor is within the file and that no two share bytes. Otherwise a small file
    /// could describe a large model, with many tensors over the same bytes.
    pub(crate) fn check_places(&self) -> Result<()> {
        for part in &self.parts {
            part.check_places()?;
        }
        let mut places = Vec::with_capacity(self.tensors.len());
        for (name, info) in &self.tensors {
            let (_, begin, size) =
                self.place(info.kind, &info.shape, info.offset).map_err(|e| e.doing(format!("tensor `{name}`")))?;
            places.push((begin, begin + size as u64, name));
        }
        places.sort();
        match places.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            None => Ok(()),
            Some(pair) => Err(Error::user(format!("the data of tensors `{}` and `{}` overlap", pair[0].2, pair[1].2))),
        }
    }

    fn left(&self) -> u64 {
        self.length.saturating_sub(self.position)
    }

    fn enough(&self, count: u64, each: u64, what: &str) -> Result<()> {
        if count.saturating_mul(each) > self.left() {
            return Err(Error::user(format!("it claims {count} {what} but has only {} bytes left", self.left()))
                .help("the file is cut off or broken"));
        }
        Ok(())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0u8; N];
        self.enough(N as u64, 1, "bytes")?;
        self.reader.read_exact(&mut bytes)?;
        self.position += N as u64;
        Ok(bytes)
    }
    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }
    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.bytes()?))
    }

    fn text(&mut self) -> Result<String> {
        let n = self.u64()?;
        self.enough(n, 1, "bytes of text")?;
        let mut bytes = vec![0u8; n as usize];
        self.reader.read_exact(&mut bytes)?;
        self.position += n;
        String::from_utf8(bytes).map_err(|_| Error::user("a text is not UTF-8"))
    }

    fn value(&mut self, kind: u32) -> Result<GgufValue> {
        Ok(match kind {
            0 => GgufValue::Int(u8::from_le_bytes(self.bytes()?).into()),
            1 => GgufValue::Int(i8::from_le_bytes(self.bytes()?).into()),
            2 => GgufValue::Int(u16::from_le_bytes(self.bytes()?).into()),
            3 => GgufValue::Int(i16::from_le_bytes(self.bytes()?).into()),
            4 => GgufValue::Int(self.u32()?.into()),
            5 => GgufValue::Int(i32::from_le_bytes(self.bytes()?).into()),
            6 => GgufValue::Float(f32::from_le_bytes(self.bytes()?).into()),
            7 => GgufValue::Bool(self.bytes::<1>()?[0] != 0),
            8 => GgufValue::Text(self.text()?),
            9 => self.array()?,
            10 => GgufValue::Int(self.u64()?.into()),
            11 => GgufValue::Int(i64::from_le_bytes(self.bytes()?).into()),
            12 => GgufValue::Float(f64::from_le_bytes(self.bytes()?)),
            other => return Err(Error::user(format!("its type {other} is unknown"))),
        })
    }

    fn array(&mut self) -> Result<GgufValue> {
        let kind = self.u32()?;
        let n = self.u64()?;
        let width = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => return Err(Error::user("an array of arrays; no model has one")),
            other => return Err(Error::user(format!("its element type {other} is unknown"))),
        };
        self.enough(n, width, "array elements")?;
        Ok(match kind {
            4 | 5 => GgufValue::Ints((0..n).map(|_| Ok(i32::from_le_bytes(self.bytes()?))).collect::<Result<_>>()?),
            6 => GgufValue::Floats((0..n).map(|_| Ok(f32::from_le_bytes(self.bytes()?))).collect::<Result<_>>()?),
            8 => GgufValue::Texts((0..n).map(|_| self.text()).collect::<Result<_>>()?),
            _ => {
                let skip = n * width; // at most the bytes left in the file
                self.position += skip;
                self.reader.seek(SeekFrom::Start(self.position))?;
                GgufValue::Other
            }
        })
    }

    fn info(&mut self) -> Result<TensorInfo> {
        let dims = self.u32()?;
        if !(1..=4).contains(&dims) {
            return Err(Error::user(format!("it has {dims} dimensions")));
        }
        let shape: Vec<u64> = (0..dims).map(|_| self.u64()).collect::<Result<_>>()?;
        let shape = shape.into_iter().rev().map(|d| usize::try_from(d).unwrap_or(usize::MAX)).collect();
        Ok(TensorInfo { shape, kind: self.u32()?, offset: self.u64()? })
    }
}

fn ggml_type(kind: u32) -> Result<GgmlDType> {
    Ok(match kind {
        0 => GgmlDType::F32,
        1 => GgmlDType::F16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        10 => GgmlDType::Q2K,
        11 => GgmlDType::Q3K,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        30 => GgmlDType::BF16,
        other => {
            return Err(Error::user(format!("its quantisation (ggml type {other}) is not supported"))
                .help("use a file in F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1 or Q2_K to Q6_K"));
        }
    })
}

/// Typed lookups whose errors name the key.
pub(crate) struct Metadata<'a>(pub(crate) &'a BTreeMap<String, GgufValue>);

impl Metadata<'_> {
    pub(crate) fn size(&self, key: &str) -> Result<Option<usize>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(GgufValue::Int(n)) => Ok(Some(usize::try_from(*n).map_err(|_| self.wrong(key, "a size"))?)),
            Some(_) => Err(self.wrong(key, "a whole number")),
        }
    }
    pub(crate) fn needed(&self, key: &str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| Error::user(format!("metadata `{key}` is missing")))
    }
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(GgufValue::Float(x)) => Ok(Some(*x)),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(GgufValue::Text(t)) => Ok(Some(t)),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(GgufValue::Bool(b)) => Ok(Some(*b)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }
    fn wrong(&self, key: &str, wanted: &str) -> Error {
        Error::user(format!("metadata `{key}` is not {wanted}"))
    }
}
