//! Datasets and run directories as their users see them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float32Array, Float64Array, Int64Array, LargeStringArray, RecordBatch, StringArray,
};
use arrow::compute::concat_batches;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use reflux::data::{Columns, Epoch, List, named};
use reflux::store::files::fault;
use reflux::store::{
    Dataset, ImportOptions, OnBadRow, PriorState, Run, guess, hash_file, import, read_parquet, write_parquet,
};

fn text(rows: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(rows.to_vec()))
}
fn ift(rows: std::ops::Range<usize>) -> RecordBatch {
    let make = |what: &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.clone().map(|i| format!("{what} {i}"))))
    };
    named::IFT.batch(vec![make("prompt"), make("response")]).unwrap()
}
fn prompts(dataset: &Dataset, rows: usize) -> Vec<String> {
    let batches: Vec<_> = dataset.batches(rows).collect::<Result<_, _>>().unwrap();
    assert!(batches.iter().rev().skip(1).all(|b| b.num_rows() == rows), "only the last batch may be short");
    batches
        .iter()
        .flat_map(|b| Columns(b).text("prompt").unwrap().iter().map(|s| s.unwrap().to_owned()).collect::<Vec<_>>())
        .collect()
}
/// A Parquet file of any columns, as another tool might write it: with Snappy and a copy of the Arrow schema.
fn foreign(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    let rows = RecordBatch::try_from_iter(columns).unwrap();
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(fs::File::create(path).unwrap(), rows.schema(), Some(properties)).unwrap();
    writer.write(&rows).unwrap();
    writer.close().unwrap();
}
fn full_error<T: std::fmt::Debug>(result: reflux::error::Result<T>) -> String {
    let error = result.unwrap_err();
    format!("{error}\n{}", error.help_text().unwrap_or_default())
}
fn begin(dir: &Path) -> Run {
    Run::create_or_open(dir, "a = 1\n", 17, false).unwrap().0
}

#[test]
fn every_schema_round_trips_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let rows = named::SCORES
        .batch(vec![
            text(&["p", "p"]),
            text(&["", "naïve \u{1F600}"]),
            text(&["r0", "r1"]),
            Arc::new(arrow::array::UInt32Array::from(vec![0, u32::MAX])),
            text(&["x", "y"]),
            text(&["stop", "length"]),
            List::of_tokens(&[vec![1, 2], vec![]]),
            List::of_tokens(&[vec![], vec![7; 300]]),
            List::of_floats(&[vec![], vec![-0.5; 300]]),
            text(&["m", "m"]),
            Arc::new(Float32Array::from(vec![None, Some(4.5)])),
            List::of_judgements(&[
                vec![("t".into(), "score".into(), Some(3.0)), ("u".into(), "no_match".into(), None)],
                vec![],
            ]),
            text(&["m", "m"]),
        ])
        .unwrap();
    let (a, b) = (dir.path().join("a.parquet"), dir.path().join("deep/er/b.parquet"));
    let written = write_parquet(&a, &rows).unwrap();
    // The same rows as slices of a larger batch with other offsets.
    let twice = concat_batches(rows.schema_ref(), [&rows, &rows]).unwrap();
    assert_eq!(write_parquet(&b, &twice.slice(2, 2)).unwrap(), written);
    assert_eq!(fs::read(&a).unwrap(), fs::read(&b).unwrap());
    assert_eq!(hash_file(&a).unwrap(), (written.hash.clone(), written.bytes));
    assert_eq!(read_parquet(&a).unwrap(), rows);
    assert_eq!(Dataset::open(&a, &named::SCORES).unwrap().batches(10).next().unwrap().unwrap(), rows);
    for schema in reflux::data::SCHEMAS {
        write_parquet(&a, &schema.empty()).unwrap();
        assert_eq!(read_parquet(&a).unwrap(), schema.empty(), "{}", schema.name);
        assert_eq!(guess(&a).unwrap().name, schema.name);
        let dataset = Dataset::open(&a, schema).unwrap();
        assert_eq!((dataset.rows(), dataset.batches(4).count()), (Some(0), 0));
    }
}

