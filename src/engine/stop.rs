//! Stop strings, looked for in the text of an answer.

/// Where the first of the stop strings begins in a text.
pub(super) fn find(text: &str, stop: &[String]) -> Option<usize> {
    stop.iter().filter_map(|s| text.find(s.as_str())).min()
}

/// Whether the answer has reached a stop string. Called after every token, so only as many of the last tokens are
/// decoded as could hold one; what they seem to hold is then looked for in the whole text, which may read otherwise.
pub(super) fn reached(tokens: &[u32], stop: &[String], decode: impl Fn(&[u32]) -> String) -> bool {
    let Some(longest) = stop.iter().map(String::len).max() else { return false };
    // A token has at least a byte of text, but for special ones; a few more tokens allow for those.
    let tail = &tokens[tokens.len().saturating_sub(longest + 8)..];
    find(&decode(tail), stop).is_some() && (tail.len() == tokens.len() || find(&decode(tokens), stop).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_stop_counts_and_may_span_tokens() {
        let stop = vec!["\n\n".to_owned(), "END".to_owned()];
        assert_eq!(find("a END \n\n", &stop), Some(2));
        assert_eq!(find("a", &stop), None);
        let decode = |t: &[u32]| t.iter().map(|&b| char::from(b as u8)).collect::<String>();
        let tokens: Vec<u32> = "some longer text, then E".bytes().map(u32::from).collect();
        assert!(!reached(&tokens, &stop, decode));
        let tokens: Vec<u32> = "some longer text, then END".bytes().map(u32::from).collect();
        assert!(reached(&tokens, &stop, decode));
        assert!(!reached(&tokens, &[], decode));
    }
}
