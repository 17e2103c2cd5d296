//! A finished run is damaged at random, in every kind of its files and in many ways: `verify` finds it, `verify --repair` and the
//! same `run` make it good to the byte. What cannot be made good is named here, and said in docs/reliability.md.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::program::{run_program, said};
use crate::common::{self, files, outcome, without_checksums};

/// Damages by default; `REFLUX_DAMAGES` asks for another number.
const DAMAGES: usize = 48;
const SEED: u64 = 0x0d0a_0001;

/// xorshift64*, so that a failure can be had again.
struct Draw(u64);
impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        (bits % n as u64) as usize
    }
}

/// Ways to damage a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Bit,
    Bytes,
    Cut,
    Empty,
    Delete,
    Swap,
    DoubleLine,
    LoseLine,
    SwapLines,
    Zeroes,
    Garbage,
    Directory,
    #[cfg(unix)]
    Link,
}

#[cfg(unix)]
const LINK: &[Way] = &[Way::Link];
#[cfg(not(unix))]
const LINK: &[Way] = &[];

const ANY: &[Way] =
    &[Way::Bit, Way::Bytes, Way::Cut, Way::Empty, Way::Delete, Way::Swap, Way::Zeroes, Way::Garbage, Way::Directory];
const OF_TEXT: &[Way] = &[Way::DoubleLine, Way::LoseLine, Way::SwapLines];

/// One damage.
struct Damage {
    file: String,
    way: Way,
    /// For the places within the file.
    seed: u64,
}

/// The kinds of files, each as often as the next.
fn kind_of(file: &str) -> &str {
    let top = file.split('/').next().unwrap_or(file);
    if file.starts_with("data/errors/") { "errors" } else { top }
}

fn draw(draw: &mut Draw, whole: &BTreeMap<String, Vec<u8>>) -> Damage {
    let mut kinds: Vec<&str> = whole.keys().map(|f| kind_of(f)).collect();
    kinds.dedup();
    kinds.sort_unstable();
    kinds.dedup();
    // Most of a run is rows and its manifest.
    kinds.extend(["data", "data", "models", "manifest.jsonl", "manifest.jsonl", "pipeline.toml"]);
    let kind = kinds[draw.below(kinds.len())];
    let of_kind: Vec<&String> = whole.keys().filter(|f| kind_of(f) == kind).collect();
    let file = of_kind[draw.below(of_kind.len())].clone();
    let text = file.ends_with("jsonl") || file.ends_with("toml") || file.ends_with("json");
    let ways: Vec<Way> = [ANY, LINK, if text { OF_TEXT } else { &[] }].concat();
    let mut way = ways[draw.below(ways.len())];
    // These links are refused, by `verify --repair` too: what they lead to is not the run's.
    if LINK.contains(&way) && ["lock", "manifest.jsonl"].contains(&file.as_str()) {
        way = Way::Delete;
    }
    Damage { file, way, seed: draw.0 }
}

fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
    bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect()
}