#[test]
fn batches_do_not_depend_on_how_rows_are_cut_into_files() {
    let dir = tempfile::tempdir().unwrap();
    write_parquet(&dir.path().join("one.parquet"), &ift(0..2500)).unwrap();
    for (file, rows) in
        [("2/microbatch=00000", 0..1), ("2/microbatch=00001", 1..2000), ("10/microbatch=00000", 2000..2500)]
    {
        write_parquet(&dir.path().join(format!("hive/iteration={file}.parquet")), &ift(rows)).unwrap();
    }
    fs::write(dir.path().join("hive/_SUCCESS"), "").unwrap();
    fs::write(dir.path().join("hive/.x.parquet.1.tmp"), "half").unwrap();
    let one = Dataset::open(&dir.path().join("one.parquet"), &named::IFT).unwrap();
    let hive = Dataset::open(&dir.path().join("hive"), &named::IFT).unwrap();
    assert_eq!(hive.files().len(), 3);
    assert_eq!(hive.rows(), Some(2500));
    for rows in [1, 7, 1024, 3000, usize::MAX] {
        let want: Vec<_> = (0..2500).map(|i| format!("prompt {i}")).collect();
        assert_eq!(prompts(&one, rows), want);
        assert_eq!(prompts(&hive, rows), want);
    }
}

#[test]
fn a_jsonl_twin_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let line = |i: u32| format!("{{\"prompt\": \"prompt {i}\", \"response\": \"r\", \"category\": \"c{i}\"}}\n");
    let (jsonl, elsewhere) = (dir.path().join("ift.jsonl"), tempfile::tempdir().unwrap());
    fs::write(&jsonl, format!("\u{feff}{}\n  \n{}", line(0), line(1).trim_end())).unwrap();
    let dataset = Dataset::open(dir.path(), &named::IFT).unwrap();
    assert_eq!(prompts(&dataset, 10), ["prompt 0", "prompt 1"]);
    assert_eq!(dataset.rows(), None);

    let imported = import(&jsonl, &ImportOptions::default()).unwrap();
    assert_eq!((imported.schema, imported.written.rows), ("ift", 2));
    assert_eq!(imported.extra, ["category"]);
    let twin = read_parquet(&imported.path).unwrap();
    assert_eq!(twin.column_by_name("category").unwrap().as_string::<i32>().value(1), "c1");
    let out = Some(elsewhere.path().join("deep/x.parquet"));
    let again = import(&jsonl, &ImportOptions { schema: Some(&named::IFT), out, ..ImportOptions::default() }).unwrap();
    assert_eq!(again.written, imported.written);

    fs::write(&jsonl, "not read any more").unwrap();
    let dataset = Dataset::open(dir.path(), &named::IFT).unwrap();
    assert_eq!(dataset.files(), [dir.path().join("ift.parquet")]);
    assert_eq!(prompts(&dataset, 10), ["prompt 0", "prompt 1"]);
}

#[test]
fn the_datasets_that_ship_can_be_read() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets");
    for (name, schema) in [("ift", &named::IFT), ("eft", &named::EFT)] {
        assert_eq!(guess(&root.join(name)).unwrap().name, name);
        let dataset = Dataset::open(&root.join(name), schema).unwrap();
        let rows: usize = dataset.batches(64).map(|b| b.unwrap().num_rows()).sum();
        assert!(rows > 100, "{name} has {rows} rows");
    }
}

