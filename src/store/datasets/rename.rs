//! Names that a stranger's file has for our keys and columns.

use serde_json::Map;
use serde_json::Value;

use super::suggest::nearest;
use crate::data::{SCHEMAS, Schema, quoted};
use crate::error::{Error, Result};

/// Which key of a file is read as which of ours. All are renamed at once, so two keys can change places.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rename {
    /// Our name, the file's name.
    pairs: Vec<(String, String)>,
}

impl Rename {
    /// From pairs of our name and the file's.
    pub fn new(pairs: &[(String, String)]) -> Self {
        Self { pairs: pairs.to_vec() }
    }

    /// From texts `a=b`: the key `a` of the file is read as `b`.
    ///
    /// # Errors
    /// A text of another form, a key that is renamed twice, or two keys that become one.
    pub fn parse(texts: &[String]) -> Result<Self> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for text in texts {
            let (theirs, ours) = text.split_once('=').map_or(("", ""), |(a, b)| (a.trim(), b.trim()));
            if theirs.is_empty() || ours.is_empty() {
                return Err(Error::user(format!("--rename {text} is not of the form a=b"))
                    .help("write --rename a=b to read the key `a` of the file as `b`"));
            }
            if theirs == ours {
                return Err(Error::user(format!("--rename {text} has no effect")).help("leave it out"));
            }
            if pairs.iter().any(|pair| pair.1 == theirs) {
                return Err(Error::user(format!("the key `{theirs}` is renamed twice")).help("keep one --rename of it"));
            }
            if let Some((_, other)) = pairs.iter().find(|pair| pair.0 == ours) {
                return Err(Error::user(format!("the keys `{other}` and `{theirs}` are both renamed to `{ours}`"))
                    .help("keep one of the two"));
            }
            pairs.push((ours.to_owned(), theirs.to_owned()));
        }
        Ok(Self { pairs })
    }

    /// Every pair of our name and the file's.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// The names of the file's keys that are renamed.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|pair| pair.1.as_str())
    }

    /// The pairs whose name of ours `wanted` accepts.
    pub fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        Self { pairs: self.pairs.iter().filter(|pair| wanted(&pair.0)).cloned().collect() }
    }

    /// The file's names of a schema's columns.
    ///
    /// # Errors
    /// A pair names a column that the schema does not have.
    pub fn names(&self, schema: &Schema) -> Result<Vec<String>> {
        if let Some((ours, _)) = self.pairs.iter().find(|(ours, _)| schema.columns.iter().all(|c| c.name != ours)) {
            let names: Vec<_> = schema.columns.iter().map(|c| c.name).collect();
            return Err(Error::user(format!("the schema `{}` has no column `{ours}`", schema.name))
                .help(format!("its columns are: {}", names.join(", "))));
        }
        let theirs = |ours: &str| self.pairs.iter().find(|pair| pair.0 == ours).map_or(ours, |pair| &pair.1).to_owned();
        Ok(schema.columns.iter().map(|c| theirs(c.name)).collect())
    }

    /// Renames the keys of a row, which keep their places.
    ///
    /// # Errors
    /// The row has a key already whose name another one is to get.
    pub fn apply(&self, row: Map<String, Value>) -> Result<Map<String, Value>> {
        if !self.sources().any(|theirs| row.contains_key(theirs)) {
            return Ok(row);
        }
        let ours = |theirs: &str| self.pairs.iter().find(|pair| pair.1 == theirs).map(|pair| pair.0.clone());
        let mut renamed = Map::new();
        for (key, value) in row {
            let name = ours(&key).unwrap_or(key);
            if renamed.insert(name.clone(), value).is_some() {
                let theirs = self.pairs.iter().find(|pair| pair.0 == name).map_or("", |pair| &pair.1);
                return Err(Error::user(format!("`{theirs}` cannot be renamed to `{name}`: a row has both keys"))
                    .help(format!(
                        "rename the other key too, for example {} {}",
                        flag(theirs, &name),
                        flag(&name, theirs)
                    )));
            }
        }
        Ok(renamed)
    }

    /// What was meant by a name that neither a format, whose keys are `known`, nor a schema has.
    pub fn slip(&self, known: &[&str]) -> Option<String> {
        let columns = SCHEMAS.iter().flat_map(|schema| schema.columns).map(|column| column.name);
        let names: Vec<&str> = known.iter().copied().chain(columns).collect();
        let unknown = |name: &str| !names.contains(&name) && self.sources().all(|source| source != name);
        let (ours, theirs) = self.pairs.iter().find(|(ours, _)| unknown(ours))?;
        Some(format!("did you mean {}?", flag(theirs, nearest(ours, &names)?)))
    }

    /// The error for a renamed key that no row has; `have` are the keys that rows have.
    pub fn unknown(&self, theirs: &str, file: &str, have: &[&str]) -> Error {
        let ours = self.pairs.iter().find(|pair| pair.1 == theirs).map_or("", |pair| &pair.0);
        let free: Vec<&str> = have.iter().copied().filter(|key| self.sources().all(|source| source != *key)).collect();
        let error = Error::user(format!("no row of `{file}` has the key `{theirs}`, which --rename names"));
        match nearest(theirs, &free) {
            Some(near) if near == ours => {
                error.help(format!("rows have the key `{ours}` already: leave {} out", flag(theirs, ours)))
            }
            Some(near) => error.help(format!("did you mean {}?", flag(near, ours))),
            None => error.help(format!("there are: {}", have.iter().take(30).copied().collect::<Vec<_>>().join(", "))),
        }
    }
}

/// The flag that reads a key as another, as it is typed.
pub(crate) fn flag(theirs: &str, ours: &str) -> String {
    format!("--rename {}", quoted(&format!("{theirs}={ours}")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(texts: &[&str]) -> Result<Rename> {
        Rename::parse(&texts.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn keys_are_renamed_in_their_places() {
        let rename = parse(&["q=prompt", "prompt=q"]).unwrap();
        let Value::Object(row) = json!({"id": 1, "q": "a", "prompt": "b"}) else { unreachable!() };
        assert_eq!(Value::from(rename.apply(row).unwrap()).to_string(), r#"{"id":1,"prompt":"a","q":"b"}"#);
        let Value::Object(row) = json!({"q": "a", "prompt": "b"}) else { unreachable!() };
        let error = parse(&["q=prompt"]).unwrap().apply(row).unwrap_err();
        assert_eq!(error.help_text().unwrap().split("example ").nth(1), Some("--rename q=prompt --rename prompt=q"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (texts, why) in [
            (&["a"][..], "not of the form a=b"),
            (&["=b"], "not of the form"),
            (&["a=a"], "has no effect"),
            (&["a=b", "a=c"], "renamed twice"),
            (&["a=c", "b=c"], "both renamed to `c`"),
        ] {
            assert!(parse(texts).unwrap_err().to_string().contains(why), "{texts:?}");
        }
        let rename = parse(&["instrction=prompt"]).unwrap();
        let help = |have: &[&str]| rename.unknown("instrction", "x", have).help_text().unwrap().to_owned();
        assert_eq!(help(&["id", "instruction"]), "did you mean --rename instruction=prompt?");
        assert_eq!(help(&["id"]), "there are: id");
    }
}
