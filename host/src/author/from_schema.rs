//! `sluicegate rules from-schema`: makes a component of JSON Schemas, without a toolchain.
//!
//! The component that judges by schemas is inside the program. This hands the schemas to its initialiser, and writes what
//! comes of it: see [`preinitialise`](mod@crate::sandbox::preinitialise).

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};
use url::Url;

use super::{REFUSED, WRONG_INPUT, files};
use crate::rules::SCHEMA;
use crate::sandbox::preinitialise::{self, Initialised, preinitialise};
use crate::text::printable;

/// Bounds a file with a schema.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Bounds the files, and so what is read in all.
const MAX_FILES: usize = 2_000;

/// Of what to make a component, and where to write it.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Schemas of an event's properties: TYPE=FILE for the events of a type, FILE for all types that have none of their own
    #[arg(required = true, value_name = "[TYPE=]FILE")]
    schemas: Vec<String>,
    /// A schema that others refer to, by its own $id, its path beside theirs, or this URI
    #[arg(long = "with", value_name = "[URI=]FILE")]
    with: Vec<String>,
    /// How entries of other forms become events: fields and steps, in TOML
    #[arg(long, value_name = "FILE")]
    mapping: Option<PathBuf>,
    /// The component to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

/// Why there is no component.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the file {file} cannot be read: {source}")]
    Unreadable { file: PathBuf, source: io::Error },
    #[error("the file {0} is larger than {max} bytes", max = MAX_FILE_BYTES)]
    TooLarge(PathBuf),
    #[error("the mapping {file} is no TOML: {source}")]
    NoToml { file: PathBuf, source: toml::de::Error },
    #[error("the mapping {0} holds what JSON cannot say: wanted text, numbers, booleans, lists and tables")]
    NoJson(PathBuf),
    #[error("found {0} files, wanted at most {max}", max = MAX_FILES)]
    TooMany(usize),
    #[error("found two schemas for {0}, wanted one")]
    Twice(String),
    #[error("found {0:?}, wanted an absolute URI before the `=`")]
    NoUri(String),
    #[error(transparent)]
    Initialise(#[from] preinitialise::Error),
    #[error("the component {file} cannot be written: {source}")]
    Unwritable { file: PathBuf, source: io::Error },
}

impl Error {
    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Initialise(preinitialise::Error::Defective(_)) | Self::Unwritable { .. } => {
                ExitCode::FAILURE
            }
            Self::Initialise(_) => ExitCode::from(REFUSED),
            _ => ExitCode::from(WRONG_INPUT),
        }
    }
}

