//! `reflux export`: what is written is read back, is llama.cpp's by every key, and appears whole or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use reflux::model::formats::export::{Export, Exported, GgufType};
use reflux::model::{LoraConfig, Model};
use serde_json::{Value, json};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens")
}
fn golden(name: &str) -> PathBuf {
    goldens().join("model").join(name)
}
fn export(from: &Path, to: &Path, kind: GgufType) -> reflux::error::Result<Exported> {
    let model = Export::open(from, kind)?;
    reflux::store::fill_output(to, |file| model.write(file))
}
fn load(path: &Path) -> Model {
    Model::load(path, &Device::Cpu, DType::F32, false).unwrap()
}
/// Tables of a GGUF file, read by themselves: metadata as `[type, value]`, and name, ggml type, dimensions and offset of
/// each tensor; then where the data begin.
struct Tables {
    metadata: BTreeMap<String, Value>,
    tensors: Vec<(String, u64, Vec<u64>, u64)>,
    data: usize,
}
struct Bytes<'a>(&'a [u8], usize);
impl Bytes<'_> {
    fn take(&mut self, n: usize) -> &[u8] {
        self.1 += n;
        &self.0[self.1 - n..self.1]
    }
    fn int(&mut self, n: usize) -> u64 {
        self.take(n).iter().rev().fold(0, |all, b| all << 8 | u64::from(*b))
    }
    fn text(&mut self) -> String {
        let n = self.int(8) as usize;
        String::from_utf8(self.take(n).to_vec()).unwrap()
    }
    fn value(&mut self) -> Value {
        match self.int(4) {
            4 => json!(["UINT32", self.int(4)]),
            6 => json!(["FLOAT32", f64::from(f32::from_bits(self.int(4) as u32))]),
            7 => json!(["BOOL", self.int(1) == 1]),
            8 => json!(["STRING", self.text()]),
            9 => {
                let (kind, n) = (self.int(4), self.int(8));
                let mut hash = 0xcbf2_9ce4_8422_2325u64;
                for _ in 0..n {
                    let bytes = match kind {
                        8 => [self.text().as_bytes(), b"\0"].concat(),
                        5 | 6 => self.take(4).to_vec(),
                        other => panic!("an array of type {other}"),
                    };
                    bytes.iter().for_each(|b| hash = (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3));
                }
                let name = [(8, "STRING[]"), (5, "INT32[]"), (6, "FLOAT32[]")].iter().find(|k| k.0 == kind).unwrap().1;
                json!([name, {"length": n, "fnv": format!("{hash:016x}")}])
            }
            other => panic!("a value of type {other}"),
        }
    }
}
fn tables(path: &Path) -> Tables {
    let file = fs::read(path).unwrap();
    let mut b = Bytes(&file, 0);
    assert_eq!((b.int(4), b.int(4)), (u64::from(u32::from_le_bytes(*b"GGUF")), 3));
    let (n, pairs) = (b.int(8), b.int(8));
    let metadata: BTreeMap<String, Value> = (0..pairs).map(|_| (b.text(), b.value())).collect();
    assert_eq!(metadata.len() as u64, pairs);
    let tensor = |b: &mut Bytes<'_>| {
        let name = b.text();
        let dims = b.int(4);
        let dims: Vec<u64> = (0..dims).map(|_| b.int(8)).collect();
        (name, b.int(4), dims, b.int(8))
    };
    let tensors: Vec<_> = (0..n).map(|_| tensor(&mut b)).collect();
    assert!(tensors.iter().all(|t| t.3 % 32 == 0 && t.0.len() < 64));
    Tables { metadata, tensors, data: b.1.next_multiple_of(32) }
}

/// Exports a golden model into a new directory.
fn exported(name: &str, kind: GgufType) -> (tempfile::TempDir, PathBuf, Exported) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.gguf");
    let made = export(&golden(name), &path, kind).unwrap();
    assert_eq!(made.bytes, fs::metadata(&path).unwrap().len());
    (dir, path, made)
}

