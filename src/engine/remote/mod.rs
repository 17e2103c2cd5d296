//! Models behind other people's servers, which speak OpenAI's protocol.

pub mod transport;