impl Damage {
    /// Damages the run in `dir`; false where the bytes are what they were.
    fn apply(&self, dir: &Path, whole: &BTreeMap<String, Vec<u8>>) -> bool {
        let (mut draw, path, bytes) = (Draw(self.seed), dir.join(&self.file), &whole[&self.file]);
        let mut new = bytes.clone();
        match self.way {
            Way::Bit if !bytes.is_empty() => new[draw.below(bytes.len())] ^= 1 << draw.below(8),
            Way::Bytes if !bytes.is_empty() => {
                for _ in 0..=draw.below(20) {
                    new[draw.below(bytes.len())] = draw.below(256) as u8;
                }
            }
            Way::Cut if !bytes.is_empty() => new.truncate(draw.below(bytes.len())),
            Way::Zeroes if !bytes.is_empty() => {
                let from = draw.below(bytes.len()) / 512 * 512;
                let to = (from + 512).min(bytes.len());
                new[from..to].fill(0);
            }
            Way::Bit | Way::Bytes | Way::Cut | Way::Zeroes | Way::Garbage => {
                new.extend((0..=draw.below(300)).map(|_| draw.below(256) as u8));
            }
            Way::Empty => new.clear(),
            Way::Delete => {
                fs::remove_file(&path).unwrap();
                return true;
            }
            Way::Swap => {
                let others: Vec<&String> = whole.keys().filter(|f| **f != self.file).collect();
                let other = others[draw.below(others.len())];
                fs::write(dir.join(other), bytes).unwrap();
                new.clone_from(&whole[other]);
            }
            Way::DoubleLine | Way::LoseLine | Way::SwapLines => {
                let mut all = lines(bytes);
                let (a, b) = (draw.below(all.len()), draw.below(all.len()));
                match self.way {
                    Way::DoubleLine => all.insert(b, all[a].clone()),
                    Way::LoseLine => drop(all.remove(a)),
                    _ => all.swap(a, b),
                }
                new = all.concat();
            }
            Way::Directory => {
                fs::remove_file(&path).unwrap();
                fs::create_dir(&path).unwrap();
                if draw.below(2) == 0 {
                    fs::write(path.join("inside"), "x").unwrap();
                }
                return true;
            }
            #[cfg(unix)]
            Way::Link => {
                let aside = dir.with_extension("aside");
                fs::rename(&path, &aside).unwrap();
                std::os::unix::fs::symlink(aside, &path).unwrap();
                return true;
            }
        }
        fs::write(&path, &new).unwrap();
        new != *bytes
    }
}

/// Whether nothing can be made good: without a manifest a directory is no run, and without its first line only the pipeline file
/// says what the run is.
fn is_hopeless(dir: &Path, whole: &BTreeMap<String, Vec<u8>>) -> bool {
    let manifest = fs::read(dir.join("manifest.jsonl")).unwrap_or_default();
    let first = |bytes: &[u8]| bytes.split_inclusive(|b| *b == b'\n').next().map(<[u8]>::to_vec);
    let pipeline = fs::read(dir.join("pipeline.toml")).unwrap_or_default();
    let (now, before) = (first(&manifest).unwrap_or_default(), first(&whole["manifest.jsonl"]).unwrap_or_default());
    // One wrong bit is corrected.
    let wrong_bits: u32 = now.iter().zip(&before).map(|(a, b)| (a ^ b).count_ones()).sum();
    let known = now.len() == before.len() && wrong_bits <= 1;
    !manifest.contains(&b'\n') || (!known && pipeline != whole["pipeline.toml"])
}

fn reflux(args: &[&str]) -> (Option<i32>, String) {
    let output = run_program(args);
    (output.status.code(), said(&output))
}

/// Expects that a run is not repaired: what is damaged beyond repair is refused before anything is changed. `what` is for messages.
fn not_repaired(dir: &Path, what: &str) {
    let before = files(dir);
    let (code, said) = reflux(&["verify", dir.to_str().unwrap(), "--repair"]);
    assert!(code == Some(2) && said.contains("help: "), "{what}: {said}");
    let (mut before, mut after) = (before, files(dir));
    // Every process that asks for the lock makes its file.
    before.remove("lock");
    after.remove("lock");
    assert!(before == after, "{what}: {said}");
}

fn sorted_manifest(dir: &Path) -> Vec<String> {
    let text = without_checksums(&fs::read_to_string(dir.join("manifest.jsonl")).unwrap());
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// An undisturbed run.
struct Whole {
    file: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
    outcome: BTreeMap<String, Vec<u8>>,
    manifest: Vec<String>,
}

fn whole() -> &'static Whole {
    static WHOLE: OnceLock<Whole> = OnceLock::new();
    WHOLE.get_or_init(|| undisturbed(&tempfile::tempdir().unwrap().keep()))
}

fn undisturbed(temp: &Path) -> Whole {
    let file = temp.join("small.toml");
    let text = common::small_loop(temp) + "\n[health]\nduplicates = { warn = 0.7 }\n";
    fs::write(&file, text.replace("op = \"dedup\"\n", "op = \"dedup\"\nkeep = false\n")).unwrap();
    let runs = temp.join("whole");
    let (code, said) =
        reflux(&["-q", "run", file.to_str().unwrap(), "--runs", runs.to_str().unwrap(), "--device", "cpu"]);
    assert_eq!(code, Some(0), "{said}");
    let dir = runs.join("small");
    Whole { file, files: files(&dir), outcome: outcome(&dir), manifest: sorted_manifest(&dir) }
}