#[test]
fn wrong_columns_are_all_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    foreign(
        &path,
        vec![
            ("instruction", text(&["p"])),
            ("respons", text(&["r"])),
            ("judgement", Arc::new(Int64Array::from(vec![1]))),
            ("score", text(&["3"])),
        ],
    );
    let error = full_error(Dataset::open(&path, &named::EFT));
    for part in [
        "x.parquet",
        "`eft`",
        "missing: `prompt`, `response`",
        "`judgement` is int64, expected text",
        "`score` is text, expected float32",
        "there are: `instruction`, `respons`, `judgement`, `score`",
        "prompt = \"instruction\"",
        "response = \"respons\"",
    ] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    let rename = [("prompt".to_owned(), "instruction".to_owned()), ("response".to_owned(), "respons".to_owned())];
    let dataset = Dataset::open_as(&path, &named::IFT, &rename).unwrap();
    assert_eq!(prompts(&dataset, 1), ["p"]);
    let unknown = [("promt".to_owned(), "instruction".to_owned())];
    assert!(full_error(Dataset::open_as(&path, &named::IFT, &unknown)).contains("no column `promt`"));

    fs::write(dir.path().join("y.jsonl"), "{\"prompt\": 3, \"answer\": \"a\"}\n").unwrap();
    let error = full_error(Dataset::open(&dir.path().join("y.jsonl"), &named::IFT));
    assert!(error.contains("missing: `response`") && error.contains("`prompt` is the number 3"), "{error}");
    assert!(error.contains("response = \"answer\""), "{error}");

    assert!(full_error(guess(&path)).contains("fit no schema"));
    for (name, want) in [("nowhere", "no dataset found"), ("x.xlsx", "none of .parquet, .jsonl"), ("empty", "holds no")]
    {
        fs::write(dir.path().join("x.xlsx"), "").unwrap();
        fs::create_dir_all(dir.path().join("empty")).unwrap();
        let error = Dataset::open(&dir.path().join(name), &named::IFT).unwrap_err();
        assert!(error.to_string().contains(want), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn foreign_types_are_cast_and_bad_rows_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    foreign(
        &path,
        vec![
            ("extra", Arc::new(Int64Array::from(vec![0, 0, 0, 0])) as ArrayRef),
            ("score", Arc::new(Float64Array::from(vec![4.5, 1e300, 0.1, 2.0]))),
            ("prompt", Arc::new(LargeStringArray::from(vec!["a", "b", "c", "d"]))),
            ("response", Arc::new(LargeStringArray::from(vec![Some("a"), Some("b"), Some("c"), None]))),
            ("judgement", text(&["", "", "", ""])),
        ],
    );
    let dataset = Dataset::open(&path, &named::EFT).unwrap();
    let error = dataset.batches(10).next().unwrap().unwrap_err().to_string();
    assert!(error.contains("row 2") && error.contains("`score`") && error.contains("does not fit"), "{error}");
    let mut batches = dataset.on_bad_row(OnBadRow::Collect).batches(10);
    let rows = batches.next().unwrap().unwrap();
    assert_eq!(rows.schema(), named::EFT.arrow());
    assert_eq!(Columns(&rows).float("score").unwrap().values(), &[4.5, 0.1]);
    let bad: Vec<_> = batches.take_bad_rows().iter().map(|b| (b.row, b.message.clone())).collect();
    assert_eq!(bad.iter().map(|b| b.0).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(bad[1].1, "column `response`: it is null");
    assert!(batches.next().is_none());

    // A nullable column that is not there is null.
    foreign(
        &path,
        vec![
            ("prompt", text(&["a"])),
            ("prompt_id", text(&["i"])),
            ("origin", text(&["o"])),
            ("parents", List::of_texts(&[Vec::<String>::new()])),
        ],
    );
    let rows = Dataset::open(&path, &named::PROMPTS).unwrap().batches(1).next().unwrap().unwrap();
    assert_eq!(Columns(&rows).text("model").unwrap().null_count(), 1);
}

#[test]
fn bad_lines_are_named_or_collected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.jsonl");
    let good = |i: u32| format!("{{\"prompt\": \"prompt {i}\", \"response\": \"r\"}}\n");
    let bad = ["{\"prompt\": \"p\"}\n", "{\"prompt\": \"p\", \n", "[1]\n", "{\"prompt\": null, \"response\": \"\"}\n"];
    fs::write(&path, format!("{}{}{}", good(0), bad.concat(), good(1))).unwrap();
    let dataset = Dataset::open(&path, &named::IFT).unwrap();
    let mut batches = dataset.batches(1);
    batches.next().unwrap().unwrap();
    let error = batches.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("x.jsonl` line 2 lacks the key `response`"), "{error}");
    assert!(batches.next().is_none(), "it ends at the first error");
    let mut batches = dataset.on_bad_row(OnBadRow::Collect).batches(10);
    assert_eq!(batches.next().unwrap().unwrap().num_rows(), 2);
    let found: Vec<_> = batches.take_bad_rows().iter().map(|b| (b.row, b.code)).collect();
    assert_eq!(found, [(2, "missing_key"), (3, "bad_json"), (4, "bad_json"), (5, "bad_value")]);
}

