//! Models behind servers, against a stub of a server.

mod faults;
mod stub;
mod transport;