impl Whole {
    /// A copy of the run below `runs`.
    fn copy(&self, runs: &Path) -> PathBuf {
        let dir = runs.join("small");
        for (name, bytes) in &self.files {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        dir
    }

    /// Repairs a run once, goes on with it, and expects what the undisturbed run has. `what` is for messages.
    fn repaired(&self, runs: &Path, what: &str) {
        let dir = runs.join("small");
        let place = dir.to_str().unwrap();
        let (code, repaired) = reflux(&["verify", place, "--repair"]);
        assert_eq!(code, Some(0), "{what}: repair {repaired}");
        let (file, runs) = (self.file.to_str().unwrap(), runs.to_str().unwrap());
        let go_on = || reflux(&["run", file, "--runs", runs, "--device", "cpu"]);
        let (mut code, mut ran) = go_on();
        // A file that nothing says to be the run's stays until somebody moves it, as the message asks for.
        if let Some((before, _)) = ran.split_once("` is in the way") {
            let place = before.rsplit('`').next().unwrap().to_owned();
            fs::rename(&place, dir.parent().unwrap().join("moved")).unwrap();
            (code, ran) = go_on();
        }
        assert_eq!(code, Some(0), "{what}: repair {repaired}\nrun {ran}");
        let got = outcome(&dir);
        for name in self.outcome.keys() {
            assert!(got.get(name) == self.outcome.get(name), "{what}: {name} differs");
        }
        let more: Vec<&String> = got.keys().filter(|name| !self.outcome.contains_key(*name)).collect();
        assert!(more.iter().all(|name| name.contains(".aside-")), "{what}: {more:?}");
        assert_eq!(sorted_manifest(&dir), self.manifest, "{what}: the manifest");
        let text = fs::read(dir.join("pipeline.toml")).unwrap();
        assert!(text == self.files["pipeline.toml"], "{what}: pipeline.toml");
        assert!(dir.join("summary.json").is_file(), "{what}: summary.json");
        let (code, said) = reflux(&["verify", place]);
        assert_eq!(code, Some(0), "{what}: at the end: {said}");
    }

    /// Damages a copy of the run and expects that it is made good. Returns whether it was, and not hopeless.
    fn made_good(&self, runs: &Path, damage: &Damage, what: &str) -> bool {
        let dir = self.copy(runs);
        let changed = damage.apply(&dir, &self.files);
        let place = dir.to_str().unwrap();
        let (code, said) = reflux(&["verify", place]);
        if is_hopeless(&dir, &self.files) {
            assert!(code == Some(2) || code == Some(1), "{what}: {said}");
            not_repaired(&dir, what);
            return false;
        }
        let told = ["damaged:", "cut:", "missing:", "stray:"].iter().any(|word| said.contains(word));
        // What the lock file says is for messages, only the manifest knows that it had more lines, and the report is a
        // view of the run that is written again at its end.
        let silent = !changed || ["lock", "manifest.jsonl", "report.html"].contains(&damage.file.as_str());
        assert!(code != Some(0) || told || silent, "{what}: not found: {said}");
        self.repaired(runs, &format!("{what}: verify said {said}"));
        true
    }
}

#[test]
fn random_damages_are_found_and_made_good() {
    let temp = tempfile::tempdir().unwrap();
    let whole = whole();
    let wanted = std::env::var("REFLUX_DAMAGES").ok().and_then(|n| n.parse().ok()).unwrap_or(DAMAGES);
    let mut seeds = Draw(SEED);
    let damages: Vec<Damage> = (0..wanted).map(|_| draw(&mut seeds, &whole.files)).collect();
    let (next, hopeless) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            while let Some((i, damage)) = {
                let i = next.fetch_add(1, Ordering::Relaxed);
                damages.get(i).map(|damage| (i, damage))
            } {
                let what = format!("damage {i}: {:?} of {} (seed {:#x})", damage.way, damage.file, damage.seed);
                let runs = temp.path().join(format!("case-{i}"));
                let good = || whole.made_good(&runs, damage, &what);
                match std::panic::catch_unwind(std::panic::AssertUnwindSafe(good)) {
                    Ok(true) => {}
                    Ok(false) => drop(hopeless.fetch_add(1, Ordering::Relaxed)),
                    Err(panic) => failed.push(panic.downcast_ref::<String>().cloned().unwrap_or(what)),
                }
                let _ = fs::remove_dir_all(&runs);
            }
            failed
        };
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    println!("{wanted} damages, {} of them to what says that there is a run", hopeless.load(Ordering::Relaxed));
    assert!(failed.is_empty(), "{} of {wanted} were not made good:\n{}", failed.len(), failed.join("\n\n"));
    assert!(hopeless.load(Ordering::Relaxed) * 4 < wanted, "most damages can be made good");
}