/// Makes the component and says so. Notes on the schemas go to `errors`.
pub(super) fn make(
    options: &Options,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> Result<(), super::Error> {
    let configuration = configuration(options)?;
    let Initialised { component, notes } =
        preinitialise(SCHEMA, &configuration.to_string()).map_err(Error::from)?;
    for note in notes {
        writeln!(errors, "note: {}", printable(&note))?;
    }
    let file = &options.output;
    let unwritable = |source| Error::Unwritable { file: file.clone(), source };
    files::write(file, &component).map_err(unwritable)?;
    writeln!(out, "{}: {} bytes", file.display(), component.len())?;
    Ok(())
}

/// Reads the files, and tells the initialiser about them in its words.
fn configuration(options: &Options) -> Result<Value, Error> {
    let given = options.schemas.iter().map(|text| split(text));
    let with = options.with.iter().map(|text| split(text));
    let files: Vec<(Option<&str>, &Path)> = given.chain(with).collect();
    if files.len() > MAX_FILES {
        return Err(Error::TooMany(files.len()));
    }
    let folder = common_folder(files.iter().map(|(_, file)| *file));
    let (mut documents, mut types, mut others) = (Vec::new(), Map::new(), None);
    for (i, (name, file)) in files.iter().enumerate() {
        let is_root = i < options.schemas.len();
        let uri = match name {
            Some(uri) if !is_root => {
                Url::parse(uri).map_err(|_| Error::NoUri((*uri).to_owned()))?.to_string()
            }
            _ => uri(file, &folder),
        };
        // The component must not depend on where the files are: neither may the name.
        let name_of_file: PathBuf = plain(file).into_iter().skip(folder.len()).collect();
        documents
            .push(json!({ "name": name_of_file.display().to_string(), "uri": uri, "text": read(file)? }));
        match name {
            _ if !is_root => {}
            Some(event_type) => {
                if types.insert((*event_type).to_owned(), json!(i)).is_some() {
                    return Err(Error::Twice(format!("the type {event_type:?}")));
                }
            }
            None => {
                if others.replace(i).is_some() {
                    return Err(Error::Twice("all types; wanted TYPE=FILE for each but one".to_owned()));
                }
            }
        }
    }
    let mapping = options.mapping.as_deref().map(mapping).transpose()?;
    Ok(json!({ "documents": documents, "types": types, "others": others, "mapping": mapping }))
}

/// Reads a mapping. What it says is looked at by the initialiser.
fn mapping(file: &Path) -> Result<Value, Error> {
    let no_toml = |source| Error::NoToml { file: file.to_owned(), source };
    let content: toml::Table = toml::from_str(&read(file)?).map_err(no_toml)?;
    let content = serde_json::to_value(content).map_err(|_| Error::NoJson(file.to_owned()))?;
    // The component must not depend on where the file is.
    let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
    Ok(json!({ "name": name, "content": content }))
}

/// Splits what is before the first `=` from the file.
fn split(text: &str) -> (Option<&str>, &Path) {
    match text.split_once('=') {
        Some((name, file)) => (Some(name), Path::new(file)),
        None => (None, Path::new(text)),
    }
}

fn read(file: &Path) -> Result<String, Error> {
    let unreadable = |source| Error::Unreadable { file: file.to_owned(), source };
    let mut text = String::new();
    let opened = File::open(file).map_err(unreadable)?;
    opened.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    match u64::try_from(text.len()) {
        Ok(bytes) if bytes <= MAX_FILE_BYTES => Ok(text),
        _ => Err(Error::TooLarge(file.to_owned())),
    }
}

/// Returns the folder that all files are in. It is left out of their URIs, so that the component does not depend on where
/// a project is.
fn common_folder<'a>(files: impl Iterator<Item = &'a Path>) -> Vec<Component<'a>> {
    let folders = files.map(|file| plain(file.parent().unwrap_or(file)));
    folders
        .reduce(|a, b| a.into_iter().zip(b).take_while(|(a, b)| a == b).map(|(a, _)| a).collect())
        .unwrap_or_default()
}

fn plain(path: &Path) -> Vec<Component<'_>> {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

/// Returns the URI by which other files refer to this one: its path, from the folder that all are in.
fn uri(file: &Path, folder: &[Component<'_>]) -> String {
    let mut uri = String::from("file://");
    for part in plain(file).into_iter().skip(folder.len()) {
        uri.push('/');
        uri.extend(
            url::form_urlencoded::byte_serialize(part.as_os_str().as_encoded_bytes())
                .map(|text| text.replace('+', "%20")),
        );
    }
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_do_not_depend_on_where_the_files_are() {
        let uris = |files: [&str; 2]| {
            let files = files.map(Path::new);
            let folder = common_folder(files.into_iter());
            files.map(|file| uri(file, &folder))
        };
        let expected = ["file:///a.json".to_owned(), "file:///sub/b%20c.json".to_owned()];
        assert_eq!(uris(["a.json", "sub/b c.json"]), expected);
        assert_eq!(uris(["./x/a.json", "x/sub/b c.json"]), expected);
        assert_eq!(uris(["/x/y/a.json", "/x/y/sub/b c.json"]), expected);
    }
}
