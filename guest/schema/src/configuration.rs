//! Reads what the program hands over, and makes the rules of it.

use std::collections::BTreeMap;

use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::{PatternOptions, Registry, ValidationError, Validator};
use serde::Deserialize;
use serde_json::Value;
use sluicegate_kit::{ids, quote};

use crate::dialect::{self, Dialect, Reference};
use crate::mapping;
use crate::rules::SchemaRules;

/// Bounds what is told of what is wrong with the schemas, and of what has no effect.
const MAX_TOLD: usize = 100;

/// Holds the files that were given, and which types of events they are for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    documents: Vec<Document>,
    /// Gives for each type of event the index of its document.
    types: BTreeMap<String, usize>,
    /// Gives the index of the document for all other types. Without one, they are refused.
    others: Option<usize>,
    mapping: Option<MappingFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MappingFile {
    /// Names the file for people.
    name: String,
    content: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    /// Names the file for people.
    name: String,
    /// Is what a `$ref` of another document is resolved to, unless the schema has an `$id`.
    uri: String,
    text: String,
}

/// A document that was parsed and found to be in a supported dialect.
struct Schema {
    name: String,
    uri: String,
    value: Value,
    dialect: Dialect,
    references: Vec<Reference>,
}

/// Makes the rules, and returns them with what is worth a note.
pub(crate) fn compile(configuration: &str) -> Result<(SchemaRules, Vec<String>), Vec<String>> {
    let configuration: Configuration =
        serde_json::from_str(configuration).map_err(|error| vec![format!("the configuration: {error}")])?;
    let (mut schemas, mut notes, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for document in configuration.documents {
        match parse(document) {
            Ok((schema, unknown)) => {
                notes.extend(unknown.into_iter().map(|note| format!("{}: {note}", schema.name)));
                schemas.push(schema);
            }
            Err(errors) => wrong.extend(errors),
        }
    }
    let mapping = configuration.mapping.and_then(|MappingFile { name, content }| {
        let told = |errors: Vec<String>| errors.into_iter().map(|error| format!("{name}: {error}")).collect();
        mapping::compile(content).map_err(|errors| wrong.extend::<Vec<String>>(told(errors))).ok()
    });
    notes.truncate(MAX_TOLD);
    refuse(std::mem::take(&mut wrong))?;

    let resources = schemas.iter().map(|schema| {
        let draft = schema.dialect.draft();
        (schema.uri.as_str(), draft.create_resource_ref(&schema.value))
    });
    // Nothing is fetched: a reference to what was not given is an error here.
    let registry =
        Registry::new().extend(resources).and_then(|registry| registry.prepare()).map_err(|error| {
            let error = error.to_string();
            let place_unknown =
                || vec![format!("{error}; a `$ref` may point only into the files that are given")];
            astray(&schemas, &error).unwrap_or_else(place_unknown)
        })?;
    let mut validator =
        |index: usize| match schemas.get(index).map(|schema| (schema, build(schema, &registry))) {
            Some((_, Ok(validator))) => Some(validator),
            Some((schema, Err(error))) => {
                let places = match error.kind() {
                    Kind::Referencing(error) => astray(&schemas, &error.to_string()),
                    _ => None,
                };
                wrong.extend(places.unwrap_or_else(|| vec![format!("{}: {}", schema.name, refusal(&error))]));
                None
            }
            None => None,
        };
    let others = configuration.others.and_then(&mut validator);
    let types = configuration
        .types
        .into_iter()
        .filter_map(|(event_type, index)| validator(index).map(|validator| (event_type, validator)))
        .collect();
    refuse(wrong)?;
    Ok((SchemaRules { types, others, mapping }, notes))
}

/// Names the references that an error of the library is about, with file and place: its own text has neither. Returns `None` if
/// none is found.
fn astray(schemas: &[Schema], error: &str) -> Option<Vec<String>> {
    let told = schemas.iter().flat_map(|schema| {
        let named = schema.references.iter().filter(|reference| is_named(reference, schema, error));
        named.map(|Reference { pointer, text }| {
            let expected = match pointer.ends_with("id") {
                true => "expected a URI",
                false => {
                    "which leads nowhere; a `$ref` may point only into the files that are given, to a place that is there"
                }
            };
            format!("{}: at {}: found {}, {expected}", schema.name, place(pointer), quote(text))
        })
    });
    let mut told: Vec<String> = told.collect();
    told.sort();
    told.dedup();
    (!told.is_empty()).then_some(told)
}

/// Returns whether an error is about this reference: it quotes a place within a file, or names a file or what is no URI.
fn is_named(Reference { pointer, text }: &Reference, schema: &Schema, error: &str) -> bool {
    let (file, fragment) = text.split_once('#').unwrap_or((text, ""));
    if pointer.ends_with("id") {
        return error.contains(&format!("'{text}'"));
    }
    let is_there = file.is_empty() && schema.value.pointer(fragment).is_some();
    let file = file.trim_start_matches(['.', '/']);
    let is_fragment = !fragment.is_empty() && !is_there && error.contains(&format!("'{fragment}'"));
    is_fragment || !file.is_empty() && error.contains(file)
}

fn refuse(mut wrong: Vec<String>) -> Result<(), Vec<String>> {
    wrong.truncate(MAX_TOLD);
    if wrong.is_empty() { Ok(()) } else { Err(wrong) }
}

/// Parses a document, and returns it with the names of keywords that have no effect.
fn parse(document: Document) -> Result<(Schema, Vec<String>), Vec<String>> {
    let Document { name, uri, text } = document;
    let told = |what: String| format!("{name}: {what}");
    let mut value: Value =
        serde_json::from_str(&text).map_err(|error| vec![told(format!("found no JSON: {error}"))])?;
    let dialect = Dialect::of(&value).map_err(|error| vec![told(error)])?;
    dialect::plain(&mut value);
    let breaches: Vec<String> = match jsonschema::meta::validator_for(&value) {
        Ok(meta) => meta
            .iter_errors(&value)
            .take(MAX_TOLD)
            .map(|error| told(format!("at {}: {}", place(error.instance_path().as_str()), breach(&error))))
            .collect(),
        Err(error) => vec![told(error.to_string())],
    };
    refuse(breaches)?;
    let dialect::Findings { unsupported, without_effect, references } = dialect::look(&value, dialect);
    refuse(unsupported.into_iter().map(told).collect())?;
    Ok((Schema { name, uri, value, dialect, references }, without_effect))
}

/// Tells how a schema breaks that of schemas.
fn breach(error: &ValidationError<'_>) -> String {
    let pointer = error.instance_path().as_str();
    let expected = match error.kind() {
        Kind::AnyOf { .. } if pointer == "/type" || pointer.ends_with("/type") => {
            "one of `array`, `boolean`, `integer`, `null`, `number`, `object` and `string`, or a list of them"
        }
        Kind::AnyOf { .. } => "one of the forms that this keyword may have",
        _ => return error.masked().to_string(),
    };
    format!("found {}, expected {expected}", quote(&error.instance().to_string()))
}

fn build(schema: &Schema, registry: &Registry<'_>) -> Result<Validator, ValidationError<'static>> {
    let options = jsonschema::options()
        .with_draft(schema.dialect.draft())
        .with_base_uri(schema.uri.as_str())
        .with_registry(registry)
        .offline()
        .should_validate_formats(true)
        .should_ignore_unknown_formats(false)
        .with_pattern_options(PatternOptions::regex())
        // It is none of draft 7, but used with it everywhere, perhaps in a document that this one refers to.
        .with_format("uuid", |text| ids::read(text).is_some());
    options.build(&schema.value)
}

/// Tells why a schema could not be compiled, with its place.
fn refusal(error: &ValidationError<'_>) -> String {
    let at = match error.instance_path().as_str() {
        "" => error.schema_path().as_str(),
        path => path,
    };
    format!("at {}: {error}", place(at))
}

/// Shows a JSON pointer into a schema.
pub(crate) fn place(pointer: &str) -> String {
    format!("`#{pointer}`")
}