/// Texts and conversations of the golden have the same ids in both models.
fn same_tokens(name: &str, a: &Model, b: &Model) {
    let json: Value = serde_json::from_slice(&fs::read(golden(name).join("golden.json")).unwrap()).unwrap();
    let texts = json["texts"].as_array().unwrap();
    assert!(texts.len() > 20);
    for text in texts {
        let text = text["text"].as_str().unwrap();
        let (a, b) = (a.tokenizer.encode_text(text).unwrap(), b.tokenizer.encode_text(text).unwrap());
        assert_eq!(a, b, "{name}: {text:?}");
        // What a golden decodes to is tested elsewhere.
    }
    assert_eq!(a.tokenizer.chat_template(), b.tokenizer.chat_template());
    for chat in json["chats"].as_array().unwrap() {
        let messages: Vec<reflux::model::Message> = serde_json::from_value(chat["messages"].clone()).unwrap();
        let ids = |m: &Model| m.tokenizer.encode_chat(&messages, true).ok();
        assert_eq!(ids(a), ids(b), "{name}: {messages:?}");
    }
    let ends = |m: &Model| (m.tokenizer.eos_ids().to_vec(), m.tokenizer.end_of_turn(), m.tokenizer.bos_id());
    assert_eq!(ends(a), ends(b));
}

#[test]
fn f32_comes_back_bit_by_bit() {
    for name in ["smollm2", "llama2", "llama3"] {
        let (_dir, path, made) = exported(name, GgufType::F32);
        assert_eq!(made.notes, Vec::<String>::new());
        let (there, back) = (load(&golden(name)), load(&path));
        assert_eq!(there.hash, back.hash, "{name}");
        let mut config = back.llama.config().clone();
        // One of several tokens that end a text; the others are the tokenizer's.
        config.eos_token_id.clone_from(&there.llama.config().eos_token_id);
        config.head_dim = there.llama.config().head_dim;
        config.num_key_value_heads = there.llama.config().num_key_value_heads;
        assert_eq!(config, *there.llama.config());
        assert_eq!(
            (back.llama.config().head_dim(), back.llama.config().kv_heads()),
            (config.head_dim(), config.kv_heads())
        );
        same_tokens(name, &there, &back);
        // And once more from the GGUF itself, which gives the same file but for its name.
        let again = path.with_file_name("again.gguf");
        export(&path, &again, GgufType::F32).unwrap();
        assert_eq!(load(&again).hash, there.hash);
        let named = |path: &Path| {
            let mut t = tables(path).metadata;
            t.remove("general.name").unwrap();
            t
        };
        assert_eq!(named(&again), named(&path));
    }
}

#[test]
fn sentencepiece_comes_back() {
    // llama.cpp's own scores become merges when the file is read, and scores again when it is written.
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from.gguf");
    fs::copy(golden("sentencepiece").join("model.golden-gguf"), &from).unwrap();
    let path = dir.path().join("out.gguf");
    export(&from, &path, GgufType::F32).unwrap();
    let (there, back) = (load(&from), load(&path));
    assert_eq!(there.hash, back.hash);
    same_tokens("sentencepiece", &there, &back);
    let (a, b) = (tables(&from).metadata, tables(&path).metadata);
    for key in ["model", "tokens", "token_type", "add_space_prefix", "bos_token_id", "eos_token_id", "unknown_token_id"]
    {
        let key = format!("tokenizer.ggml.{key}");
        assert_eq!(a.get(&key), b.get(&key), "{key}");
    }
    // The same by way of a Hugging Face directory.
    back.save(&dir.path().join("hf")).unwrap();
    export(&dir.path().join("hf"), &path, GgufType::F32).unwrap();
    same_tokens("sentencepiece", &there, &load(&path));
}

