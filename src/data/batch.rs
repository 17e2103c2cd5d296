//! [`Batch`], an Arrow record batch that can be sent between processes as Arrow IPC, and its [`Epoch`].

use std::sync::{Arc, OnceLock};

use arrow::array::RecordBatch;
use arrow::ipc::{reader::StreamReader, writer::StreamWriter};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Time of a batch: the iteration of the loop (0 before the loop) and the microbatch in the iteration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// 0 for steps that run once, and 1 or more in the loop.
    pub iteration: u32,
    /// Position within the iteration.
    pub microbatch: u32,
}

impl Epoch {
    /// Microbatch `microbatch` of iteration `iteration`.
    pub const fn new(iteration: u32, microbatch: u32) -> Self {
        Self { iteration, microbatch }
    }
}

/// The rows of a microbatch in the dataflow.
#[derive(Clone, Debug)]
pub enum Rows {
    /// The rows are in memory.
    Held(RecordBatch),
    /// The rows are only in the run's directory: an earlier process committed them, and a step that needs
    /// them reads them there.
    OnDisk,
}

impl Rows {
    /// The rows, if they are in memory.
    pub fn held(self) -> Option<RecordBatch> {
        match self {
            Self::Held(rows) => Some(rows),
            Self::OnDisk => None,
        }
    }
}

/// The type of data on all edges of the dataflow. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The rows.
    pub rows: Rows,
    /// Destination worker (modulo the number of workers).
    pub shard: u64,
    /// Cached encoding, because timely asks for its length first and then for its bytes.
    ipc: Arc<OnceLock<Vec<u8>>>,
}

impl Batch {
    /// A batch for the worker `shard` modulo the number of workers.
    pub fn new(rows: Rows, shard: u64) -> Self {
        Self { rows, shard, ipc: Arc::default() }
    }

    /// The rows as Arrow IPC; empty if they are not in memory.
    fn ipc(&self) -> &[u8] {
        let Rows::Held(rows) = &self.rows else { return &[] };
        // IPC can encode all named schemas, and writing to a Vec cannot fail.
        self.ipc.get_or_init(|| {
            let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema()).expect("schema is encodable");
            writer.write(rows).expect("batch follows its schema");
            writer.into_inner().expect("a Vec takes every byte")
        })
    }
}

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeTuple;
        struct Bytes<'a>(&'a [u8]);
        impl Serialize for Bytes<'_> {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_bytes(self.0)
            }
        }
        let mut tuple = s.serialize_tuple(2)?;
        tuple.serialize_element(&self.shard)?;
        tuple.serialize_element(&Bytes(self.ipc()))?;
        tuple.end()
    }
}

struct Ipc(Rows);
impl<'de> Deserialize<'de> for Ipc {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Ipc;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an Arrow IPC stream, or no bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Ipc, E> {
                if bytes.is_empty() {
                    return Ok(Ipc(Rows::OnDisk));
                }
                let mut reader = StreamReader::try_new(bytes, None).map_err(E::custom)?;
                let rows = reader.next().ok_or_else(|| E::custom("empty IPC stream"))?.map_err(E::custom)?;
                Ok(Ipc(Rows::Held(rows)))
            }
        }
        d.deserialize_bytes(Visitor)
    }
}
impl<'de> Deserialize<'de> for Batch {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let (shard, Ipc(rows)) = Deserialize::deserialize(d)?;
        Ok(Batch::new(rows, shard))
    }
}
