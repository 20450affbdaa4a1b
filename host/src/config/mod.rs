//! Declares every setting and its default, once.
//!
//! - `settings`: the table of all settings, from which everything else is made
//! - `declare`: the macro that makes it, and the kinds of values
//! - `units`, `listen`: times, sizes and addresses as people write them
//! - `environment`: reads variables, and those of `.env`
//! - `file`: reads the file, and repeats none of its lines in an error
//! - `tenant`: the settings that each tenant may have for itself
//! - `grants`: what a guest may do besides judging

mod declare;
mod environment;
mod file;
mod grants;
mod listen;
mod settings;
mod tenant;
mod units;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::io::Read as _;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::error::Kind;
use figment::providers::Serialized;
use figment::value::{Dict, Value};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize};

pub use declare::Setting;
use environment::Environment;
pub use environment::Misspelt;
use file::File;
pub use grants::{Grants, Parameter, Statement};
pub use listen::Listen;
use settings::setting;
pub use settings::{Config, SETTINGS, Tenant, as_markdown, as_toml};
pub use tenant::{TableName, TenantName};
pub use units::{Size, Time};

/// The file that is read from the working directory when no other is named.
pub const DEFAULT_FILE: &str = "sluicegate.toml";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// Lines for programs, one object in each.
    Json,
}

impl LogFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Whether a guest may run where the kernel lacks one of the walls around its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Walls {
    /// It may not.
    Required,
    /// It may, with those that there are.
    Available,
}

impl Walls {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Available => "available",
        }
    }
}

/// A value that must not be printed: a URL with a password in it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

/// Where a server's URL comes from: the settings, or a file that may change during the run.
#[derive(Clone, Debug)]
pub struct UrlSource {
    name: &'static str,
    given: Secret,
    file: Option<PathBuf>,
}

impl UrlSource {
    /// Returns whether the URL can change.
    pub fn is_file(&self) -> bool {
        self.file.is_some()
    }

    /// Returns the file with the URL, if it is in one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Returns the URL as it is now, which must not go into a log, an error or a help page.
    pub fn read(&self) -> Result<String, Error> {
        let Self { name, given: Secret(given), file } = self;
        match (file, given.is_empty()) {
            (None, true) => Err(missing(name).into()),
            (None, false) => Ok(given.clone()),
            (Some(_), false) => Err(Problem::TwoUrls(name).into()),
            (Some(file), true) => {
                let unreadable = |source| Problem::UnreadableFile { file: file.clone(), source };
                let mut url = String::new();
                let opened = std::fs::File::open(file).map_err(unreadable)?;
                // No URL is longer, and no device or log file may fill the memory.
                opened.take(MAX_URL_BYTES).read_to_string(&mut url).map_err(unreadable)?;
                match url.trim() {
                    "" => Err(Problem::EmptyUrlFile(file.clone()).into()),
                    url => Ok(url.to_owned()),
                }
            }
        }
    }
}

/// The largest number of bytes that is read of a file with a URL.
const MAX_URL_BYTES: u64 = 64 << 10;

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        // The error of the text's own reading would show what was found.
        String::deserialize(value).map(Self).map_err(|_| D::Error::custom("is no text"))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "unset" } else { "***" })
    }
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("settings: {}{problem}", .tenant.as_ref().map(|name| format!("tenant {name}: ")).unwrap_or_default())]
pub struct Error {
    /// The tenant whose setting it is.
    tenant: Option<TenantName>,
    problem: Problem,
}

