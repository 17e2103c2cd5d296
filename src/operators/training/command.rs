//! The command of an external trainer, with placeholders for what reflux fills in.

use crate::data::{did_you_mean, quoted};

/// The names that a command may have in braces, and what they stand for.
pub(crate) const PLACEHOLDERS: [(&str, &str); 7] = [
    ("model", "directory of the model to start from"),
    ("pairs", "directory of the rows, a Hive-style Parquet dataset of this iteration"),
    ("reference", "the same of the reference's log-probabilities, which reflux then computes as `dpo` does"),
    ("output", "directory to leave the model in; kept when the program is started again"),
    ("metrics", "file to write metrics to, a JSON object for each optimizer step"),
    ("seed", "the run's seed and the iteration, added"),
    ("iteration", "iteration of the loop, 0 before it"),
];

/// Placeholders without which nothing is trained.
const REQUIRED: [&str; 3] = ["model", "pairs", "output"];

/// A part of an argument.
#[derive(Debug, PartialEq)]
enum ArgumentPart {
    Text(String),
    /// One of [`PLACEHOLDERS`].
    Value(&'static str),
}

/// A program and its arguments.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct CommandTemplate(Vec<Vec<ArgumentPart>>);

impl CommandTemplate {
    /// Parses the words of a command.
    ///
    /// # Errors
    /// A problem, and what to do about it.
    pub fn parse(words: &[String]) -> Result<Self, (String, String)> {
        let command = Self(words.iter().map(|word| parts(word)).collect::<Result<_, _>>()?);
        if words.first().is_none_or(|program| program.trim().is_empty()) {
            let help = "write e.g. command = [\"python\", \"trainers/trl_dpo.py\", \"--model\", \"{model}\", \
                        \"--pairs\", \"{pairs}\", \"--output\", \"{output}\"]";
            return Err(("`command` names no program".into(), help.into()));
        }
        match REQUIRED.iter().find(|name| !command.has(name)) {
            Some(name) => {
                let about = PLACEHOLDERS.iter().find(|(known, _)| known == name).map_or("", |known| known.1);
                Err((
                    format!("`command` does not hand over {{{name}}}"),
                    format!("add an argument with {{{name}}}: {about}"),
                ))
            }
            None => Ok(command),
        }
    }

    /// Whether a placeholder is in the command.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().flatten().any(|part| matches!(part, ArgumentPart::Value(value) if *value == name))
    }

    /// Returns the program, as written.
    pub fn program(&self) -> Option<&str> {
        match self.0.first()?.as_slice() {
            [ArgumentPart::Text(program)] => Some(program),
            _ => None,
        }
    }

    /// Returns the command with every placeholder replaced by its value.
    pub fn fill(&self, value: &dyn Fn(&str) -> String) -> Vec<String> {
        let filled = |part: &ArgumentPart| match part {
            ArgumentPart::Text(text) => text.clone(),
            ArgumentPart::Value(name) => value(name),
        };
        self.0.iter().map(|word| word.iter().map(filled).collect()).collect()
    }
}

impl std::fmt::Display for CommandTemplate {
    /// As it can be typed into a shell, with the placeholders.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<String> = self.fill(&|name| format!("{{{name}}}")).iter().map(|word| shell_word(word)).collect();
        f.write_str(&words.join(" "))
    }
}

/// Quotes a word for the shell unless it is one as it is. Braces around a placeholder need no quotes to be read.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%{}".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { quoted(word) }
}

/// Splits a word at its placeholders. `{{` and `}}` stand for a brace.
fn parts(word: &str) -> Result<Vec<ArgumentPart>, (String, String)> {
    let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), word);
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
            text.push(c);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let Some((name, after)) = after.split_once('}') else {
                let help = "close it with `}`, or write `{{` for a brace";
                return Err((format!("`{word}` opens a brace and does not close it"), help.into()));
            };
            let Some((known, _)) = PLACEHOLDERS.iter().find(|(known, _)| *known == name) else {
                let names = PLACEHOLDERS.map(|(name, _)| name);
                let help = format!("{}; a brace itself is `{{{{`", did_you_mean(name, "there are", &names));
                return Err((format!("`{{{name}}}` in `command` stands for nothing"), help));
            };
            if !text.is_empty() {
                parts.push(ArgumentPart::Text(std::mem::take(&mut text)));
            }
            parts.push(ArgumentPart::Value(known));
            rest = after;
        } else {
            text.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    if !text.is_empty() || parts.is_empty() {
        parts.push(ArgumentPart::Text(text));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<CommandTemplate, (String, String)> {
        CommandTemplate::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn placeholders_are_filled_in_and_braces_stay() {
        let words = ["train", "--from={model}", "{pairs}", "{output}/x", "{{\"lr\": {seed}}}", "", "é{iteration}}"];
        let command = parse(&words).unwrap();
        let filled = command.fill(&|name| format!("<{name}>"));
        assert_eq!(
            filled,
            ["train", "--from=<model>", "<pairs>", "<output>/x", "{\"lr\": <seed>}", "", "é<iteration>}"]
        );
        assert_eq!(command.program(), Some("train"));
        assert!(command.has("seed") && !command.has("metrics"));
        assert_eq!(
            command.to_string(),
            "train --from={model} {pairs} {output}/x '{\"lr\": {seed}}' '' 'é{iteration}}'"
        );
    }

    #[test]
    fn what_is_wrong_with_a_command_is_said() {
        let all = ["{model}", "{pairs}", "{output}"];
        let refused = |words: &[&str]| {
            let (message, help) = parse(&[words, &all[..]].concat()).unwrap_err();
            format!("{message}\n{help}")
        };
        assert_eq!(
            refused(&["train", "{modle}"]),
            "`{modle}` in `command` stands for nothing\ndid you mean `model`? there are: model, pairs, reference, \
             output, metrics, seed, iteration; a brace itself is `{{`"
        );
        assert_eq!(
            refused(&["train", "{model"]),
            "`{model` opens a brace and does not close it\nclose it with `}`, or write `{{` for a brace"
        );
        assert!(refused(&[" "]).starts_with("`command` names no program\n"));
        let (message, help) = parse(&["train", "{model}", "{output}"]).unwrap_err();
        assert_eq!(message, "`command` does not hand over {pairs}");
        assert_eq!(
            help,
            "add an argument with {pairs}: directory of the rows, a Hive-style Parquet dataset of this iteration"
        );
        assert!(parse(&[]).is_err());
    }
}