#[test]
fn smaller_types_are_within_their_steps() {
    for name in ["smollm2", "llama3"] {
        let there = load(&golden(name));
        let weights = there.llama.weights();
        for kind in [GgufType::F16, GgufType::Q8_0] {
            let (_dir, path, made) = exported(name, kind);
            let kinds: BTreeMap<String, u64> = tables(&path).tensors.into_iter().map(|t| (t.0, t.1)).collect();
            let back = load(&path);
            let (mut quantised, mut halves) = (0, 0);
            for (key, w) in weights {
                let read = |w: &Tensor| w.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                let (a, b) = (read(w), read(&back.llama.weights()[key]));
                let inner = *w.dims().last().unwrap();
                if w.rank() == 1 {
                    assert_eq!(a, b, "{key}");
                } else if kind == GgufType::Q8_0 && inner % 32 == 0 {
                    quantised += 1;
                    for (a, b) in a.chunks(32).zip(b.chunks(32)) {
                        let largest = a.iter().fold(0f32, |m, x| m.max(x.abs()));
                        // Half a step, and the step's own rounding to f16 (2^-11) times up to 127 of them.
                        let bound = largest / 127. * 0.5 + largest * 4.9e-4 + 1e-7;
                        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() <= bound), "{key}");
                    }
                    assert_ne!(a, b);
                } else {
                    halves += 1;
                    assert!(a.iter().zip(&b).all(|(a, b)| half::f16::from_f32(*a).to_f32() == *b), "{key}");
                }
            }
            assert_eq!(kinds.values().filter(|k| **k == 8).count(), quantised);
            assert_eq!(kinds.values().filter(|k| **k == 1).count(), halves);
            if kind == GgufType::Q8_0 {
                // Rows of 24 cannot be cut into blocks of 32.
                let note = format!("{halves} matrices are f16");
                assert!(if halves > 0 { made.notes[0].starts_with(&note) } else { made.notes.is_empty() });
                assert!(quantised > 0 || name == "smollm2");
            }
        }
    }
}

/// Every key that llama.cpp's converter gives SmolLM2 is there with its type.
#[test]
fn metadata_are_llama_cpps() {
    let text = fs::read(goldens().join("export/smollm2.json")).unwrap();
    let want: BTreeMap<String, Value> = serde_json::from_slice(&text).unwrap();
    let (_dir, path, _) = exported("smollm2", GgufType::F32);
    let got = tables(&path).metadata;
    for (key, value) in &want {
        // The small model has no token of these.
        if !["tokenizer.ggml.unknown_token_id", "tokenizer.ggml.padding_token_id"].contains(&key.as_str()) {
            assert_eq!(got.get(key).unwrap_or_else(|| panic!("`{key}` is missing"))[0], value[0], "{key}");
        }
    }
}

/// The real model's file, read and written again, has the values, names and dimensions that llama.cpp's converter gave it.
#[test]
#[ignore = "needs REFLUX_SMOLLM2, the path of SmolLM2-135M-Instruct.Q4_1.gguf (pipelines/get-smollm2.sh)"]
fn metadata_of_smollm2_are_llama_cpps() {
    let gguf = std::env::var("REFLUX_SMOLLM2").expect("REFLUX_SMOLLM2 names the model's file");
    let text = fs::read(goldens().join("export/smollm2.json")).unwrap();
    let want: BTreeMap<String, Value> = serde_json::from_slice(&text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.gguf");
    export(Path::new(&gguf), &path, GgufType::Q8_0).unwrap();
    let Tables { metadata: mut got, tensors, .. } = tables(&path);
    for (key, value) in &want {
        assert_eq!(got.remove(key).as_ref(), Some(value), "{key}");
    }
    let more: Vec<&String> = got.keys().collect();
    assert_eq!(more, ["general.file_type", "general.name"], "and no others");
    // Names and dimensions of tensors too.
    let places = |all: Vec<(String, u64, Vec<u64>, u64)>| -> BTreeMap<String, Vec<u64>> {
        all.into_iter().map(|t| (t.0, t.2)).collect()
    };
    assert_eq!(places(tensors), places(tables(Path::new(&gguf)).tensors));
}

#[test]
fn llama3s_frequencies_are_llama_cpps() {
    // model.golden-gguf was written with the formula of llama.cpp's converter.
    let bytes = |path: &Path| {
        let t = tables(path);
        let info = t.tensors.iter().find(|t| t.0 == "rope_freqs.weight").unwrap();
        let begin = t.data + info.3 as usize;
        let file = fs::read(path).unwrap();
        assert_eq!(info.1, 0);
        let n = info.2[0] as usize;
        (0..n)
            .map(|i| f32::from_le_bytes(file[begin + 4 * i..begin + 4 * i + 4].try_into().unwrap()))
            .collect::<Vec<_>>()
    };
    let (_dir, path, _) = exported("llama3", GgufType::F32);
    let (ours, theirs) = (bytes(&path), bytes(&golden("llama3").join("model.golden-gguf")));
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= 1e-6 * b), "{ours:?} {theirs:?}");
    assert!(ours.contains(&1.) && ours.iter().any(|f| *f > 7.9));
}