#[test]
fn damaged_parquet_is_an_error_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.parquet");
    write_parquet(&path, &ift(0..300)).unwrap();
    let good = fs::read(&path).unwrap();
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Dataset::open(&path, &named::IFT).and_then(|d| d.batches(64).collect::<Result<Vec<_>, _>>())
    };
    assert!(read(&good).is_ok());
    for cut in [0, 3, 11, good.len() / 2, good.len() - 9, good.len() - 1] {
        let error = full_error(read(&good[..cut]));
        assert!(error.contains("x.parquet") && error.contains("damaged"), "{error}");
    }
    // Every byte of the footer, and some of the pages, changed in turn; what cannot be seen may pass.
    let footer = good.len() - 8 - u32::from_le_bytes(good[good.len() - 8..good.len() - 4].try_into().unwrap()) as usize;
    let mut refused = 0;
    for at in (4..footer).step_by(7).chain(footer..good.len()) {
        for with in [0x00, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = with;
            refused += usize::from(read(&bytes).is_err());
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_run_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("runs/demo");
    let (run, opened) = Run::create_or_open(&dir, "a = 1\n", 17, false).unwrap();
    assert_eq!((opened, run.name().as_str(), run.seed()), (PriorState::New, "demo", 17));
    let none = named::ERRORS.empty();
    let one = |t: &[&str]| text(t);
    let n: ArrayRef = Arc::new(arrow::array::UInt32Array::from(vec![1]));
    let failed = named::ERRORS
        .batch(vec![
            one(&["generate"]),
            n.clone(),
            n,
            one(&["row"]),
            one(&["failed"]),
            one(&["empty_prompt"]),
            one(&["m"]),
        ])
        .unwrap();
    // Committed out of order, read in order.
    for epoch in [Epoch::new(10, 0), Epoch::new(2, 1), Epoch::new(2, 0)] {
        let first = (epoch.iteration * 10 + epoch.microbatch) as usize;
        let errors = if epoch.iteration == 10 { &failed } else { &none };
        let entry = run.commit("generate", epoch, &ift(first..first + 2), errors, &["h".to_owned()]).unwrap();
        assert_eq!((entry.rows, entry.errors.is_some()), (2, epoch.iteration == 10));
        // Again: nothing changes. Other rows: a bug.
        assert_eq!(run.commit("generate", epoch, &ift(first..first + 2), errors, &["h".to_owned()]).unwrap(), entry);
        assert!(full_error(run.commit("generate", epoch, &ift(0..1), errors, &[])).contains("not the same"));
        run.verify(&entry).unwrap();
    }
    // A file of before there was a column `kind` reads as what it meant; one that lacks more is refused by name.
    let entry = run.committed("generate", Epoch::new(10, 0)).unwrap();
    assert_eq!(run.left_out(&entry).unwrap(), Some(failed.clone()));
    assert_eq!(run.left_out(&run.committed("generate", Epoch::new(2, 0)).unwrap()).unwrap(), None);
    let path = dir.join(&entry.errors.as_ref().unwrap().path);
    let kept = fs::read(&path).unwrap();
    let without = |lacking: &[&str]| {
        let columns: Vec<usize> = (0..failed.num_columns())
            .filter(|&i| !lacking.contains(&failed.schema().field(i).name().as_str()))
            .collect();
        reflux::store::write_parquet(&path, &failed.project(&columns).unwrap()).unwrap();
        run.left_out(&entry)
    };
    assert_eq!(without(&["kind"]).unwrap(), Some(failed.clone()));
    assert!(full_error(without(&["kind", "code"]).map(drop)).contains("no column `code`"));
    fs::write(&path, kept).unwrap();
    assert!(run.commit("errors", Epoch::new(1, 0), &none, &none, &[]).is_err());
    assert!(run.commit("../x", Epoch::new(1, 0), &none, &none, &[]).is_err());
    let weights = |path: &Path| {
        fs::write(path.join("model.safetensors"), "weights")?;
        Ok("hash".to_owned())
    };
    let model = run.commit_model("M1", "sft", 0, weights).unwrap();
    assert_eq!(run.commit_model("M1", "sft", 0, weights).unwrap(), model);
    assert!(run.commit_model("M1", "sft", 0, |_| Ok("other".into())).is_err());
    assert!(
        full_error(run.commit_model("M2", "dpo", 1, |_| Err(reflux::error::Error::system("no"))).map(drop))
            .contains("no")
    );
    assert_eq!(fs::read_dir(dir.join("models")).unwrap().count(), 1);
    let metrics = run.write_metrics("dpo", 1, &named::METRICS.empty()).unwrap();
    assert_eq!(metrics.path, "metrics/dpo/iteration=1/metrics.parquet");
    run.write_summary(&serde_json::json!({"b": 1, "a": 2})).unwrap();

    let lines = fs::read(dir.join("manifest.jsonl")).unwrap();
    let check = |run: &Run| {
        let epochs: Vec<_> = run.files("generate").iter().map(|f| (f.iteration, f.microbatch)).collect();
        assert_eq!(epochs, [(2, 0), (2, 1), (10, 0)]);
        let all = run.read_step("generate", None).unwrap().unwrap();
        assert_eq!(all, concat_batches(&named::IFT.arrow(), &[ift(20..22), ift(21..23), ift(100..102)]).unwrap());
        assert_eq!(run.read_step("generate", Some(10)).unwrap().unwrap(), ift(100..102));
        assert_eq!(run.load("generate", Epoch::new(2, 1)).unwrap().unwrap(), ift(21..23));
        assert!(run.load("generate", Epoch::new(3, 0)).unwrap().is_none());
        assert!(run.read_step("judge", None).unwrap().is_none());
        assert_eq!(run.model("M1"), Some(model.clone()));
        assert_eq!(run.metrics().len(), 1);
    };
    check(&run);
    check(&Run::open(&dir).unwrap());
    drop(run);
    // As a process leaves it that died: a half line, files that are not named, temporaries.
    fs::write(dir.join("manifest.jsonl"), [&lines[..], b"{\"kind\":\"fi"].concat()).unwrap();
    let orphan = dir.join("data/generate/iteration=2/microbatch=00002.parquet");
    let temporary = dir.join("data/generate/iteration=2/.microbatch=00003.parquet.1-1.tmp");
    fs::copy(dir.join("data/generate/iteration=2/microbatch=00001.parquet"), &orphan).unwrap();
    fs::write(&temporary, "x").unwrap();
    let unfinished = dir.join("models/.M2.unfinished.tmp");
    fs::create_dir(&unfinished).unwrap();
    // What bears our names only almost, or was not written by us, is somebody else's.
    let theirs =
        ["data/generate/iteration=2/microbatch=00009.parquet", "data/generate/iteration=2/.x.tmp", "models/M2/w"];
    for name in theirs {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::write(dir.join(name), "the user's own").unwrap();
    }
    fs::write(dir.join("data/notes.txt"), "the user's own").unwrap();
    check(&Run::open(&dir).unwrap());
    let (run, opened) = Run::create_or_open(&dir, "a = 1\n", 17, false).unwrap();
    assert_eq!(opened, PriorState::Unfinished);
    check(&run);
    assert!(!orphan.exists() && !temporary.exists() && !unfinished.exists());
    assert!(theirs.iter().all(|name| dir.join(name).exists()));
    assert!(dir.join("data/notes.txt").exists() && dir.join("models/M1/model.safetensors").exists());
    assert_eq!(fs::read(dir.join("manifest.jsonl")).unwrap(), lines);

    assert!(run.drop_step("generate").is_err(), "not before the end");
    run.finish().unwrap();
    run.drop_step("generate").unwrap();
    assert!(full_error(run.load("generate", Epoch::new(2, 0))).contains("not kept"));
    assert!(!dir.join("data/generate/iteration=10").exists() && dir.join("data/errors/generate").exists());
    let left = fs::read_dir(dir.join("data/generate/iteration=2")).unwrap().count();
    assert_eq!(left, 2, "the user's own");
    drop(run);
    assert_eq!(Run::create_or_open(&dir, "a = 1\n", 17, false).unwrap().1, PriorState::Finished);
}

#[test]
fn a_changed_file_is_refused_with_the_difference() {
    let dir = tempfile::tempdir().unwrap();
    drop(begin(dir.path()));
    let error = full_error(Run::create_or_open(dir.path(), "a = 2\n", 17, false));
    assert!(error.contains("-1 a = 1\n+1 a = 2") && error.contains("--name") && error.contains("--fresh"), "{error}");
    assert!(full_error(Run::create_or_open(dir.path(), "a = 1\n", 18, false)).contains("-seed 17\n+seed 18"));
    let (run, opened) = Run::create_or_open(dir.path(), "a = 2\n", 18, true).unwrap();
    assert_eq!((opened, run.pipeline_text().unwrap().as_str()), (PriorState::New, "a = 2\n"));

    let foreign = tempfile::tempdir().unwrap();
    fs::write(foreign.path().join("thesis.tex"), "years of work").unwrap();
    for fresh in [false, true] {
        assert!(full_error(Run::create_or_open(foreign.path(), "", 0, fresh)).contains("is not a run"));
    }
    assert!(full_error(Run::open(foreign.path())).contains("no run found"));
}

#[test]
fn one_writer_at_a_time_and_any_number_of_readers() {
    let dir = tempfile::tempdir().unwrap();
    let run = begin(dir.path());
    let reader = Run::open(dir.path()).unwrap();
    let error = full_error(Run::create_or_open(dir.path(), "a = 1\n", 17, false));
    assert!(error.contains("is being written by process"), "{error}");
    assert!(full_error(Run::create_or_open(dir.path(), "a = 1\n", 17, true)).contains("is being written"));
    let none = named::ERRORS.empty();
    std::thread::scope(|scope| {
        for m in 0..8 {
            let (run, none) = (&run, &none);
            // Two threads commit each microbatch: the same rows, so both succeed.
            scope.spawn(move || run.commit("s", Epoch::new(1, m / 2), &ift(0..m as usize / 2), none, &[]).unwrap());
        }
    });
    assert!(reader.files("s").is_empty());
    reader.refresh().unwrap();
    assert_eq!(reader.files("s"), run.files("s"));
    assert_eq!(run.files("s").len(), 4);
    assert!(full_error(reader.finish()).contains("reading only"));
    drop(run);
    begin(dir.path());
}

#[test]
fn damaged_files_of_a_run_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = begin(dir.path());
    let entry = run.commit("s", Epoch::new(1, 0), &ift(0..50), &named::ERRORS.empty(), &[]).unwrap();
    let path = dir.path().join(&entry.path);
    let good = fs::read(&path).unwrap();
    fs::write(&path, &good[..good.len() - 20]).unwrap();
    assert!(full_error(run.load("s", Epoch::new(1, 0))).contains("bytes, the manifest says"));
    let mut flipped = good;
    flipped[10] ^= 1;
    fs::write(&path, flipped).unwrap();
    assert!(full_error(run.verify(&entry)).contains("not what was committed"));
    fs::remove_file(&path).unwrap();
    assert!(full_error(run.load("s", Epoch::new(1, 0))).contains("microbatch=00000.parquet"));
}

#[test]
fn a_full_disk_or_a_path_under_a_file_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let run = begin(&dir.path().join("run"));
    let full = fault::arm(fault::DISK_FULL, 1);
    let error = full_error(run.commit("s", Epoch::new(1, 0), &ift(0..50), &named::ERRORS.empty(), &[]));
    drop(full);
    assert!(error.contains("the disk is full") && error.contains("free some space"), "{error}");
    assert_eq!(fs::read_dir(dir.path().join("run/data/s/iteration=1")).unwrap().count(), 0);
    run.commit("s", Epoch::new(1, 0), &ift(0..50), &named::ERRORS.empty(), &[]).unwrap();

    fs::write(dir.path().join("file"), "").unwrap();
    let error = full_error(write_parquet(&dir.path().join("file/x.parquet"), &ift(0..1)));
    assert!(error.contains("file") && error.contains("not a directory"), "{error}");
    let error = full_error(Run::create_or_open(&dir.path().join("file/run"), "", 0, false));
    assert!(error.contains("file"), "{error}");
}
