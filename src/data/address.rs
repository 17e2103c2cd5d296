//! Addresses of servers, as pipeline files and connections read them.

use std::net::Ipv6Addr;

/// The problem of a server's address, in words that follow it; none for one such as `http://10.0.0.1:8000/v1`.
pub fn address_problem(url: &str) -> Option<&'static str> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let Some(rest) = rest else { return Some("does not begin with http:// or https://") };
    if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some("has a blank or control character");
    }
    if url.contains('\\') {
        return Some("has a backslash");
    }
    if url.contains(['?', '#']) {
        return Some("has a query");
    }
    let host = rest.split('/').next().unwrap_or_default();
    if host.contains('@') {
        return Some("has a user name or password; the key goes into an environment variable, see `key`");
    }
    let (host, port) = match host.strip_prefix('[') {
        Some(six) => match six.split_once(']') {
            Some((six, port)) if six.parse::<Ipv6Addr>().is_ok() => {
                (six, port.strip_prefix(':').or(port.is_empty().then_some("80")))
            }
            _ => return Some("has an IPv6 address that cannot be read"),
        },
        None => match host.split_once(':') {
            Some((_, port)) if port.contains(':') => return Some("has an IPv6 address without brackets, as in [::1]"),
            Some((host, port)) => (host, Some(port)),
            None => (host, Some("80")),
        },
    };
    if host.is_empty() {
        return Some("has no host");
    }
    let named = |c: char| c.is_alphanumeric() || "-._:".contains(c);
    if !host.chars().all(named) {
        return Some("has a host that cannot be read");
    }
    // Rust reads `+80` as a number too.
    let port = port.filter(|port| port.bytes().all(|b| b.is_ascii_digit())).and_then(|port| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) { Some("has a port that is not a number from 1 to 65535") } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_refused() {
        for good in [
            "http://127.0.0.1:8000/v1",
            "https://api.example.com/v1",
            "http://[::1]:80",
            "http://[fe80::1]/v1",
            "http://my_host.local:1/",
            "http://h\u{e4}user.example/v1",
        ] {
            assert_eq!(address_problem(good), None, "{good}");
        }
        for (bad, words) in [
            ("", "begin with http"),
            ("ftp://x/v1", "begin with http"),
            ("http://", "no host"),
            ("http://:80/v1", "no host"),
            ("http:///v1", "no host"),
            ("http://[::1/v1", "IPv6"),
            ("http://[::g]/v1", "IPv6"),
            ("http://::1/v1", "brackets"),
            ("http://a:99999/v1", "port"),
            ("http://a:0/v1", "port"),
            ("http://a:/v1", "port"),
            ("http://a:+80/v1", "port"),
            ("http://[::1]80/v1", "port"),
            ("http://a b/v1", "blank"),
            ("http://a/v1\t", "blank"),
            ("http://me:pw@a/v1", "user name"),
            ("http://a/v1?key=x", "query"),
            ("http://a\\b", "backslash"),
            ("http://a%20b/", "cannot be read"),
        ] {
            let problem = address_problem(bad).unwrap_or_else(|| panic!("{bad} is taken"));
            assert!(problem.contains(words), "{bad}: {problem}");
        }
    }
}
