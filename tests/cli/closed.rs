//! Outputs that nobody reads any more, or that are full: messages that cannot be printed stop nothing, results that cannot be
//! printed are an error.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Where a stream of a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    Read,
    /// A pipe whose reader has gone away.
    Gone,
    /// A device without room.
    Full,
    /// Nowhere: the descriptor is closed.
    Closed,
}

impl To {
    fn stdio(self) -> Stdio {
        match self {
            To::Read | To::Closed => Stdio::piped(),
            To::Gone => {
                let (reader, writer) = std::io::pipe().unwrap();
                drop(reader);
                writer.into()
            }
            To::Full => File::options().write(true).open("/dev/full").unwrap().into(),
        }
    }
    fn redirection(self, stream: u8) -> String {
        if self == To::Closed { format!(" {stream}>&-") } else { String::new() }
    }
}

fn reflux(dir: &Path, args: &[&str], out: To, err: To) -> (Option<i32>, String, String) {
    let script = format!("\"$0\" \"$@\"{}{}", out.redirection(1), err.redirection(2));
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).arg(env!("CARGO_BIN_EXE_reflux")).args(args);
    command.current_dir(dir).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(out.stdio()).stderr(err.stdio());
    let Output { status, stdout, stderr } = command.output().unwrap();
    // Some results are bytes.
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

/// A pipeline without training, with a step that warns, and a finished run of it.
fn world() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(temp.path().join(name), text).unwrap();
    write("script.toml", "[[answer]]\ntext = [\"Yes.\\nScore: 4\", \"No.\\nScore: 1\"]\n");
    write(
        "p.toml",
        "[pipeline]\nname = \"p\"\nmicrobatch = 2\n[model.s]\nscript = \"script.toml\"\n[model.unused]\nscript = \"script.toml\"\n\
         [step.prompts]\nop = \"listworld\"\ndata = \"requests\"\nrows = 6\n\
         [step.answers]\nop = \"generate\"\nfrom = \"prompts\"\nmodel = \"s\"\nsamples = 2\n\
         [step.scores]\nop = \"judge\"\nfrom = \"answers\"\nmodel = \"s\"\nsamples = 1\n\
         [step.pairs]\nop = \"select\"\nfrom = \"scores\"\n",
    );
    write("bad.toml", "[pipeline]\nnme = 1\n");
    write("rows.jsonl", "{\"instruction\": \"a\", \"output\": \"b\"}\n{\"instruction\": 3}\n");
    let m0 = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld/m0");
    std::os::unix::fs::symlink(m0, temp.path().join("m0")).unwrap();
    let (code, _, err) = reflux(temp.path(), &["run", "p.toml", "-q"], To::Read, To::Read);
    assert_eq!(code, Some(0), "{err}");
    temp
}

/// Commands, their exit codes, and whether they print a result.
const COMMANDS: &[(&[&str], i32, bool)] = &[
    (&["run", "p.toml", "--name", "again", "--fresh", "-v"], 0, true),
    (&["run", "p.toml", "--name", "again", "--fresh", "--log", "json"], 0, true),
    (&["run", "bad.toml"], 2, false),
    (&["check", "p.toml"], 0, true),
    (&["check", "bad.toml"], 2, false),
    (&["verify", "p"], 0, true),
    (&["verify", "p", "--json"], 0, true),
    (&["verify", "nosuch"], 2, false),
    (&["ls", "p"], 0, true),
    (&["show", "p/answers"], 0, true),
    (&["show", "p/answers", "--format", "json"], 0, true),
    (&["show", "p/answers", "--format", "csv"], 0, true),
    (&["show", "p/answers", "--format", "arrow"], 0, true),
    (&["show", "p/answers", "--format", "parquet"], 0, true),
    (&["show", "nosuch"], 2, false),
    (&["import", "rows.jsonl", "--bad-rows", "skip"], 0, true),
    (&["import", "rows.jsonl"], 2, false),
    (&["generate", "m0", "list", "--max-tokens", "4"], 0, true),
    (&["generate", "m0", "list", "--max-tokens", "4", "--json", "--log", "json"], 0, true),
    (&["generate", "m0", "--file", "nosuch"], 2, false),
    (&["eval", "drift", "p"], 0, true),
    (&["eval", "drift", "nosuch"], 2, false),
    (&["logprobs", "m0", "nosuch"], 2, false),
    (&["explain", "p.toml"], 0, true),
    (&["schema"], 0, true),
    (&["--help"], 0, true),
    (&["--version"], 0, true),
    (&["frobnicate"], 2, false),
];

#[test]
fn messages_that_nobody_reads_stop_nothing() {
    let world = world();
    for (args, code, _) in COMMANDS {
        let (got, usual, err) = reflux(world.path(), args, To::Read, To::Read);
        assert_eq!(got, Some(*code), "{args:?}: {err}");
        for to in [To::Gone, To::Full, To::Closed] {
            let (got, out, _) = reflux(world.path(), args, To::Read, to);
            assert_eq!(got, Some(*code), "{args:?} with its messages {to:?}");
            // Only how long it took may differ.
            assert_eq!(out.lines().count(), usual.lines().count(), "{args:?} with its messages {to:?}: {out}");
        }
    }
    let manifest = std::fs::read_to_string(world.path().join("runs/again/manifest.jsonl")).unwrap();
    assert!(manifest.contains("finished"), "{manifest}");
}

#[test]
fn results_that_nobody_reads_are_no_error_and_results_without_room_are_one() {
    let world = world();
    for (args, code, prints) in COMMANDS {
        for to in [To::Gone, To::Closed] {
            let (got, _, err) = reflux(world.path(), args, to, To::Read);
            assert_eq!(got, Some(*code), "{args:?} with its results {to:?}: {err}");
        }
        let (got, _, err) = reflux(world.path(), args, To::Full, To::Read);
        let want = if *prints { 1 } else { *code };
        assert_eq!(got, Some(want), "{args:?} with its results full: {err}");
        assert_eq!(err.contains("standard output: No space left"), *prints, "{args:?}: {err}");
        let (got, ..) = reflux(world.path(), args, To::Full, To::Full);
        assert_eq!(got, Some(want), "{args:?} with both full");
    }
}

#[test]
fn a_reader_that_goes_away_in_the_middle_ends_neither_the_run_nor_its_report() {
    let world = world();
    // Both streams into one pipe, of which three lines are read.
    let script = "\"$0\" run p.toml --name short --fresh -v 2>&1 | head -3 >/dev/null";
    let status =
        Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_reflux")]).current_dir(world.path()).status();
    assert!(status.unwrap().success());
    let manifest = std::fs::read_to_string(world.path().join("runs/short/manifest.jsonl")).unwrap();
    assert!(manifest.lines().last().unwrap().ends_with("\"kind\":\"finished\"}"), "{manifest}");
}
