//! `sluicegate rules new`: makes a project of rules, which needs the tools of its language and this program, and no more.
//!
//! The templates are files beside this one. What they share with this repository, such as `wit/`, is taken from there, so that
//! there is one of each.

mod templates;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::Error;
use templates::{JAVASCRIPT, PYTHON, RUST, SCHEMA, TemplateFile};

/// What rules can be written in.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Language {
    Rust,
    /// JavaScript or TypeScript.
    Js,
    Python,
    /// JSON Schemas, and no code.
    Schema,
}

impl Language {
    fn files(self) -> &'static [TemplateFile] {
        match self {
            Self::Rust => RUST,
            Self::Js => JAVASCRIPT,
            Self::Python => PYTHON,
            Self::Schema => SCHEMA,
        }
    }
}

/// The name of a project, which is that of a crate or a package too.
#[derive(Clone, Debug)]
pub struct Name(String);

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.len() <= 64
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        match is_name {
            true => Ok(Self(text.to_owned())),
            false => Err(format!(
                "found {text:?}; wanted at most 64 lower-case letters, digits and hyphens, a letter first, such as my-rules"
            )),
        }
    }
}

/// Makes a project in a folder of its name, which must be missing or empty.
pub(super) fn new(name: &Name, language: Language, out: &mut dyn Write) -> Result<(), Error> {
    let folder = Path::new(&name.0);
    let unwritable = |file: &Path| {
        let file = file.to_owned();
        move |source: io::Error| Error::Unwritable { file, source }
    };
    fs::create_dir_all(folder).map_err(unwritable(folder))?;
    if fs::read_dir(folder).map_err(unwritable(folder))?.next().is_some() {
        return Err(Error::NotEmpty { folder: folder.to_owned() });
    }
    for TemplateFile { path, text } in language.files() {
        let file: PathBuf = folder.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent).map_err(unwritable(parent))?;
        }
        let text = fill(text, &name.0);
        File::create_new(&file)
            .and_then(|mut made| made.write_all(text.as_bytes()))
            .map_err(unwritable(&file))?;
    }
    writeln!(
        out,
        "{} holds {} files; README.md says how to go on",
        folder.display(),
        language.files().len()
    )?;
    Ok(())
}

/// Puts the names of this project into the text of a template.
fn fill(text: &str, name: &str) -> String {
    text.replace("{{name}}", name)
        .replace("{{crate}}", &name.replace('-', "_"))
        .replace("{{version}}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_a_crate() {
        for name in ["a", "my-rules-2"] {
            assert!(name.parse::<Name>().is_ok(), "{name}");
        }
        for bad in ["", "-a", "2a", "a/b", "../a", "A", "a_b", "a b", &"a".repeat(65)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    /// Else `rules deploy` would be refused in the project's own folder.
    #[test]
    fn no_project_takes_its_rules_from_a_file() {
        for language in Language::value_variants() {
            let settings =
                language.files().iter().find(|file| file.path == "sluicegate.toml").expect("settings");
            let guest =
                settings.text.lines().find(|line| line.starts_with("guest ") || line.starts_with("guest="));
            assert_eq!(guest, None, "{language:?}: rules.wasm is tried without it");
        }
    }

    #[test]
    fn nothing_is_left_to_fill_in() {
        for language in Language::value_variants() {
            for file in language.files() {
                let filled = fill(file.text, "my-rules");
                // Texts for `format!` have braces too, but no word between them.
                let left = filled
                    .split("{{")
                    .skip(1)
                    .find(|rest| rest.trim_start_matches(|c: char| c.is_ascii_lowercase()).starts_with("}}"));
                assert_eq!(left, None, "{}", file.path);
            }
        }
    }

    /// The kit of a project is built of other versions by nobody but its author.
    #[test]
    fn the_kit_of_a_project_has_the_dependencies_of_this_repository() {
        let workspace: toml::Table = include_str!("../../../../Cargo.toml").parse().expect("TOML");
        let kit: toml::Table = include_str!("../../../../guest/kit/Cargo.toml").parse().expect("TOML");
        let made: toml::Table = include_str!("templates/rust/kit/Cargo.toml.in").parse().expect("TOML");
        let names = |table: &toml::Table| -> Vec<String> {
            table["dependencies"].as_table().expect("dependencies").keys().cloned().collect()
        };
        assert_eq!(names(&made), names(&kit));
        // Without what the service needs besides.
        let without = |mut dependency: toml::Value| {
            let features = dependency.get_mut("features").and_then(toml::Value::as_array_mut);
            features.into_iter().for_each(|features| features.retain(|name| name.as_str() != Some("v4")));
            dependency
        };
        for (name, dependency) in made["dependencies"].as_table().expect("dependencies") {
            let here = without(workspace["workspace"]["dependencies"][name].clone());
            assert_eq!(dependency, &here, "{name}");
        }
    }
}