#[derive(Debug, thiserror::Error)]
enum Problem {
    /// A value cannot be read.
    #[error("{}", explain(.0))]
    Unreadable(Box<figment::Error>),
    /// A file exists, and cannot be read.
    #[error("the file {file} cannot be read: {source}; wanted a text file that this user may read")]
    UnreadableFile { file: PathBuf, source: std::io::Error },
    /// A setting and its `_FILE` are both set.
    #[error("{0} and {0}_FILE are both set; wanted one of them")]
    TwoUrls(&'static str),
    /// A file has nothing in it.
    #[error("the file {0} is empty; wanted a URL in it")]
    EmptyUrlFile(PathBuf),
    /// A file has another form. The error tells the place, and not what stands there.
    #[error("the file {file}{place}: {message}; wanted TOML, with text in quotes")]
    NoToml { file: PathBuf, place: String, message: String },
    /// The file `.env` has another form. The error does not tell what stands there.
    #[error(
        "the file {file}, line {line}: it does not read; wanted lines such as NAME=value, with spaces and quotes within double quotes"
    )]
    NoEnvFile { file: PathBuf, line: usize },
    /// The file named on the command line does not exist.
    #[error("the file {0} does not exist")]
    NoFile(PathBuf),
    /// No setting has this name.
    #[error("{0} is not a setting; {hint}`sluicegate run --help` lists them all", hint = did_you_mean(.0))]
    Unknown(String),
    /// The file names a setting in capitals, as the environment has it.
    #[error("{0} is not a setting in the file; wanted {wanted}, in lower case", wanted = .0.to_lowercase())]
    NotLowerCase(String),
    /// No tenant can have this name.
    #[error("{0:?} is no name for a tenant; wanted {wanted}", wanted = TenantName::WANTED)]
    NoName(String),
    /// Something else is where the tenants' tables should be.
    #[error(
        "tenants is no table with a table for each tenant; wanted [tenants.NAME] and below it the tenant's settings"
    )]
    NoTables,
    /// Grants stand outside of the tenants' tables.
    #[error("[grants] is given to one tenant, not to all; wanted [tenants.NAME.grants]")]
    GrantsForAll,
    /// A tenant has what only the whole service can have.
    #[error("{0} is one for the whole service, not for a tenant; wanted outside of [tenants]")]
    OfService(&'static str),
    /// Two tenants would take each other's entries.
    #[error(
        "the tenants {one} and {other} both read {stream:?} as the group {group:?}; \
         wanted another STREAM_NAME or CONSUMER_GROUP for one of them"
    )]
    SameEntries { one: TenantName, other: TenantName, stream: String, group: String },
    /// A setting without a default is not set.
    #[error("{name} is not set; wanted {wanted}")]
    Missing { name: &'static str, wanted: String },
    /// A value cannot be used.
    #[error("{name} is {found}; wanted {wanted}")]
    Range { name: Cow<'static, str>, found: String, wanted: String },
}

impl Error {
    /// Returns whether the file that the command line names is missing, and so the command line is wrong.
    pub fn is_of_command_line(&self) -> bool {
        matches!(self.problem, Problem::NoFile(_))
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { tenant: None, problem }
    }
}

impl From<figment::Error> for Problem {
    fn from(error: figment::Error) -> Self {
        Self::Unreadable(Box::new(error))
    }
}

impl Config {
    /// Takes each setting from the environment, from `.env` in the working directory, from the
    /// file, or from the defaults, in this order. Without a `file`, `sluicegate.toml` in the
    /// working directory is read if it exists. A variable that is set but empty counts as unset.
    pub fn load(file: Option<&Path>) -> Result<Self, Error> {
        let environment = Environment::read(Path::new(environment::FILE))?;
        Ok(Self { misspelt: environment.misspelt.clone(), ..Self::read(&layers(file, &environment)?)? })
    }

    fn read(layers: &Figment) -> Result<Self, Error> {
        for name in layers.extract::<Dict>().map_err(Problem::from)?.into_keys() {
            if !TABLES.contains(&name.as_str()) {
                setting_in_file(&name)?;
            }
        }
        let mut config: Self = over(&Self::default(), layers)?;
        config.check_each()?;
        config.statements.iter().try_for_each(|(name, statement)| statement.check(name))?;
        config.is_admin_listen_set = layers.contains("admin_listen");
        config.has_named_tenants = layers.contains(TENANTS);
        config.tenants = match config.has_named_tenants {
            true => named_tenants(layers, &config.statements)?,
            false => vec![Tenant::default().set(layers, &config.statements)?],
        };
        no_entries_in_common(&config.tenants)?;
        Ok(config)
    }

    /// Returns the settings of the service, without those of tenants, that are others in `other`.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let listed = |config: &Self| match serde_json::to_value(config) {
            Ok(serde_json::Value::Object(listed)) => listed,
            _ => serde_json::Map::new(), // a setting that does not become JSON is none of these
        };
        let (ours, theirs) = (listed(self), listed(other));
        let names = ours.keys().filter(|name| ours.get(*name) != theirs.get(*name));
        let mut names: Vec<String> = names.map(|name| name.to_uppercase()).collect();
        names.extend((self.redis_url != other.redis_url).then(|| "REDIS_URL".to_owned()));
        names.extend((self.postgres_url != other.postgres_url).then(|| "POSTGRES_URL".to_owned()));
        names
    }

    /// Returns `REDIS_URL`, which has no default, or `REDIS_URL_FILE`.
    pub fn redis_url(&self) -> UrlSource {
        UrlSource { name: "REDIS_URL", given: self.redis_url.clone(), file: self.redis_url_file.clone() }
    }

    /// Returns `POSTGRES_URL`, which has no default, or `POSTGRES_URL_FILE`.
    pub fn postgres_url(&self) -> UrlSource {
        let (given, file) = (self.postgres_url.clone(), self.postgres_url_file.clone());
        UrlSource { name: "POSTGRES_URL", given, file }
    }

    /// Returns how many tenants there is to be room for. More may come while the service runs.
    pub(crate) fn room_for_tenants(&self) -> usize {
        if self.has_named_tenants { self.tenants.len().max(2) } else { 1 }
    }

    /// Returns `POSTGRES_CONNECTIONS`, or more if a tenant would lack its `COMMITS_IN_FLIGHT`.
    pub fn connections_for_writing(&self) -> usize {
        let most = self.tenants.iter().map(|tenant| tenant.commits_in_flight).max();
        self.postgres_connections.max(most.unwrap_or(0))
    }

    /// Returns `METRICS_CSV`, with the tenant's name in it if there are named tenants.
    pub fn metrics_csv_of(&self, tenant: &TenantName) -> PathBuf {
        if !self.has_named_tenants {
            return self.metrics_csv.clone();
        }
        let stem = self.metrics_csv.file_stem().unwrap_or_default().to_string_lossy();
        let extension = self.metrics_csv.extension().unwrap_or_default().to_string_lossy();
        let dot = if extension.is_empty() { "" } else { "." };
        self.metrics_csv.with_file_name(format!("{stem}-{tenant}{dot}{extension}"))
    }
}