/// Lines out of order and one of them twice: what one repair leaves is whole.
#[test]
fn a_reordered_manifest_needs_one_repair() {
    let temp = tempfile::tempdir().unwrap();
    for (case, doubled) in ["changed", "the same"].iter().enumerate() {
        let runs = temp.path().join(case.to_string());
        let path = whole().copy(&runs).join("manifest.jsonl");
        let text = without_checksums(&fs::read_to_string(&path).unwrap());
        let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        let at =
            |lines: &[String], words: &[&str]| lines.iter().position(|l| words.iter().all(|w| l.contains(w))).unwrap();
        let model = lines.remove(at(&lines, &["\"model\"", "\"M3\""]));
        // The model's line comes after its announcement, and a line that is there already between the two.
        let after = at(&lines, &["\"file\"", "\"step\":\"dpo\"", "\"iteration\":2"]) + 1;
        lines.insert(after, model);
        let again = lines[at(&lines, &["\"file\"", "\"step\":\"ift\""])].clone();
        let again = if *doubled == "the same" { again } else { again.replace("\"rows\":", "\"rows\":1") };
        lines.insert(after, again);
        fs::write(&path, lines.concat()).unwrap();
        let (code, said) = reflux(&["verify", path.parent().unwrap().to_str().unwrap()]);
        assert!(code == Some(1) && said.contains("twice") | said.contains("two lines for it"), "{said}");
        whole().repaired(&runs, doubled);
    }
}

/// Settings that decide no rows are not in the manifest's hash: the file itself says whether they are whole.
#[test]
fn damage_within_health_is_found_and_repaired() {
    let temp = tempfile::tempdir().unwrap();
    let dir = whole().copy(temp.path());
    let (path, place) = (dir.join("pipeline.toml"), dir.to_str().unwrap());
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches("duplicates = ").count(), 1, "{text}");
    for damage in ["duplicates = \u{0}", "duplicates  = "] {
        fs::write(&path, text.replace("duplicates = ", damage)).unwrap();
        let (code, said) = reflux(&["verify", place]);
        assert!(code == Some(1) && said.contains("damaged: pipeline.toml"), "{said}");
        let (code, said) = reflux(&["verify", place, "--repair"]);
        assert!(code == Some(0) && said.contains("[health]"), "{said}");
        // What reads the run's own file works again.
        let (code, said) = reflux(&["verify", place]);
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = reflux(&["replay", place, "--set", "step.pairs.min_margin=1", "--dry-run"]);
        assert_eq!(code, Some(0), "{said}");
        whole().repaired(temp.path(), damage);
    }
}

