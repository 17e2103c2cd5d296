//! Renaming of a file's keys and columns.

use serde_json::Map;
use serde_json::Value;

use super::suggest::nearest;
use crate::data::{SCHEMAS, Schema, quoted};
use crate::error::{Error, Result};

/// Mapping from a file's keys to ours. All keys are renamed at once, so two keys can be swapped.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rename {
    /// Pairs of our name and the file's name.
    pairs: Vec<(String, String)>,
}

impl Rename {
    /// A mapping from pairs of our name and the file's name.
    pub fn new(pairs: &[(String, String)]) -> Self {
        Self { pairs: pairs.to_vec() }
    }

    /// Parses texts `a=b`, which read the file's key `a` as `b`.
    ///
    /// # Errors
    /// A text has another form, a key is renamed twice, or two keys get the same name.
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

    /// All pairs of our name and the file's name.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.pairs
    }

    /// The file's names of the renamed keys.
    pub fn sources(&self) -> impl Iterator<Item = &str> {
        self.pairs.iter().map(|pair| pair.1.as_str())
    }

    /// A mapping of only the keys whose new name is `wanted`.
    pub fn only(&self, wanted: impl Fn(&str) -> bool) -> Self {
        Self { pairs: self.pairs.iter().filter(|pair| wanted(&pair.0)).cloned().collect() }
    }

    /// The file's names of a schema's columns.
    ///
    /// # Errors
    /// A column is not in the schema.
    pub fn names(&self, schema: &Schema) -> Result<Vec<String>> {
        if let Some((ours, _)) = self.pairs.iter().find(|(ours, _)| schema.columns.iter().all(|c| c.name != ours)) {
            let names: Vec<_> = schema.columns.iter().map(|c| c.name).collect();
            return Err(Error::user(format!("the schema `{}` has no column `{ours}`", schema.name))
                .help(format!("its columns are: {}", names.join(", "))));
        }
        let theirs = |ours: &str| self.pairs.iter().find(|pair| pair.0 == ours).map_or(ours, |pair| &pair.1).to_owned();
        Ok(schema.columns.iter().map(|c| theirs(c.name)).collect())
    }

    /// Renames the keys of a row and keeps their order.
    ///
    /// # Errors
    /// The row already has a key with the new name.
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

    /// A suggestion for a new name that is in no schema and not a `known` key of a format.
    pub fn slip(&self, known: &[&str]) -> Option<String> {
        let columns = SCHEMAS.iter().flat_map(|schema| schema.columns).map(|column| column.name);
        let names: Vec<&str> = known.iter().copied().chain(columns).collect();
        let unknown = |name: &str| !names.contains(&name) && self.sources().all(|source| source != name);
        let (ours, theirs) = self.pairs.iter().find(|(ours, _)| unknown(ours))?;
        Some(format!("did you mean {}?", flag(theirs, nearest(ours, &names)?)))
    }

    /// The error for a renamed key that no row has; `have` are the keys of the rows.
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

/// The flag that renames a key, as the user has to type it.
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