/// The name of the tenants' table in the file.
const TENANTS: &str = "tenants";
/// The name of the table of grants.
const GRANTS: &str = "grants";
/// The name of the table of statements that the operator has named.
const STATEMENTS: &str = "statements";
/// What can be in the file only.
const TABLES: [&str; 3] = [TENANTS, GRANTS, STATEMENTS];

/// Returns the setting of a name in the file. Only lower case has an effect there: other names
/// would be read and forgotten.
fn setting_in_file(name: &str) -> Result<&'static Setting, Problem> {
    match setting(name) {
        Some(_) if name.chars().any(|c| c.is_ascii_uppercase()) => {
            Err(Problem::NotLowerCase(name.to_owned()))
        }
        Some(setting) => Ok(setting),
        None => Err(Problem::Unknown(name.to_owned())),
    }
}

/// Reads what is set in `layers`, and takes the rest from `defaults`.
fn over<T: Serialize + DeserializeOwned>(defaults: &T, layers: &Figment) -> Result<T, Problem> {
    Ok(Figment::from(Serialized::defaults(defaults)).merge(layers).extract()?)
}

/// Gives each tenant what its own table says, then what is set for all, then the default.
fn named_tenants(layers: &Figment, statements: &BTreeMap<String, Statement>) -> Result<Vec<Tenant>, Error> {
    let tables: BTreeMap<String, Dict> = layers.extract_inner(TENANTS).map_err(|_| Problem::NoTables)?;
    if tables.is_empty() {
        return Err(Problem::NoTables.into());
    }
    // Grants are given to one tenant, never to all by inheritance.
    if layers.contains(GRANTS) {
        return Err(Problem::GrantsForAll.into());
    }
    let tenant = |(name, table): (String, Dict)| {
        let Some(name) = TenantName::new(&name) else { return Err(Problem::NoName(name).into()) };
        named_tenant(&name, &table, layers, statements)
            .map_err(|problem| Error { tenant: Some(name), problem })
    };
    tables.into_iter().map(tenant).collect()
}

fn named_tenant(
    name: &TenantName,
    table: &Dict,
    layers: &Figment,
    statements: &BTreeMap<String, Statement>,
) -> Result<Tenant, Problem> {
    for key in table.keys().filter(|key| *key != GRANTS) {
        if key == STATEMENTS {
            return Err(Problem::OfService(STATEMENTS));
        }
        let setting = setting_in_file(key)?;
        if setting.is_of_service {
            return Err(Problem::OfService(setting.name));
        }
    }
    // Two tenants that inherit the stream would read the same one.
    if !table.contains_key("stream_name") {
        return Err(missing("STREAM_NAME"));
    }
    let own = layers.focus(&format!("{TENANTS}.{name}"));
    Tenant::named(name.clone()).set(&layers.clone().merge(own), statements)
}

fn no_entries_in_common(tenants: &[Tenant]) -> Result<(), Problem> {
    let mut seen = BTreeMap::new();
    for Tenant { name, stream_name, consumer_group, .. } in tenants {
        if let Some(other) = seen.insert((stream_name, consumer_group), name) {
            let (stream, group) = (stream_name.clone(), consumer_group.clone());
            return Err(Problem::SameEntries { one: other.clone(), other: name.clone(), stream, group });
        }
    }
    Ok(())
}

