//! A look at a Parquet footer before the `parquet` crate sees it.
//!
//! The crate turns the footer's flat list of schema elements into a tree by recursion, so that a footer of a few
//! hundred kilobytes that nests every element in the one before overflows the stack, which no `catch_unwind` catches.
//! This walks the same list (Thrift's compact protocol, `FileMetaData.schema`) without recursion and bounds its depth.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Schemas nested deeper than this are refused; each of our list columns takes three levels.
const DEEPEST: usize = 64;
/// Footers larger than this are refused.
const LARGEST: u64 = 256 << 20;

/// Checks the last bytes of a file of `size` bytes.
pub(super) fn check(mut file: &File, size: u64) -> Result<(), String> {
    let io = |e: std::io::Error| e.to_string();
    if size < 12 {
        return Err(format!("it has only {size} bytes"));
    }
    let mut tail = [0; 8];
    file.seek(SeekFrom::Start(size - 8)).map_err(io)?;
    file.read_exact(&mut tail).map_err(io)?;
    if &tail[4..] != b"PAR1" {
        return Err("its end is missing, or it is encrypted".to_owned());
    }
    let length = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    if length > size - 12 {
        return Err(format!("its footer of {length} bytes is larger than the file"));
    }
    if length > LARGEST {
        return Err(format!("its footer of {length} bytes is larger than {LARGEST}"));
    }
    let mut footer = vec![0; length as usize];
    file.seek(SeekFrom::Start(size - 8 - length)).map_err(io)?;
    file.read_exact(&mut footer).map_err(io)?;
    schema_depth(&footer)
}

/// Walks `FileMetaData { 1: i32 version, 2: list<SchemaElement>, .. }` as far as the end of the schema.
fn schema_depth(footer: &[u8]) -> Result<(), String> {
    let mut thrift = Thrift(footer);
    let mut id = 0;
    while let Some(kind) = thrift.field(&mut id)? {
        if id != 2 {
            thrift.skip(kind)?;
            continue;
        }
        let (count, element) = thrift.list()?;
        if kind != LIST || element != STRUCT {
            return Err("its schema is not a list".to_owned());
        }
        // Children still to come of each open element.
        let mut open: Vec<u64> = Vec::new();
        for _ in 0..count {
            let children = thrift.schema_element()?;
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
            if open.len() > DEEPEST {
                return Err(format!("columns are nested more than {DEEPEST} deep"));
            }
        }
        return Ok(());
    }
    Err("its footer has no schema".to_owned())
}

const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// A reader of Thrift's compact protocol over the bytes left.
struct Thrift<'a>(&'a [u8]);

impl Thrift<'_> {
    fn byte(&mut self) -> Result<u8, String> {
        let (first, rest) = self.0.split_first().ok_or("its footer is cut short")?;
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
        Err("a number in its footer is too long".to_owned())
    }
    fn drop(&mut self, bytes: u64) -> Result<(), String> {
        let bytes = usize::try_from(bytes).map_err(|e| e.to_string())?;
        self.0 = self.0.get(bytes..).ok_or("its footer is cut short")?;
        Ok(())
    }
    /// The next field's type, its number in `id`; `None` at the end of the struct.
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
        // Every item takes a byte at least.
        if count > self.0.len() as u64 {
            Err("a list in its footer is cut short".to_owned())
        } else {
            Ok((count, head & 15))
        }
    }
    /// How many children a `SchemaElement` has (its field 5).
    fn schema_element(&mut self) -> Result<u64, String> {
        let (mut id, mut children) = (0, 0);
        while let Some(kind) = self.field(&mut id)? {
            if id == 5 && kind == 5 {
                children = u64::try_from(zigzag(self.varint()?)).map_err(|_| "a negative number of columns")?;
            } else {
                self.skip(kind)?;
            }
        }
        Ok(children)
    }
    /// Passes over one value of a type, without recursion: `left` holds the values still to pass of each open list.
    fn skip(&mut self, kind: u8) -> Result<(), String> {
        enum Open {
            Struct(i64),
            Items(u64, u8),
        }
        let mut open = Vec::new();
        let mut next = Some((kind, false));
        loop {
            if let Some((kind, in_list)) = next.take() {
                match kind {
                    // A boolean is in the field's type, or a byte of its own within a list.
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
                        open.push(Open::Items(count, item));
                    }
                    STRUCT => open.push(Open::Struct(0)),
                    _ => return Err(format!("its footer has a value of type {kind}")),
                }
                if open.len() > DEEPEST {
                    return Err(format!("its footer is nested more than {DEEPEST} deep"));
                }
            }
            match open.pop() {
                None => return Ok(()),
                Some(Open::Items(0, _)) => {}
                Some(Open::Items(left, item)) => {
                    open.push(Open::Items(left - 1, item));
                    next = Some((item, true));
                }
                Some(Open::Struct(mut id)) => {
                    if let Some(kind) = self.field(&mut id)? {
                        open.push(Open::Struct(id));
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
        assert!(schema_depth(&nested(100_000)).unwrap_err().contains("deep"));
        assert!(schema_depth(&nested(20)[..40]).is_err());
        assert!(schema_depth(&[]).is_err());
    }
}
