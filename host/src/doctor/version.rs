//! Versions of servers.

/// Major, minor and patch level.
pub(super) type Version = (u32, u32, u32);

/// Reads `8.0.2`; what is missing is 0.
pub(super) fn parse(text: &str) -> Option<Version> {
    let mut parts = text.split(['.', '-', '+', ' ']).map_while(|part| part.parse().ok());
    Some((parts.next()?, parts.next().unwrap_or(0), parts.next().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, version) in [
            ("8.0.2", Some((8, 0, 2))),
            ("7.0", Some((7, 0, 0))),
            ("8.2.0-rc1", Some((8, 2, 0))),
            ("x", None),
        ] {
            assert_eq!(parse(text), version, "{text}");
        }
    }
}
