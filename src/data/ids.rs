//! Content-hash ids and the keys of counter-based random generators.
//!
//! An id is a function of a row's content and origin, and never of the time or thread that made it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Lower-case hex of the first 16 bytes of blake3 over the parts, each length-prefixed so that
/// `["ab", "c"]` and `["a", "bc"]` differ.
pub fn hash_hex<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> String {
    Id::from_parts(parts).to_string()
}

/// Value of each byte as a hex digit; 255 if it is not a digit.
const DIGITS: [u8; 256] = {
    let mut digits = [0xff; 256];
    let (lower, upper) = (b"0123456789abcdef", b"0123456789ABCDEF");
    let mut value = 0;
    while value < 16 {
        digits[lower[value] as usize] = value as u8;
        digits[upper[value] as usize] = value as u8;
        value += 1;
    }
    digits
};

/// A 128-bit content hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct Id(pub u128);

impl Id {
    /// Hashes the parts, each length-prefixed.
    pub fn from_parts<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            let part = part.as_ref();
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut first = [0u8; 16];
        first.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Self(u128::from_be_bytes(first))
    }
    /// Parses an id, or hashes the text if it is not one of reflux's ids.
    pub fn from_text(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|| Self::from_parts([text]))
    }
    /// Whether a text is an [`Id`] as printed: 32 lower-case hex digits.
    pub fn is_canonical(text: &str) -> bool {
        text.len() == 32 && text.bytes().all(|b| DIGITS[usize::from(b)] < 16 && !b.is_ascii_uppercase())
    }
    /// Parses the 32 hex digits of a printed [`Id`].
    pub fn parse(hex: &str) -> Option<Self> {
        let digits: &[u8; 32] = hex.as_bytes().try_into().ok()?;
        // Ids are parsed for every row, so the loop is branch-free; invalid digits are detected at the end.
        let (mut halves, mut none) = ([0u64; 2], 0u8);
        for (half, digits) in halves.iter_mut().zip(digits.as_chunks::<16>().0) {
            for &digit in digits {
                let value = DIGITS[usize::from(digit)];
                none |= value & 0xf0;
                *half = *half << 4 | u64::from(value & 0x0f);
            }
        }
        (none == 0).then_some(Self(u128::from(halves[0]) << 64 | u128::from(halves[1])))
    }
}
impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Key of a counter-based random generator. Draws depend on their purpose, not on order or thread.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RngKey(pub [u8; 32]);

impl RngKey {
    /// The key of (seed, step, iteration, row, sample).
    pub fn new(seed: u64, step: &str, iteration: u32, row: &str, sample: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&(step.len() as u64).to_le_bytes()).update(step.as_bytes());
        hasher.update(&iteration.to_le_bytes()).update(&sample.to_le_bytes()).update(row.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }
    /// The generator. Word `n` of its stream depends on the key alone.
    pub fn rng(&self) -> ChaCha8Rng {
        ChaCha8Rng::from_seed(self.0)
    }
}

/// Whether a text is a hash in hexadecimal digits: an id of 32 digits, or a file hash of 64.
pub fn is_hash(text: &str) -> bool {
    matches!(text.len(), 32 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_run_together() {
        assert_ne!(hash_hex(["ab", "c"]), hash_hex(["a", "bc"]));
        let id = Id::from_parts(["x"]);
        assert_eq!(Id::parse(&id.to_string()), Some(id));
        assert_eq!(Id::parse("zz"), None);
        assert_eq!(Id::parse(&id.to_string().to_uppercase()), Some(id));
        for other in ['g', '/', ':', '@', '`', '+', ' '] {
            assert_eq!(Id::parse(&format!("{other}{}", &id.to_string()[1..])), None);
        }
        assert!(Id::is_canonical(&id.to_string()) && !Id::is_canonical("zz") && !Id::is_canonical(&"A".repeat(32)));
        assert_eq!((Id::from_text(&id.to_string()), Id::from_text("zz")), (id, Id::from_parts(["zz"])));
    }

    #[test]
    fn keys_differ_in_every_part() {
        let base = RngKey::new(1, "a", 1, "r", 0);
        for other in [
            RngKey::new(2, "a", 1, "r", 0),
            RngKey::new(1, "b", 1, "r", 0),
            RngKey::new(1, "a", 2, "r", 0),
            RngKey::new(1, "a", 1, "s", 0),
            RngKey::new(1, "a", 1, "r", 1),
        ] {
            assert_ne!(base, other);
        }
    }
}