/// Returns what the user has set: the file, and the variables over it.
fn layers(file: Option<&Path>, environment: &Environment) -> Result<Figment, Problem> {
    if let Some(file) = file.filter(|file| !file.is_file()) {
        return Err(Problem::NoFile(file.to_owned()));
    }
    let mut layers = Figment::new();
    let file = file.unwrap_or(Path::new(DEFAULT_FILE));
    if file.is_file() {
        layers = layers.merge(File::read(file)?);
    }
    for setting in SETTINGS.iter() {
        let Some(text) = environment.set.get(setting.name) else { continue };
        let value = match setting.is_text {
            // `CONSUMER_NAME=42` is a name, not a number: nothing is guessed.
            true => Value::from(text.as_str()),
            false => text.parse().unwrap_or_else(|never: Infallible| match never {}),
        };
        layers = layers.merge(Serialized::default(&setting.name.to_lowercase(), value));
    }
    Ok(layers)
}

fn did_you_mean(name: &str) -> String {
    let meant = environment::nearest(name).map(str::to_lowercase);
    meant.map(|meant| format!("did you mean {meant}? ")).unwrap_or_default()
}

/// Names the setting, what was found, and what is wanted in the words of the manual.
fn explain(error: &figment::Error) -> String {
    match (&error.kind, setting(&error.path.join("."))) {
        (Kind::InvalidType(found, _) | Kind::InvalidValue(found, _), Some(Setting { name, meaning, .. })) => {
            format!("{name} is {found}; wanted {meaning}")
        }
        (Kind::UnknownVariant(found, _), Some(Setting { name, meaning, .. })) => {
            format!("{name} is {found:?}; wanted {meaning}")
        }
        (Kind::Message(message), Some(Setting { name, meaning, .. })) => {
            format!("{name} {message}; wanted {meaning}")
        }
        (Kind::UnknownField(found, _), _) => {
            format!("{found} is not a setting; `sluicegate run --help` lists them all")
        }
        _ => error.to_string(),
    }
}

fn within<T: PartialOrd + fmt::Display>(
    name: impl Into<Cow<'static, str>>,
    found: T,
    range_: RangeInclusive<T>,
) -> Result<(), Problem> {
    match range_.contains(&found) {
        true => Ok(()),
        false => Err(range(name, found, format!("{} to {}", range_.start(), range_.end()))),
    }
}

fn missing(name: &'static str) -> Problem {
    Problem::Missing {
        name,
        wanted: setting(name).map(|setting| setting.meaning.clone()).unwrap_or_default(),
    }
}

fn range(name: impl Into<Cow<'static, str>>, found: impl fmt::Display, wanted: impl Into<String>) -> Problem {
    Problem::Range { name: name.into(), found: found.to_string(), wanted: wanted.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let config = Config { redis_url: Secret("redis://:hunter2@h".into()), ..Config::default() };
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    /// No error repeats a secret, whatever is wrong with it.
    #[test]
    fn a_secret_is_in_no_error() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("settings.toml");
        for text in [
            r#"NAME = "postgres://user:1618033@h/db"#,
            r#"NAME = postgres://user:1618033@h/db"#,
            r#"NAME = 'postgres://user:1618033@h/db""#,
            r#"NAME = "postgres://user:1618033@h/db" 1618033"#,
            r#"NAME "postgres://user:1618033@h/db""#,
            r#"NAME = "\1618033""#,
            "NAME = \"1618033\"\nNAME = \"1618033\"",
            "NAME = \"1618033\"\nNAME.password = \"1618033\"",
            "NAME = \"\"\"\npostgres://user:1618033@h/db",
            r#"NAME = ["1618033"]"#,
            r#"NAME = { password = "1618033" }"#,
            "NAME = 1618033",
            "NAME = 1618033.5",
            "NAME = 1618033-01-01",
        ] {
            for name in ["redis_url", "postgres_url"] {
                std::fs::write(&file, text.replace("NAME", name)).expect("written");
                // The environment is left out, because it may have other URLs.
                let read = File::read(&file).map_err(Error::from);
                let error = match read.and_then(|file| Config::read(&Figment::from(file))) {
                    Ok(config) => panic!("{text} reads as {config:?}"),
                    Err(error) => error.to_string(),
                };
                assert!(error.contains("wanted"), "{error}");
                assert!(!error.contains("1618033"), "{text}: {error}");
            }
        }
    }
}
