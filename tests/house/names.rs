//! One name, one thing: a reader who searches for a type's name finds one type.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::sources;

/// Names that several files give to a type, each with the reason.
const DOUBLED: &[(&str, &str)] = &[
    ("Args", "clap's word for the flags of a command: one in each file of `cli`, and used as `run::Args`"),
    ("Result", "an alias of std's with an error type of the folder's own, as is usual"),
];

/// Names of types by file. Tests, and types inside `impl` blocks, are left out.
fn types(root: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    sources(root, &mut files);
    let tests = regex::Regex::new(r"#\[cfg\(test\)\]\s*(#\[[^\]]*\]\s*)*mod \w+ \{").unwrap();
    let item = regex::Regex::new(r"(?m)^(\s*)(?:pub(?:\([^)]*\))? )?(struct|enum|trait|type) (\w+)").unwrap();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in files.iter().filter(|path| !path.ends_with("tests.rs")) {
        let text = std::fs::read_to_string(path).unwrap();
        let code = tests.find(&text).map_or(text.as_str(), |at| &text[..at.start()]);
        for named in item.captures_iter(code) {
            // An indented `type` belongs to a trait.
            if &named[2] == "type" && named[1].contains(' ') {
                continue;
            }
            let file = path.strip_prefix(root).unwrap().display().to_string();
            found.entry(named[3].to_owned()).or_default().insert(file);
        }
    }
    found
}

#[test]
fn a_type_shares_its_name_with_no_other() {
    let types = types(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(types.len() > 800, "only {} types were found", types.len());
    let doubled: Vec<_> = types.iter().filter(|(_, files)| files.len() > 1).collect();
    for (name, files) in &doubled {
        let known = DOUBLED.iter().any(|(word, _)| word == name);
        assert!(known, "`{name}` is a type in {files:?}: give all but one a more exact name");
    }
    for (name, _) in DOUBLED {
        assert!(doubled.iter().any(|(word, _)| word == name), "`{name}` is not doubled: take it out of the list");
    }
}
