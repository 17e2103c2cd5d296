//! Checks of Parquet footers and page headers before the `parquet` crate reads them.
//!
//! The crate converts the footer's flat list of schema elements into a tree by recursion. A footer of a few
//! hundred kilobytes that nests every element in the previous one overflows the stack, which `catch_unwind`
//! cannot catch. This module walks the same list (Thrift's compact protocol, `FileMetaData.schema`) without
//! recursion and limits its depth.
//!
//! In a page header, the crate skips a list of unknown items one by one without noticing the end of the file:
//! a header of ten bytes keeps it busy for minutes. [`CheckedPages`] validates each header first.

use std::io::{Cursor, Read};

use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{ChunkReader, Length};

/// Maximum nesting of a schema. Each of reflux's list columns takes three levels.
const MAX_DEPTH: usize = 64;
/// Maximum number of columns, including nested ones. Each takes about a kilobyte of memory.
const MAX_COLUMNS: u64 = 100_000;
/// Maximum size of a footer.
const MAX_FOOTER: u64 = 256 << 20;

/// Checks the footer of a file of `size` bytes. Returns what is wrong with it.
///
/// # Errors
/// The footer cannot be read.
pub(crate) fn check(file: &impl ChunkReader, size: u64) -> ParquetResult<Result<(), String>> {
    if size < 12 {
        return Ok(Err(format!("it has only {size} bytes")));
    }
    let tail = file.get_bytes(size - 8, 8)?;
    if &tail[4..] != b"PAR1" {
        return Ok(Err("its end is missing, or it is encrypted".to_owned()));
    }
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if length > size - 12 {
        return Ok(Err(format!("its footer of {length} bytes is larger than the file")));
    }
    if length > MAX_FOOTER {
        return Ok(Err(format!("its footer of {length} bytes is larger than {MAX_FOOTER}")));
    }
    Ok(schema_depth(&file.get_bytes(size - 8 - length, length as usize)?))
}

/// Walks `FileMetaData { 1: i32 version, 2: list<SchemaElement>, .. }` to the end of the schema.
fn schema_depth(footer: &[u8]) -> Result<(), String> {
    let of_footer = |e: String| format!("its footer {e}");
    let mut thrift = Thrift(footer);
    let mut id = 0;
    while let Some(kind) = thrift.field(&mut id).map_err(of_footer)? {
        if id != 2 {
            thrift.skip(kind).map_err(of_footer)?;
            continue;
        }
        let (count, element) = thrift.list().map_err(of_footer)?;
        if kind != LIST || element != STRUCT {
            return Err("its schema is not a list".to_owned());
        }
        if count > MAX_COLUMNS {
            return Err(format!("it has more than {MAX_COLUMNS} columns"));
        }
        // Remaining children of each open element.
        let mut open: Vec<u64> = Vec::new();
        for _ in 0..count {
            let children = thrift.schema_element().map_err(of_footer)?;
            if children > 0 {
                open.push(children);
            } else {
                while let Some(left) = open.last_mut() {
                    *left -= 1;
                    if *left > 0 {
                        break;
                    }
                    open.pop();
                }
            }
            if open.len() > MAX_DEPTH {
                return Err(format!("columns are nested more than {MAX_DEPTH} deep"));
            }
        }
        return Ok(());
    }
    Err("its footer has no schema".to_owned())
}

/// Maximum size of a page header. With statistics of long texts, a real one has a few kilobytes.
const MAX_HEADER: usize = 1 << 20;

/// A file whose page headers are validated before the crate reads them.
pub(crate) struct CheckedPages<R>(pub R);

impl<R: ChunkReader> Length for CheckedPages<R> {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl<R: ChunkReader> ChunkReader for CheckedPages<R> {
    type T = CheckedHeader<R::T>;

    /// A reader from `start`, where the crate reads page headers. It reads page data with `get_bytes`.
    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(CheckedHeader { head: None, rest: self.0.get_read(start)? })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<bytes::Bytes> {
        self.0.get_bytes(start, length)
    }
}

/// A reader that validates a page header before it returns any byte of it.
pub(crate) struct CheckedHeader<R> {
    /// The header, and some bytes after it, once anything was read.
    head: Option<Cursor<Vec<u8>>>,
    rest: R,
}

impl<R: Read> Read for CheckedHeader<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let head = match &mut self.head {
            Some(head) => head,
            None => self.head.insert(Cursor::new(whole_header(&mut self.rest)?)),
        };
        match head.read(into)? {
            0 => self.rest.read(into),
            some => Ok(some),
        }
    }
}

/// Reads the bytes of a header, and possibly some more.
fn whole_header(from: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let (mut head, mut more) = (Vec::new(), 512);
    loop {
        let read = from.by_ref().take(more as u64).read_to_end(&mut head)?;
        let Err(why) = Thrift(&head).skip(STRUCT) else { return Ok(head) };
        if read < more || head.len() > MAX_HEADER {
            return Err(std::io::Error::other(format!("the header of a page {why}")));
        }
        more = head.len() * 3;
    }
}

const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// A reader of Thrift's compact protocol over the remaining bytes.
struct Thrift<'a>(&'a [u8]);

