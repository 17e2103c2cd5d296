//! Models behind servers, against a stub of a server and against `reflux serve`.

#[path = "../common/mod.rs"]
mod common;

mod cluster;
mod faults;
mod hostile;
mod llama;
mod models;
mod own_servers;
mod stored;
mod structured;
mod stub;
mod transport;
mod updates;
