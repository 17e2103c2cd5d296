//! The program is killed, again and again, at any moment and at every point of a commit; run again it ends with the same bytes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::program::said;
use crate::common::{self, outcome};
use reflux::store::files::fault;

/// Kills at random moments, all together.
const KILLS: usize = 200;

/// xorshift64*, so that a failure can be had again.
struct Draw(u64);
impl Draw {
    /// From 0 to 1.
    fn share(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Observers of every policy: the held-out questions of two steps, answered by it and by the first policy, and compared.
const OBSERVERS: &str = r#"
[step.more]
op = "listworld"
data = "requests"
rows = 5
[step.questions]
op = "concat"
from = "heldout"
with = "more"
[step.answers_m1]
op = "generate"
from = "questions"
model = "m1"
sampling = { max_tokens = 6 }
samples = 1
keep = false
[step.truth_m1]
op = "oracle"
from = "answers_m1"
[step.against_m1]
op = "compare"
from = ["truth", "truth_m1"]
by = "score"
"#;

/// A loop of two iterations with checkpoints, an adapter, steps that are not kept, and observers that concatenate and compare, in
/// a file of its own. Its rubric and its script are files beside it.
fn pipeline(dir: &Path) -> PathBuf {
    let rubric = dir.join("judge.jinja");
    std::fs::copy("pipelines/listworld/judge.jinja", &rubric).unwrap();
    let mut text = common::small_loop(dir);
    let mut put = |from: &str, to: &str, times: usize| {
        assert_eq!(text.matches(from).count(), times, "{from}");
        text = text.replace(from, to);
    };
    put("learning_rate = 1e-3", "learning_rate = 1e-3\ncheckpoint_every = 2", 2);
    put("\"pipelines/listworld/judge.jinja\"", &format!("{:?}", rubric.display().to_string()), 2);
    put("batch_size = 4\n", "batch_size = 4\nlora = { rank = 2 }\n", 1);
    put("op = \"dedup\"\n", "op = \"dedup\"\nkeep = false\n", 1);
    put(
        "from = \"heldout\"\nmodel = \"policy\"\nsamples = 2\n",
        "from = \"questions\"\nmodel = \"policy\"\nsamples = 1\nkeep = false\n",
        1,
    );
    let file = dir.join("small.toml");
    std::fs::write(&file, text + OBSERVERS).unwrap();
    file
}

/// Edits an input that the run in `dir` has read, if it has read one, and expects that the run does not go on; then undoes it.
fn edit_an_input(file: &Path, runs: &Path, set: &[&str], draw: &mut Draw, what: &str) -> bool {
    let names = ["judge.jinja", "script-0.toml"];
    let input = file.with_file_name(names[usize::from(draw.share() < 0.5)]);
    let manifest = std::fs::read_to_string(runs.join("small/manifest.jsonl")).unwrap_or_default();
    let name = input.file_name().unwrap().to_str().unwrap();
    let has_read = manifest.lines().any(|l| l.contains("\"kind\":\"input\"") && l.contains(name) && l.ends_with('}'));
    // Whether the line is whole is for the run to say: only what surely is, is expected to be refused.
    if !has_read || !manifest.ends_with('\n') {
        return false;
    }
    let before = std::fs::read_to_string(&input).unwrap();
    std::fs::write(&input, before.clone() + "\n# edited\n").unwrap();
    let output = reflux(file, runs, set).output().unwrap();
    std::fs::write(&input, before).unwrap();
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{what}, {name} edited: {text}");
    assert!(text.contains("read other inputs") && text.contains(name), "{what}, {name} edited: {text}");
    true
}

/// `reflux run` of the file, in `runs`/small.
fn reflux(file: &Path, runs: &Path, set: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").env_remove("REFLUX_FAULT");
    command.arg("run").arg(file).arg("--runs").arg(runs).args(["--device", "cpu"]);
    command.args(set.iter().flat_map(|s| ["--set", s]));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
fn to_the_end(mut command: Command, what: &str) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{what}: {}\n{}", output.status, said(&output));
    said(&output)
}

/// What is to be the same: the files of data, models and metrics, and every line of the manifest, once.
#[derive(PartialEq)]
struct Whole {
    files: BTreeMap<String, Vec<u8>>,
    manifest: Vec<String>,
}
fn whole(dir: &Path) -> Whole {
    let mut manifest: Vec<String> =
        std::fs::read_to_string(dir.join("manifest.jsonl")).unwrap().lines().map(String::from).collect();
    manifest.sort_unstable();
    Whole { files: outcome(dir), manifest }
}
impl Whole {
    fn expect(&self, dir: &Path, what: &str) {
        let other = whole(dir);
        for name in self.files.keys().chain(other.files.keys()) {
            assert!(self.files.get(name) == other.files.get(name), "{what}: {name} differs");
        }
        assert_eq!(self.manifest, other.manifest, "{what}: manifests differ");
        // What was under way is gone.
        let left: Vec<String> = common::files(dir).into_keys().filter(|f| f.contains("checkpoints/")).collect();
        assert!(left.is_empty(), "{what}: {left:?}");
    }
}

/// An undisturbed run, and how long it takes.
fn undisturbed(file: &Path, runs: &Path, set: &[&str]) -> (Whole, Duration) {
    let began = Instant::now();
    to_the_end(reflux(file, runs, set), "undisturbed");
    (whole(&runs.join("small")), began.elapsed())
}

/// Kills runs at moments that `seed` chooses, one to six times each, until `kills` have hit; then lets each come to its end.
fn kill(seed: u64, kills: usize, set: &[&str]) {
    let temp = tempfile::tempdir().unwrap();
    let file = pipeline(temp.path());
    let (expected, took) = undisturbed(&file, &temp.path().join("undisturbed"), set);
    let mut draw = Draw(seed);
    let (mut hit, mut case, mut edited) = (0, 0, 0);
    while hit < kills {
        case += 1;
        let runs = temp.path().join(format!("case {case}"));
        let wanted = 1 + (draw.share() * 6.) as usize;
        let mut moments = Vec::new();
        for _ in 0..wanted.min(kills - hit) {
            let moment = took.mul_f64(draw.share());
            let mut child = reflux(&file, &runs, set).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(moment);
            let ended = child.try_wait().unwrap();
            child.kill().unwrap();
            let status = child.wait().unwrap();
            if ended.is_some() {
                assert!(status.success(), "seed {seed}, case {case}, after {moments:?}: {status}");
                break;
            }
            hit += 1;
            moments.push(moment);
            if draw.share() < 0.25 {
                let what = format!("seed {seed}, case {case}, killed after {moments:?}");
                edited += usize::from(edit_an_input(&file, &runs, set, &mut draw, &what));
            }
        }
        let what = format!("seed {seed}, case {case}, killed after {moments:?}");
        to_the_end(reflux(&file, &runs, set), &what);
        expected.expect(&runs.join("small"), &what);
        std::fs::remove_dir_all(&runs).unwrap();
    }
    assert!(edited > kills / 20, "inputs were edited {edited} times in {kills} kills");
}

#[test]
fn killed_at_random_moments_it_ends_the_same() {
    // Side by side, for a process that starts or ends uses one core.
    std::thread::scope(|scope| {
        scope.spawn(|| kill(0x5eed_0001, KILLS / 2, &[]));
        scope.spawn(|| kill(0x5eed_0002, KILLS / 2, &["step.dpo.data_schedule=streaming"]));
    });
}

#[test]
fn killed_at_every_point_of_a_commit_it_ends_the_same() {
    let temp = tempfile::tempdir().unwrap();
    let file = pipeline(temp.path());
    let (expected, _) = undisturbed(&file, &temp.path().join("undisturbed"), &[]);
    for point in fault::POINTS {
        // The first time, and further on, until the run comes to its end first.
        let mut nth = 1;
        loop {
            let runs = temp.path().join(format!("{point} {nth}"));
            let what = format!("REFLUX_FAULT={point}:{nth}");
            let output = reflux(&file, &runs, &[]).env("REFLUX_FAULT", format!("{point}:{nth}")).output().unwrap();
            if output.status.success() {
                assert!(nth > 1, "{point} is never passed");
                expected.expect(&runs.join("small"), &what);
                break;
            }
            assert!(output.status.code().is_none(), "{what} did not kill: {}\n{}", output.status, said(&output));
            to_the_end(reflux(&file, &runs, &[]), &what);
            expected.expect(&runs.join("small"), &what);
            std::fs::remove_dir_all(&runs).unwrap();
            nth = nth * 3 + 1;
        }
    }
}

/// A training that is killed between its model and the announcement of it still knows the rows that it had no use for.
#[test]
fn a_model_that_is_not_announced_yet_keeps_its_account() {
    let temp = tempfile::tempdir().unwrap();
    let file = pipeline(temp.path());
    // Rows that are not kept would have to be made again first.
    let set = ["step.dpo.limit=1", "step.answers_m1.keep=true", "step.answers.keep=true", "step.prompts.keep=true"];
    let (expected, _) = undisturbed(&file, temp.path(), &set);
    assert!(expected.manifest.iter().any(|line| line.contains("beyond_limit")), "every pair was used");
    // As the process leaves the manifest that dies right after the line of the last model.
    let manifest = temp.path().join("small/manifest.jsonl");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let at = text.rfind("\"kind\":\"model\"").unwrap();
    let end = at + text[at..].find('\n').unwrap() + 1;
    assert!(text[end..].contains("beyond_limit"), "the announcement comes after the model");
    std::fs::write(&manifest, &text[..end]).unwrap();
    to_the_end(reflux(&file, temp.path(), &set), "not announced");
    expected.expect(&temp.path().join("small"), "not announced");
}

/// A disk that is full stops the run with a clear word and harms nothing: with room again it goes on. A file system of its own is
/// used where the system lets us make one, and a made-up full disk at several moments everywhere.
#[test]
fn a_full_disk_stops_it_and_harms_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let file = pipeline(temp.path());
    let (expected, _) = undisturbed(&file, &temp.path().join("undisturbed"), &[]);
    let goes_on = |runs: &Path, output: &Output, what: &str| {
        let text = said(output);
        assert_eq!(output.status.code(), Some(1), "{what}: {text}");
        assert!(text.contains("error:") && text.contains("the disk is full"), "{what}: {text}");
        assert!(!text.contains("panicked"), "{what}: {text}");
        to_the_end(reflux(&file, runs, &[]), what);
        expected.expect(&runs.join("small"), what);
    };
    for nth in [1, 5, 17, 40] {
        let runs = temp.path().join(format!("full {nth}"));
        let what = format!("disk-full:{nth}");
        let output = reflux(&file, &runs, &[]).env("REFLUX_FAULT", &what).output().unwrap();
        goes_on(&runs, &output, &what);
    }
    let (small, aside) = (temp.path().join("tmpfs"), temp.path().join("aside"));
    std::fs::create_dir(&small).unwrap();
    let mount = "mount -t tmpfs -o size=1m tmpfs \"$1\" || exit 99; shift; kept=$1; shift; \"$@\"; code=$?; cp -r \"$0\"/. \"$kept\"; exit $code";
    let run = reflux(&file, &small, &[]);
    let mut command = Command::new("unshare");
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]);
    command.arg(&small).arg(&small).arg(&aside).arg(run.get_program()).args(run.get_args());
    match command.output() {
        Ok(output) if output.status.code() != Some(99) && aside.exists() => goes_on(&aside, &output, "tmpfs of 1 MB"),
        other => eprintln!("no file system of our own here ({other:?}): the made-up full disk has to do"),
    }
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let temp = tempfile::tempdir().unwrap();
    let file = pipeline(temp.path());
    let closed = temp.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    let mut mode = std::fs::metadata(&closed).unwrap().permissions();
    mode.set_readonly(true);
    std::fs::set_permissions(&closed, mode).unwrap();
    // The superuser may write everywhere, but not below a file.
    let below_a_file = file.join("runs");
    let named = |place: &Path| if place.starts_with(&file) { file.clone() } else { place.to_owned() };
    let superuser = std::fs::write(closed.join("probe"), "").is_ok();
    let places = if superuser { vec![below_a_file] } else { vec![below_a_file, closed] };
    for place in places {
        let output = reflux(&file, &place, &[]).output().unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("error:") && text.contains(&*named(&place).to_string_lossy()), "{text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

/// A last line without its end does not count, in a run under way and in one that was done.
#[test]
fn a_cut_manifest_goes_on() {
    let temp = tempfile::tempdir().unwrap();
    let file = pipeline(temp.path());
    // All rows are kept here: those that are not are gone once the run is over, and a manifest that has lost the line which
    // says so tells of damage, which is for `verify --repair`.
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("keep = false\n"));
    std::fs::write(&file, text.replace("keep = false\n", "")).unwrap();
    let runs = temp.path().join("runs");
    let (expected, _) = undisturbed(&file, &runs, &[]);
    let path = runs.join("small/manifest.jsonl");
    let whole = std::fs::read(&path).unwrap();
    for share in [0.1, 0.5, 0.9, 1.] {
        let cut = ((whole.len() as f64 * share) as usize).max(200) - 3;
        std::fs::write(&path, &whole[..cut]).unwrap();
        let what = format!("cut to {cut} of {} bytes", whole.len());
        to_the_end(reflux(&file, &runs, &[]), &what);
        expected.expect(&runs.join("small"), &what);
    }
}

