//! Which file of `src` imports which: the paths of `use` declarations and those within code, followed through re-exports
//! to the file that has the definition.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use regex::Regex;

/// A module as the parts of its path within the crate: `["store", "files", "atomic"]`.
pub type Module = Vec<String>;

/// The files of a crate with what they import of each other.
pub struct Imports {
    files: BTreeMap<Module, PathBuf>,
    /// By module: the name that it re-exports, and the path that the name stands for.
    reexports: BTreeMap<Module, BTreeMap<String, Module>>,
    /// By file: the files that it imports from. Tests within a file are left out, as are the re-exports of a `mod.rs`.
    pub arrows: BTreeMap<Module, BTreeSet<Module>>,
}

/// A `use` declaration: whether it is public, and its paths.
struct Use {
    public: bool,
    /// Each as written, with the name under which it is known.
    paths: Vec<(Module, String)>,
}

impl Imports {
    /// Reads every file below `root`.
    pub fn read(root: &Path, paths: &[PathBuf]) -> Self {
        let name = |path: &PathBuf| module(path.strip_prefix(root).unwrap());
        let files: BTreeMap<Module, PathBuf> = paths
            .iter()
            .filter(|p| !p.ends_with("tests.rs") && !p.to_string_lossy().ends_with("_tests.rs"))
            .map(|p| (name(p), p.clone()))
            .collect();
        let mut imports = Self { files, reexports: BTreeMap::new(), arrows: BTreeMap::new() };
        let sources: Vec<(Module, bool, String)> =
            imports.files.iter().map(|(m, p)| (m.clone(), p.ends_with("mod.rs"), code(p))).collect();
        for (module, _, text) in &sources {
            let names = uses(text).0.into_iter().filter(|u| u.public).flat_map(|u| u.paths);
            let known = names.filter_map(|(path, name)| Some((name, imports.absolute(&path, module)?))).collect();
            imports.reexports.insert(module.clone(), known);
        }
        for (module, is_face, text) in &sources {
            let (declared, rest) = uses(text);
            let declared = declared.into_iter().filter(|u| !(u.public && *is_face)).flat_map(|u| u.paths);
            let mut named: Vec<Module> = declared.map(|(path, _)| path).collect();
            named.extend(paths_in_code(&rest));
            let targets = named.iter().filter_map(|path| Some(imports.file_of(&imports.absolute(path, module)?, 0)));
            let targets: BTreeSet<Module> = targets.filter(|t| t != module && !t.is_empty()).collect();
            imports.arrows.insert(module.clone(), targets);
        }
        imports
    }

    /// A path of the crate without `crate`, `super` and `self`; none where it is another crate's or a local name.
    fn absolute(&self, path: &[String], module: &Module) -> Option<Module> {
        let up = path.iter().take_while(|part| *part == "super").count();
        match path[0].as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([module, &path[1..]].concat()),
            "super" if up <= module.len() => Some([&module[..module.len() - up], &path[up..]].concat()),
            child => {
                let below = [module.as_slice(), &[child.to_owned()]].concat();
                self.files.contains_key(&below).then(|| [module, path].concat())
            }
        }
    }

    /// The file that defines what a path names, behind up to eight re-exports.
    fn file_of(&self, path: &[String], depth: u32) -> Module {
        let known = (0..=path.len()).rev().find(|&n| self.files.contains_key(&path[..n]));
        let (module, rest) = path.split_at(known.unwrap_or(0));
        let named = rest.first().and_then(|name| self.reexports.get(module)?.get(name));
        match named {
            Some(target) if depth < 8 => self.file_of(&[target, &rest[1..]].concat(), depth + 1),
            _ => module.to_vec(),
        }
    }

    /// Groups of nodes that import each other in a loop, where `node` says of which node a file is a part.
    pub fn circles(&self, node: impl Fn(&Module) -> Option<Module>) -> Vec<Vec<Module>> {
        let mut arrows: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
        for (from, targets) in &self.arrows {
            let Some(from) = node(from) else { continue };
            let targets = targets.iter().filter_map(&node).filter(|to| *to != from);
            arrows.entry(from.clone()).or_default().extend(targets);
        }
        let reached = |from: &Module| {
            let mut seen: BTreeSet<&Module> = BTreeSet::new();
            let mut open: Vec<&Module> = arrows[from].iter().collect();
            while let Some(next) = open.pop() {
                if seen.insert(next) {
                    open.extend(arrows.get(next).into_iter().flatten());
                }
            }
            seen
        };
        let reach: BTreeMap<&Module, BTreeSet<&Module>> = arrows.keys().map(|from| (from, reached(from))).collect();
        let mut circles: BTreeSet<Vec<Module>> = BTreeSet::new();
        for (from, seen) in &reach {
            let back = |to: &&Module| reach.get(*to).is_some_and(|r| r.contains(*from));
            if seen.contains(*from) {
                circles.insert(seen.iter().copied().filter(back).cloned().collect());
            }
        }
        circles.into_iter().collect()
    }
}

fn module(path: &Path) -> Module {
    let mut parts: Module = path.with_extension("").iter().map(|p| p.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// A file without comments, `pub(in path)` and the tests at its end.
fn code(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let text = Regex::new(r"//[^\n]*").unwrap().replace_all(text, "").into_owned();
    Regex::new(r"pub\(in [^)]*\)").unwrap().replace_all(&text, "pub").into_owned()
}

/// The `use` declarations of a file, and the file without them.
fn uses(text: &str) -> (Vec<Use>, String) {
    let declaration = Regex::new(r"(?m)^[ \t]*(pub(?:\([^)]*\))? +)?use ([^;]+);").unwrap();
    let found = declaration.captures_iter(text);
    let found = found.map(|c| Use { public: c.get(1).is_some(), paths: tree(&c[2]) }).collect();
    (found, declaration.replace_all(text, "").into_owned())
}

/// The paths of a tree such as `a::{b, c::{d, self}, e as f}`.
fn tree(text: &str) -> Vec<(Module, String)> {
    let text = text.trim();
    let Some(open) = text.find('{') else {
        let (path, known) = text.split_once(" as ").unwrap_or((text, ""));
        let mut parts: Module = path.split("::").map(|p| p.trim().to_owned()).collect();
        if parts.len() > 1 && parts.last().is_some_and(|last| last == "self") {
            parts.pop();
        }
        let known = if known.is_empty() { parts[parts.len() - 1].clone() } else { known.trim().to_owned() };
        return vec![(parts, known)];
    };
    let head: Module = text[..open].split("::").map(str::trim).filter(|p| !p.is_empty()).map(str::to_owned).collect();
    let inner = &text[open + 1..text.rfind('}').unwrap()];
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = (at + 1).min(inner.len());
            }
            _ => {}
        }
    }
    let parts = parts.into_iter().filter(|part| !part.trim().is_empty()).flat_map(tree);
    parts.map(|(path, known)| ([head.clone(), path].concat(), known)).collect()
}

/// Paths of two parts or more in what is not a `use` declaration.
fn paths_in_code(text: &str) -> Vec<Module> {
    let path = Regex::new(r"(?:[A-Za-z_]\w*::)+[A-Za-z_]\w*").unwrap();
    let found = path.find_iter(text).filter(|m| !text[..m.start()].ends_with([':', '$', '"']));
    found.map(|m| m.as_str().split("::").map(str::to_owned).collect()).collect()
}
