//! Text files, packed with gzip or not: their first bytes say which.

use std::io::{BufRead, BufReader, Error as IoError, ErrorKind, Read};
use std::path::Path;

use super::io_error::io_error;
use super::open::open_regular;
use crate::error::{Error, Result};

/// A file may unpack to this many bytes in any case.
const MAX_UNPACKED: u64 = 1 << 30;
/// Beyond it, to at most so many times its own size. Text is packed to a tenth, and rarely to a fiftieth.
const MAX_EXPANSION: u64 = 250;

/// What every gzip file begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Opens a text file, and unpacks it if it is packed.
///
/// # Errors
/// It cannot be opened or read, or is no regular file.
pub(crate) fn open_text(file: &Path) -> Result<Box<dyn BufRead + Send>> {
    let mut reader = BufReader::new(open_regular(file)?);
    if !reader.fill_buf().map_err(|e| read_error(file, &e))?.starts_with(&GZIP) {
        return Ok(Box::new(reader));
    }
    let packed = std::fs::metadata(file).map_err(|e| read_error(file, &e))?.len();
    // Several members one after the other are one file.
    let of = flate2::bufread::MultiGzDecoder::new(reader);
    Ok(Box::new(BufReader::new(Unpacking { of, packed, unpacked: 0 })))
}

/// The error for a text that cannot be read on. What is wrong with its bytes is the file's fault, and not the machine's.
pub(crate) fn read_error(file: &Path, e: &IoError) -> Error {
    let error = io_error("reading", file, e);
    if e.kind() == ErrorKind::InvalidData { error.into_user() } else { error }
}

/// Unpacks a file that nobody vouches for.
struct Unpacking<R> {
    of: R,
    /// Bytes of the file.
    packed: u64,
    unpacked: u64,
}

impl<R: Read> Read for Unpacking<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let invalid = |why: String| IoError::new(ErrorKind::InvalidData, why);
        let read = self.of.read(buffer).map_err(|e| match e.kind() {
            // The kinds that the decoder has for bytes that are no gzip; all others are those of the file below it.
            ErrorKind::UnexpectedEof => invalid("its gzip data is cut short; get the file again".to_owned()),
            ErrorKind::InvalidInput | ErrorKind::InvalidData => {
                invalid(format!("its gzip data is damaged ({e}); get the file again"))
            }
            _ => e,
        })?;
        self.unpacked += read as u64;
        if self.unpacked > MAX_UNPACKED && self.unpacked / MAX_EXPANSION > self.packed {
            let most = format!("it unpacks to more than {MAX_EXPANSION} times its size");
            return Err(invalid(format!("{most}; unpack it first if that is meant")));
        }
        Ok(read)
    }
}