/// The clock may say what it will: files of tomorrow and of long ago change nothing.
#[test]
fn the_clock_does_not_matter() {
    let temp = tempfile::tempdir().unwrap();
    let file = pipeline(temp.path());
    let (expected, _) = undisturbed(&file, &temp.path().join("undisturbed"), &[]);
    let now = std::time::SystemTime::now();
    let times = [now + Duration::from_secs(86_400), std::time::UNIX_EPOCH + Duration::from_secs(1)];
    for (n, time) in times.into_iter().enumerate() {
        let runs = temp.path().join(format!("{n}"));
        let output = reflux(&file, &runs, &[]).env("REFLUX_FAULT", "after-manifest:20").output().unwrap();
        assert!(output.status.code().is_none(), "{}", said(&output));
        for name in common::files(&runs.join("small")).into_keys() {
            let file = std::fs::File::options().append(true).open(runs.join("small").join(name)).unwrap();
            file.set_modified(time).unwrap();
        }
        to_the_end(reflux(&file, &runs, &[]), "another time");
        expected.expect(&runs.join("small"), "another time");
    }
}

#[test]
fn two_do_not_write_one_run() {
    let temp = tempfile::tempdir().unwrap();
    let file = pipeline(temp.path());
    let (expected, _) = undisturbed(&file, &temp.path().join("undisturbed"), &[]);
    let runs = temp.path().join("runs");
    let first = reflux(&file, &runs, &[]).spawn().unwrap();
    // Until the first has begun.
    let began = runs.join("small/manifest.jsonl");
    while !began.exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = reflux(&file, &runs, &[]).output().unwrap();
    let first = first.wait_with_output().unwrap();
    assert!(first.status.success(), "{}", said(&first));
    // Whoever comes while the run is written is told so; after that, that it is finished.
    let text = said(&second);
    match second.status.code() {
        Some(0) => assert!(text.contains("is finished"), "{text}"),
        code => assert!(code == Some(2) && text.contains("is being written by process"), "{code:?} {text}"),
    }
    expected.expect(&runs.join("small"), "beside another");
}