#[test]
fn an_adapter_is_exported_merged() {
    let dir = tempfile::tempdir().unwrap();
    let model = load(&golden("smollm2"));
    let base = model.hash.clone();
    let model = model.with_lora(&LoraConfig { rank: 2, ..LoraConfig::default() }, 1).unwrap();
    for (name, var) in model.llama.variables() {
        if name.ends_with("lora_B.weight") {
            var.set(&(var.ones_like().unwrap() * 0.01).unwrap()).unwrap();
        }
    }
    model.save_lora(golden("smollm2").to_str(), dir.path()).unwrap();
    let path = dir.path().join("out.gguf");
    export(dir.path(), &path, GgufType::F32).unwrap();
    assert_eq!(load(&path).hash, model.current_hash().unwrap());
    assert_ne!(load(&path).hash, base);
}

#[test]
fn what_gguf_cannot_say_is_refused() {
    let out = tempfile::tempdir().unwrap();
    let refused = |name: &str, change: &dyn Fn(&mut Value), words: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(golden(name)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
        let path = dir.path().join("tokenizer.json");
        let mut json: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut json);
        fs::write(&path, json.to_string()).unwrap();
        let message = export(dir.path(), &out.path().join("x.gguf"), GgufType::F32).unwrap_err().to_string();
        for word in words {
            assert!(message.contains(word), "`{word}` is not in: {message}");
        }
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "no file, whole or in part");
    };
    refused("llama3", &|t| t["pre_tokenizer"] = json!({"type": "Whitespace"}), &["no name for its pre_tokenizer"]);
    refused("llama3", &|t| t["model"]["ignore_merges"] = json!(false), &["ignore_merges", "llama-bpe"]);
    refused("llama3", &|t| t["normalizer"] = json!({"type": "Lowercase"}), &["normalizer", "Lowercase"]);
    refused("llama3", &|t| t["added_tokens"][0]["rstrip"] = json!(true), &["rstrip", "begin_of_text"]);
    // SentencePiece would merge what this list does not.
    refused("llama2", &|t| drop(t["model"]["merges"].as_array_mut().unwrap().pop()), &["do not merge, though"]);
    refused("llama2", &|t| t["normalizer"] = json!({"type": "NFKC"}), &["not SentencePiece's"]);
    // llama.cpp has a space before a text everywhere, this tokenizer at the very start only: exported with a note.
    let (_dir, path, made) = exported("tinyllama", GgufType::F32);
    assert!(made.notes.len() == 1 && made.notes[0].contains("only at the start of a text"), "{:?}", made.notes);
    let (there, back) = (load(&golden("tinyllama")), load(&path));
    assert_eq!(there.hash, back.hash);
    let ids = |m: &Model| m.tokenizer.encode_text("the cat sat").unwrap();
    assert_eq!(ids(&there), ids(&back));
    let listworld = Path::new(env!("CARGO_MANIFEST_DIR")).join("pipelines/listworld/m0");
    let message = export(&listworld, &out.path().join("x.gguf"), GgufType::F32).unwrap_err();
    assert!(message.to_string().contains("WordLevel"), "{message}");
    assert!(message.help_text().is_some());
}

