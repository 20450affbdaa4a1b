//! Reads what the program hands over, and makes the rules of it.

use std::collections::BTreeMap;

use jsonschema::{PatternOptions, Registry, ValidationError, Validator};
use serde::Deserialize;
use serde_json::Value;
use sluicegate_kit::ids;

use crate::dialect::{self, Dialect};
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
    let registry = Registry::new()
        .extend(resources)
        .and_then(|registry| registry.prepare())
        .map_err(|error| vec![format!("{error}; a `$ref` may point only into the files that are given")])?;
    let mut validator = |index: usize| match schemas.get(index).map(|schema| build(schema, &registry)) {
        Some(Ok(validator)) => Some(validator),
        Some(Err(error)) => {
            wrong.push(error);
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
            .map(|error| told(format!("at {}: {}", place(error.instance_path().as_str()), error.masked())))
            .collect(),
        Err(error) => vec![told(error.to_string())],
    };
    refuse(breaches)?;
    let findings = dialect::look(&value, dialect);
    refuse(findings.unsupported.into_iter().map(told).collect())?;
    Ok((Schema { name, uri, value, dialect }, findings.without_effect))
}

fn build(schema: &Schema, registry: &Registry<'_>) -> Result<Validator, String> {
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
    let validator = options.build(&schema.value);
    validator.map_err(|error| format!("{}: {}", schema.name, refusal(&error)))
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
