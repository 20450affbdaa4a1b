//! Makes connection strings fit for people to see.

use url::Url;

/// Returns the URL without its password and its options.
pub(super) fn public(url: &str) -> String {
    let Ok(mut url) = Url::parse(url) else { return "(a URL that does not read)".to_owned() };
    // This cannot fail on a URL with a host, and a URL without one has no password.
    let _ = url.set_password(None);
    url.set_query(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(public("postgres://me:hunter2@db:5432/x?sslmode=require"), "postgres://me@db:5432/x");
        assert_eq!(public("redis://:hunter2@db:6379"), "redis://db:6379");
        assert_eq!(public("redis://127.0.0.1:6379"), "redis://127.0.0.1:6379");
        assert!(!public("hunter2").contains("hunter2"));
        assert_eq!(public("postgres:///x?host=/run&password=hunter2"), "postgres:///x");
    }
}