#[test]
fn the_command_writes_whole_files_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
        let output = command.current_dir(dir.path()).arg("export").arg(golden("smollm2")).args(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = run(&["m.gguf"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    assert!(out.starts_with("m.gguf: ") && out.contains("tensors"), "{out}");
    let first = fs::read(dir.path().join("m.gguf")).unwrap();
    let (code, _, err) = run(&["m.gguf", "--type", "q8_0"]);
    assert!(code == Some(2) && err.contains("already exists") && err.contains("--force"), "{err}");
    assert_eq!(fs::read(dir.path().join("m.gguf")).unwrap(), first);
    let (code, out, err) = run(&["m.gguf", "--type", "q8_0", "--force"]);
    assert!(code == Some(0) && err.contains("note: ") && out.contains("MB"), "{err}");
    assert!(fs::read(dir.path().join("m.gguf")).unwrap().len() < first.len());
    assert_eq!(run(&["m.bin"]).0, Some(2));
    // A folder on the way is made.
    assert_eq!(run(&["new/m.gguf"]).0, Some(0));
    assert_eq!(fs::read(dir.path().join("new/m.gguf")).unwrap(), first);
    fs::remove_dir_all(dir.path().join("new")).unwrap();
    assert_eq!(run(&["m.gguf/m.gguf"]).0, Some(1));
    assert_eq!(run(&["m2.gguf", "--type", "q4"]).0, Some(2));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    // The same model gives the same bytes.
    run(&["again.gguf"]);
    assert_eq!(fs::read(dir.path().join("again.gguf")).unwrap(), first);
}

/// What an export that was killed left is removed by the next one into that folder, and nothing else is.
#[test]
fn what_a_killed_export_left_is_removed() {
    let temp = tempfile::tempdir().unwrap();
    let base = golden("smollm2");
    let adapter = temp.path().join("adapter");
    let adapted = load(&base).with_lora(&LoraConfig { rank: 2, ..LoraConfig::default() }, 1).unwrap();
    adapted.save_lora(base.to_str(), &adapter).unwrap();
    let model = [(&base, "m.gguf", "", "m.gguf"), (&adapter, "mine", "mine", "adapter_model.safetensors")];
    for (from, out, folder, file) in model {
        let dir = temp.path().join(format!("of-{out}"));
        fs::create_dir_all(dir.join(folder)).unwrap();
        let export = |fault: &str| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_reflux"));
            command.current_dir(&dir).arg("export").arg(from).args([out, "--force"]);
            command.env("REFLUX_FAULT", fault).output().unwrap().status
        };
        let names = || {
            let all = fs::read_dir(dir.join(folder)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = all.collect();
            names.sort();
            names
        };
        let theirs = format!(".{file}.writing");
        fs::write(dir.join(folder).join(&theirs), "somebody else's").unwrap();
        for point in ["after-write", "after-fsync"] {
            assert!(export(point).code().is_none(), "{out}: killed at {point}");
            let left = names();
            // The second removed what the first had left.
            assert!(left.len() == 2 && left.contains(&theirs), "{left:?}");
            assert!(left.iter().any(|name| name.starts_with(&format!(".{file}.reflux-"))), "{left:?}");
        }
        assert!(export("").success());
        let mut whole = vec![theirs.clone(), file.to_owned()];
        whole.extend((from == &adapter).then(|| "adapter_config.json".to_owned()));
        whole.sort();
        assert_eq!(names(), whole);
        assert_eq!(fs::read_to_string(dir.join(folder).join(theirs)).unwrap(), "somebody else's");
    }
}
