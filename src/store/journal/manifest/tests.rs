use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::store::journal::entry::{
    Entry, FORMAT, FileEntry, MAX_COUNT, MetricsEntry, ModelEntry, ModelFile, Stored, Taken,
};

fn run() -> Entry {
    Entry::Run { format: FORMAT, reflux: "0.1.0".into(), pipeline: "ab".into(), seed: u64::MAX }
}

fn stored() -> impl Strategy<Value = Stored> {
    ("[a-zé=\"0-9]{1,9}(/[a-z]{1,9})?", 0..=MAX_COUNT, 0..=MAX_COUNT, "[0-9a-f]{64}")
        .prop_map(|(path, rows, bytes, hash)| Stored { path, rows, bytes, hash })
}

fn entry() -> impl Strategy<Value = Entry> {
    let text = "[^\u{0}]{0,12}";
    let file = (text, any::<(u32, u32)>(), stored(), prop::option::of(stored()), prop::collection::vec(text, 0..3));
    prop_oneof![
        file.prop_map(|(step, (iteration, microbatch), s, errors, lineage)| {
            let Stored { path, rows, bytes, hash } = s;
            Entry::File(FileEntry {
                step,
                iteration,
                microbatch,
                path,
                rows,
                bytes,
                hash,
                errors,
                lineage,
                unused: BTreeMap::new(),
            })
        }),
        (text, stored(), any::<u32>()).prop_map(|(name, s, iteration)| {
            let files = BTreeMap::from([(s.path.clone(), ModelFile { bytes: s.bytes, hash: s.hash.clone() })]);
            Entry::Model(ModelEntry { name, path: s.path, hash: s.hash, step: "dpo".into(), iteration, files })
        }),
        (text, stored(), any::<u32>()).prop_map(|(step, s, iteration)| {
            let Stored { path, rows, bytes, hash } = s;
            Entry::Metrics(MetricsEntry { step, iteration, path, rows, bytes, hash })
        }),
        (prop::option::of(any::<u64>()), prop::option::of(text), prop::option::of(any::<u32>()))
            .prop_map(|(lines, step, iteration)| Entry::Finished { lines, step, iteration }),
        text.prop_map(|step| Entry::Dropped { step }),
        (text, "[0-9a-f]{64}", prop::collection::vec(text, 0..3), 0..=MAX_COUNT)
            .prop_map(|(run, pipeline, from, entries)| Entry::Taken(Taken { run, pipeline, from, entries })),
    ]
}

/// Scripts look for the end of a finished run's manifest.
#[test]
fn the_last_line_ends_as_it_always_did() {
    for (lines, end) in [(Some(7), "\"lines\":7,\"kind\":\"finished\"}\n"), (None, "\"kind\":\"finished\"}\n")] {
        let line = Entry::Finished { lines, step: None, iteration: None }.to_line().unwrap();
        assert_eq!(std::str::from_utf8(&line[26..]).unwrap(), end);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_appended_is_read(entries in prop::collection::vec(entry(), 0..8)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.jsonl");
        let (mut manifest, none) = Appender::open(&path).unwrap();
        prop_assert!(none.is_empty());
        let mut all = vec![run()];
        all.extend(entries);
        for entry in &all {
            manifest.append(entry).unwrap();
        }
        prop_assert_eq!(read(&path).unwrap().entries, all);
    }

    /// Cut anywhere, it reads as the lines that are whole, and goes on from there.
    #[test]
    fn cut_anywhere_it_goes_on(entries in prop::collection::vec(entry(), 1..6), at in any::<prop::sample::Index>()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.jsonl");
        let mut all = vec![run()];
        all.extend(entries);
        let lines: Vec<Vec<u8>> = all.iter().map(|e| e.to_line().unwrap()).collect();
        let bytes = lines.concat();
        let cut = at.index(bytes.len() + 1);
        std::fs::write(&path, &bytes[..cut]).unwrap();
        let mut whole = 0;
        let mut end = 0;
        while whole < lines.len() && end + lines[whole].len() <= cut {
            end += lines[whole].len();
            whole += 1;
        }
        let (mut manifest, found) = Appender::open(&path).unwrap();
        prop_assert_eq!(&found[..], &all[..whole]);
        for entry in &all[whole..] {
            manifest.append(entry).unwrap();
        }
        prop_assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    /// No bytes make the reader panic.
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("manifest.jsonl");
        std::fs::write(&path, &bytes).unwrap();
        let _ = read(&path);
    }
}

#[test]
fn damage_is_named_by_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifest.jsonl");
    let with = |second: &str| {
        let mut bytes = run().to_line().unwrap();
        bytes.extend_from_slice(second.as_bytes());
        bytes.extend(b"\n{\"kind\":\"finished\"}\n");
        std::fs::write(&path, bytes).unwrap();
        read(&path).unwrap_err().to_string()
    };
    assert!(with("{\"kind\":\"fi").contains("line 2 is not JSON"));
    assert!(with("{\"kind\":\"shard\"}").contains("line 2 is of the unknown kind `shard`"));
    assert!(with("{\"kind\":\"file\"}").contains("line 2 cannot be read: missing field"));
    let outside = r#"{"kind":"model","name":"m","path":"../../etc","hash":"","step":"s","iteration":1}"#;
    assert!(with(outside).contains("line 2 names a file outside of the run"));
    assert!(with("").contains("line 2"));
    std::fs::write(&path, "{\"kind\":\"finished\"}\n").unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("line 1 is out of place"));
    // Whatever else a newer format has.
    for more in ["", ",\"host\":\"a\""] {
        let line = format!("{{\"kind\":\"run\",\"format\":9,\"reflux\":\"9\",\"pipeline\":\"\",\"seed\":0{more}}}\n");
        std::fs::write(&path, line).unwrap();
        let newer = read(&path).unwrap_err();
        assert!(newer.to_string().contains("manifest format 9"), "{newer}");
        assert_eq!(newer.help_text(), Some("use a newer reflux"));
    }
}

#[test]
fn a_full_disk_takes_the_half_line_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("manifest.jsonl");
    let (mut manifest, _) = Appender::open(&path).unwrap();
    manifest.append(&run()).unwrap();
    let before = std::fs::read(&path).unwrap();
    let full = fault::arm(fault::DISK_FULL, 1);
    let dropped = Entry::Dropped { step: "x".into() };
    assert!(manifest.append(&dropped).unwrap_err().to_string().contains("the disk is full"));
    drop(full);
    assert_eq!(std::fs::read(&path).unwrap(), before);
    manifest.append(&dropped).unwrap();
    assert_eq!(read(&path).unwrap().entries, [run(), dropped]);
}
