//! Types of the numbers in a GGUF file.

/// The type of the matrices in the file. Norms and other vectors are f32 always.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GgufType {
    /// 32 bits a weight: every bit is kept.
    F32,
    /// 16 bits a weight.
    F16,
    /// 8.5 bits a weight: blocks of 32 whole numbers of 8 bits with a scale in f16.
    Q8_0,
}