impl Thrift<'_> {
    fn byte(&mut self) -> Result<u8, String> {
        let (first, rest) = self.0.split_first().ok_or("is cut short")?;
        self.0 = rest;
        Ok(*first)
    }
    fn varint(&mut self) -> Result<u64, String> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("has a number that is too long".to_owned())
    }
    fn drop(&mut self, bytes: u64) -> Result<(), String> {
        let bytes = usize::try_from(bytes).map_err(|e| e.to_string())?;
        self.0 = self.0.get(bytes..).ok_or("is cut short")?;
        Ok(())
    }
    /// The next field's type, with its number in `id`; `None` at the end of the struct.
    fn field(&mut self, id: &mut i64) -> Result<Option<u8>, String> {
        let head = self.byte()?;
        if head == 0 {
            return Ok(None);
        }
        *id = match head >> 4 {
            0 => zigzag(self.varint()?),
            delta => id.saturating_add(i64::from(delta)),
        };
        Ok(Some(head & 15))
    }
    /// A list's length and item type.
    fn list(&mut self) -> Result<(u64, u8), String> {
        let head = self.byte()?;
        let count = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
        // Every item takes at least a byte.
        if count > self.0.len() as u64 {
            Err("has a list that is cut short".to_owned())
        } else {
            Ok((count, head & 15))
        }
    }
    /// Number of children of a `SchemaElement` (its field 5).
    fn schema_element(&mut self) -> Result<u64, String> {
        let (mut id, mut children) = (0, 0);
        while let Some(kind) = self.field(&mut id)? {
            if id == 5 && kind == 5 {
                children = u64::try_from(zigzag(self.varint()?)).map_err(|_| "has a negative number of columns")?;
            } else {
                self.skip(kind)?;
            }
        }
        Ok(children)
    }
    /// Skips one value of a type, without recursion: `open` has the remaining items of each open list.
    fn skip(&mut self, kind: u8) -> Result<(), String> {
        enum OpenValue {
            Struct(i64),
            Items(u64, u8),
        }
        let mut open = Vec::new();
        let mut next = Some((kind, false));
        loop {
            if let Some((kind, in_list)) = next.take() {
                match kind {
                    // A field's boolean is encoded in its type; in a list it takes a byte.
                    1 | 2 if !in_list => {}
                    1..=3 => self.drop(1)?,
                    4..=6 => drop(self.varint()?),
                    7 => self.drop(8)?,
                    8 => {
                        let length = self.varint()?;
                        self.drop(length)?;
                    }
                    9 | 10 => {
                        let (count, item) = self.list()?;
                        open.push(OpenValue::Items(count, item));
                    }
                    STRUCT => open.push(OpenValue::Struct(0)),
                    _ => return Err(format!("has a value of type {kind}")),
                }
                if open.len() > MAX_DEPTH {
                    return Err(format!("is nested more than {MAX_DEPTH} deep"));
                }
            }
            match open.pop() {
                None => return Ok(()),
                Some(OpenValue::Items(0, _)) => {}
                Some(OpenValue::Items(left, item)) => {
                    open.push(OpenValue::Items(left - 1, item));
                    next = Some((item, true));
                }
                Some(OpenValue::Struct(mut id)) => {
                    if let Some(kind) = self.field(&mut id)? {
                        open.push(OpenValue::Struct(id));
                        next = Some((kind, false));
                    }
                }
            }
        }
    }
}

fn zigzag(n: u64) -> i64 {
    (n >> 1) as i64 ^ -((n & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// version = 1, then `depth` elements of which each is the only child of the one before.
    fn nested(depth: usize) -> Vec<u8> {
        let mut bytes = vec![0x15, 2, 0x19, 0xfc];
        let mut count = depth;
        while count >= 128 {
            bytes.push(count as u8 | 0x80);
            count >>= 7;
        }
        bytes.push(count as u8);
        for i in 0..depth {
            // field 4: name "a"; field 5: one child, save for the last
            bytes.extend([0x48, 1, b'a', 0x15, if i + 1 < depth { 2 } else { 0 }, 0]);
        }
        bytes.push(0);
        bytes
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(schema_depth(&nested(20)), Ok(()));
        assert!(schema_depth(&nested(50_000)).unwrap_err().contains("deep"));
        assert!(schema_depth(&nested(20)[..40]).is_err());
        assert!(schema_depth(&nested(200_000)).unwrap_err().contains("more than 100000 columns"));
        assert!(schema_depth(&[]).is_err());
    }

    /// Eight bytes of a header that promise two thousand million numbers, and no file behind them.
    #[test]
    fn a_list_in_the_header_of_a_page_is_no_longer_than_the_file() {
        let long = [0x79, 0xf7, 0xff, 0xff, 0xff, 0xff, 0x07];
        let whole: Vec<u8> = [&[0x15, 0, 0x19, 0x25, 2, 4, 0][..], &[7; 3000]].concat();
        let read = |bytes: &[u8]| {
            let mut all = Vec::new();
            let mut from = CheckedPages(bytes::Bytes::copy_from_slice(bytes)).get_read(0).unwrap();
            from.read_to_end(&mut all).map(|_| all).map_err(|e| e.to_string())
        };
        assert!(read(&long).unwrap_err().contains("the header of a page has a list that is cut short"));
        assert_eq!(read(&whole), Ok(whole));
        // One that is longer than what is looked at first.
        let text = [&[0x18, 0xd0, 0x0f][..], &[b'a'; 2000], &[0, 9, 9]].concat();
        assert_eq!(read(&text).as_ref(), Ok(&text));
        assert!(read(&text[..1000]).is_err());
    }
}