/// Where the manifest's first line is damaged only the pipeline file says what the run is, and only where it is whole: a repair
/// that took any text would make the damaged file the run's own.
#[test]
fn a_first_line_and_a_setting_are_not_repaired_together() {
    let temp = tempfile::tempdir().unwrap();
    let settings = [
        "duplicates = { warn = 0.7 }",
        "duplicates = { warn = 0.5 }",
        "seed = 5",
        "seed = 4",
        "rows = 40",
        "rows = 41",
    ];
    for (case, change) in settings.chunks(2).enumerate() {
        let runs = temp.path().join(case.to_string());
        let dir = whole().copy(&runs);
        let (manifest, pipeline) = (dir.join("manifest.jsonl"), dir.join("pipeline.toml"));
        let text = fs::read_to_string(&manifest).unwrap();
        fs::write(&manifest, text.replacen("\"kind\"", "\"kinn\"", 1)).unwrap();
        let settings = fs::read_to_string(&pipeline).unwrap();
        assert!(settings.contains(change[0]), "{settings}");
        fs::write(&pipeline, settings.replacen(change[0], change[1], 1)).unwrap();
        let (code, said) = reflux(&["verify", dir.to_str().unwrap()]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("damaged: pipeline.toml") && said.contains("are both damaged"), "{said}");
        assert!(!said.contains("--repair"), "what cannot be done is not proposed: {said}");
        not_repaired(&dir, change[1]);
        // A line that can be read, with another hash of the file: nothing says which of the two is damaged.
        fs::write(&pipeline, &settings).unwrap();
        let hash = text.split("\"pipeline\":\"").nth(1).unwrap().get(..64).unwrap();
        fs::write(&manifest, without_checksums(&text).replacen(hash, &"0".repeat(64), 1)).unwrap();
        let (_, said) = reflux(&["verify", dir.to_str().unwrap()]);
        assert!(said.contains("it is another run's, or line 1 of manifest.jsonl is damaged"), "{said}");
        fs::write(&manifest, text.replacen("\"kind\"", "\"kinn\"", 1)).unwrap();
        // The file given back, the first line is written again.
        fs::write(&pipeline, settings).unwrap();
        whole().repaired(&runs, change[1]);
    }
}

/// A run that goes on does not read what nobody needs, so it goes on at once; but it does not end on damaged files.
#[test]
fn what_nobody_reads_is_compared_before_the_end() {
    let temp = tempfile::tempdir().unwrap();
    let (file, runs) = (whole().file.to_str().unwrap(), temp.path().to_str().unwrap());
    // Killed before one of its last lines, all of which but the end of the run are of files.
    let dir = temp.path().join("small");
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.args(["-q", "run", file, "--runs", runs, "--device", "cpu"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env("REFLUX_FAULT", format!("before-manifest:{}", whole().manifest.len() - 4));
    assert!(command.output().unwrap().status.code().is_none(), "killed");
    let manifest = dir.join("manifest.jsonl");
    let text = fs::read_to_string(&manifest).unwrap();
    let path = dir.join("data/truth/iteration=1/microbatch=00000.parquet");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (code, said) = reflux(&["run", file, "--runs", runs, "--device", "cpu"]);
    assert!(code == Some(2) && said.contains("truth/iteration=1/microbatch=00000.parquet` is damaged"), "{said}");
    let now = fs::read_to_string(&manifest).unwrap();
    assert!(now.starts_with(&text) && now.len() > text.len(), "the rest was made");
    assert!(!now.contains("\"kind\":\"finished\"}"), "and the run is not finished");
    whole().repaired(temp.path(), "a file that nobody reads");
}

/// An import that was killed leaves a temporary file; the next one into that folder removes it, and nothing else.
#[test]
fn what_a_killed_import_left_is_removed() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    fs::write(at("rows.jsonl"), "{\"prompt\": \"Hi\", \"response\": \"Hello\"}\n").unwrap();
    let import = |out: &str, fault: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        command.arg("import").arg(at("rows.jsonl")).arg("--out").arg(at(out)).env("NO_COLOR", "1");
        fault.map(|point| command.env("REFLUX_FAULT", point));
        command.output().unwrap().status
    };
    let names = || {
        let names = fs::read_dir(temp.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    assert!(import("a.parquet", Some("after-write")).code().is_none(), "killed");
    assert!(import("a.parquet", Some("after-fsync")).code().is_none(), "killed");
    let left: Vec<String> = names().into_iter().filter(|n| n.starts_with(".a.parquet.")).collect();
    assert_eq!(left.len(), 1, "the second removed what the first had left: {left:?}");
    for name in [".a.parquet.7-0.tmp", ".notes.tmp"] {
        fs::write(at(name), "somebody else's").unwrap();
    }
    assert!(import("b.parquet", None).success());
    assert_eq!(names(), [".a.parquet.7-0.tmp", ".notes.tmp", "b.parquet", "rows.jsonl"]);
}
