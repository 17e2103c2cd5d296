//! Types of the numbers in a GGUF file.

/// The type of the matrices in the file. Norms and other vectors are always f32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GgufType {
    /// 32 bits per weight, without loss.
    F32,
    /// 16 bits per weight.
    F16,
    /// 8.5 bits per weight: blocks of 32 8-bit integers with an f16 scale.
    Q8_0,
}
