//! Reads the file with tokens, and again when it changes.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::io::AsyncReadExt as _;

use super::Error;
use super::access::{Access, Role};
use crate::config::TenantName;
use crate::log_limit::Reminder;

/// The largest file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The tokens of a file, as it was read last.
pub(super) struct Tokens {
    file: PathBuf,
    read: Mutex<Read>,
}

struct Read {
    tokens: Arc<Vec<Token>>,
    stamp: Stamp,
    /// Why the file does not read any more, as it was told.
    problem: Option<String>,
    /// Limits the log lines that tell the same again.
    reminder: Reminder,
}

impl Read {
    fn new(tokens: Vec<Token>, stamp: Stamp) -> Self {
        Self { tokens: Arc::new(tokens), stamp, problem: None, reminder: Reminder::default() }
    }
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

struct Token {
    /// The SHA-256 of the token. The token itself is nowhere.
    digest: [u8; 32],
    access: Access,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    token: Vec<Line>,
}

/// One `[[token]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    sha256: String,
    role: Role,
    tenants: Option<Vec<String>>,
}

impl Tokens {
    pub(super) async fn read(file: &Path) -> Result<Self, Error> {
        let of_file = |problem| Error::Tokens { file: file.to_owned(), problem };
        let stamp = stamp(file).await.map_err(of_file)?;
        let tokens = read(file).await.map_err(of_file)?;
        let read = Mutex::new(Read::new(tokens, stamp));
        Ok(Self { file: file.to_owned(), read })
    }

    /// Returns what the holder of this token may do, by the file as it is now.
    pub(super) async fn access(&self, token: &str) -> Option<Access> {
        self.refresh().await;
        let tokens = Arc::clone(&self.read.lock().tokens);
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        // All are compared, each in the same time.
        let of = |found, known: &Token| match bool::from(known.digest.ct_eq(&digest)) {
            true => Some(known.access.clone()),
            false => found,
        };
        tokens.iter().fold(None, of)
    }

    /// Reads the file again if it has changed. While it does not read, the last tokens count.
    async fn refresh(&self) {
        let last = self.read.lock().stamp;
        let now = match stamp(&self.file).await {
            Ok(now) if now == last => return,
            now => now,
        };
        let tokens = match &now {
            Ok(_) => read(&self.file).await,
            Err(problem) => Err(problem.clone()),
        };
        let mut read = self.read.lock();
        match (now, tokens) {
            (Ok(stamp), Ok(tokens)) => {
                tracing::info!(file = %self.file.display(), tokens = tokens.len(), "the admin API's tokens were read again");
                *read = Read::new(tokens, stamp);
            }
            (_, Err(problem)) | (Err(problem), Ok(_)) => {
                // What is wrong now may be something else than before.
                let is_news = read.problem.replace(problem.clone()).as_ref() != Some(&problem);
                if read.reminder.is_due() || is_news {
                    tracing::warn!(
                        file = %self.file.display(), problem,
                        "the admin API's tokens were not read again; going on with the last ones"
                    );
                }
            }
        }
    }
}

async fn stamp(file: &Path) -> Result<Stamp, String> {
    let found = tokio::fs::metadata(file).await.map_err(|error| unreadable(&error))?;
    if !found.is_file() || found.len() > MAX_BYTES {
        return Err(format!("wanted a regular file of {MAX_BYTES} bytes at most"));
    }
    let changed = (found.mtime(), found.mtime_nsec());
    Ok(Stamp { device: found.dev(), inode: found.ino(), length: found.len(), changed })
}

async fn read(file: &Path) -> Result<Vec<Token>, String> {
    let opened = tokio::fs::File::open(file).await.map_err(|error| unreadable(&error))?;
    let mut text = String::new();
    opened.take(MAX_BYTES).read_to_string(&mut text).await.map_err(|error| unreadable(&error))?;
    parse(&text)
}

fn unreadable(error: &std::io::Error) -> String {
    format!("{error}; wanted a TOML file that this user may read")
}

fn parse(text: &str) -> Result<Vec<Token>, String> {
    // The error itself would show the line.
    let file: File = toml::from_str(text).map_err(|error| {
        let message = error.message().trim().replace('\n', ", ");
        format!("{message}; wanted [[token]] with name, sha256, role and, if wanted, tenants")
    })?;
    if file.token.is_empty() {
        return Err("there is no token in it; wanted one [[token]] at least".to_owned());
    }
    file.token.into_iter().map(Token::try_from).collect()
}

impl TryFrom<Line> for Token {
    type Error = String;

    fn try_from(Line { name, sha256, role, tenants }: Line) -> Result<Self, String> {
        let Some(digest) = from_hex(&sha256) else {
            return Err(format!(
                "the sha256 of {name:?} is none; wanted 64 digits, as sha256sum writes them"
            ));
        };
        let tenant = |tenant: String| {
            TenantName::new(&tenant).ok_or_else(|| {
                format!("{tenant:?} is no name for a tenant of {name:?}; wanted {}", TenantName::WANTED)
            })
        };
        let tenants =
            tenants.map(|tenants| tenants.into_iter().map(tenant).collect::<Result<BTreeSet<_>, _>>());
        let access = Access::new(&name, role, tenants.transpose()?);
        Ok(Self { digest, access })
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok();
    let bytes: Option<Vec<u8>> = (0..32).map(byte).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_is_wrong_with_it() {
        let digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let good = format!("[[token]]\nname = \"a\"\nsha256 = \"{digest}\"\nrole = \"viewer\"\n");
        assert_eq!(parse(&good).map(|tokens| tokens.len()), Ok(1));
        assert_eq!(
            parse(&format!("{good}tenants = [\"a\", \"b\"]\n{good}")).map(|tokens| tokens.len()),
            Ok(2)
        );
        for (bad, part) in [
            ("", "no token"),
            (good.replace(digest, "secret").as_str(), "wanted 64 digits"),
            (good.replace("viewer", "root").as_str(), "unknown variant `root`"),
            (format!("{good}tenants = [\"A\"]").as_str(), "no name for a tenant"),
            (format!("{good}tenant = [\"a\"]").as_str(), "unknown field `tenant`"),
            ("token = secret", "wanted [[token]]"),
        ] {
            let problem = parse(bad).map(|tokens| tokens.len()).expect_err(bad);
            assert!(problem.contains(part) && !problem.contains("secret"), "{problem}");
        }
    }
}
