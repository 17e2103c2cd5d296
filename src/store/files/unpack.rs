//! Text files that may be gzipped, as their first bytes tell.

use std::io::{BufRead, BufReader, Error as IoError, ErrorKind, Read};
use std::path::Path;

use super::io_error::io_error;
use super::open::open_regular;
use crate::error::{Error, Result};

/// Size in bytes to which a file may always unpack.
const MAX_UNPACKED: u64 = 1 << 30;
/// Maximum expansion of a larger file. Gzip shrinks text to a tenth, and rarely to a fiftieth.
const MAX_EXPANSION: u64 = 250;

/// First bytes of every gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Opens a text file and unpacks it if it is gzipped.
///
/// # Errors
/// The file cannot be opened or read, or is not a regular file.
pub(crate) fn open_text(file: &Path) -> Result<Box<dyn BufRead + Send>> {
    let mut reader = BufReader::new(open_regular(file)?);
    if !reader.fill_buf().map_err(|e| read_error(file, &e))?.starts_with(&GZIP) {
        return Ok(Box::new(reader));
    }
    let packed = std::fs::metadata(file).map_err(|e| read_error(file, &e))?.len();
    // A gzip file may consist of several members.
    let of = flate2::bufread::MultiGzDecoder::new(reader);
    Ok(Box::new(BufReader::new(Unpacking { of, packed, unpacked: 0 })))
}

/// The error for a text that cannot be read. Invalid bytes are the user's fault, and not the machine's.
pub(crate) fn read_error(file: &Path, e: &IoError) -> Error {
    let error = io_error("reading", file, e);
    if e.kind() == ErrorKind::InvalidData { error.into_user() } else { error }
}

/// Unpacks an untrusted file with a limit on its expansion.
struct Unpacking<R> {
    of: R,
    /// Size of the packed file in bytes.
    packed: u64,
    unpacked: u64,
}

impl<R: Read> Read for Unpacking<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let invalid = |why: String| IoError::new(ErrorKind::InvalidData, why);
        let read = self.of.read(buffer).map_err(|e| match e.kind() {
            // The decoder reports invalid gzip data with these kinds. All others come from the file.
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
