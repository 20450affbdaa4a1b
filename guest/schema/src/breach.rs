//! Tells what breaks a schema: where, by which keyword, and what was found.

use std::fmt::Write as _;

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::paths::LocationSegment;
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;
use sluicegate_kit::{Violation, member_path as member, quote};

/// Names the field of an entry that schemas are about.
pub(crate) const PROPERTIES: &str = "properties";

/// Returns the violations that an error stands for: one, or one for each member that should not be there.
pub(crate) fn violations(error: &ValidationError<'_>) -> Vec<Violation> {
    let at = path(error);
    let one = |path, message| vec![Violation { path, code: code(error.kind()).to_owned(), message }];
    match error.kind() {
        Kind::Required { property: Value::String(name) } => {
            one(member(&at, name), "found nothing, expected a value".to_owned())
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => unexpected
            .iter()
            .flat_map(|name| {
                one(member(&at, name), "found a field that the schema does not allow".to_owned())
            })
            .collect(),
        Kind::PropertyNames { error } => {
            let name = error.instance().as_str().unwrap_or_default();
            let message =
                format!("found a field of this name, expected a name that is {}", wanted(error.kind()));
            one(member(&at, name), message)
        }
        kind => one(at, format!("found {}, expected {}", found(error.instance()), wanted(kind))),
    }
}

/// Returns the code for each keyword. The table in `docs/rules-without-code.md` repeats it.
fn code(kind: &Kind) -> &'static str {
    match kind {
        Kind::Required { .. } => "missing",
        Kind::Type { .. } => "wrong_type",
        Kind::Enum { .. } => "not_in_enum",
        Kind::Constant { .. } => "not_the_constant",
        Kind::Minimum { .. } | Kind::ExclusiveMinimum { .. } => "too_small",
        Kind::Maximum { .. } | Kind::ExclusiveMaximum { .. } => "too_large",
        Kind::MultipleOf { .. } => "not_a_multiple",
        Kind::MinLength { .. } => "too_short",
        Kind::MaxLength { .. } => "too_long",
        Kind::Pattern { .. } | Kind::BacktrackLimitExceeded { .. } | Kind::RegexEngineFailure { .. } => {
            "pattern_mismatch"
        }
        Kind::Format { .. } => "invalid_format",
        Kind::ContentEncoding { .. } | Kind::FromUtf8 { .. } => "invalid_encoding",
        Kind::ContentMediaType { .. } => "invalid_content",
        Kind::MinItems { .. } => "too_few_items",
        Kind::MaxItems { .. } => "too_many_items",
        Kind::UniqueItems => "duplicate_item",
        Kind::Contains => "contains_mismatch",
        Kind::AdditionalItems { .. } | Kind::UnevaluatedItems { .. } => "unexpected_item",
        Kind::MinProperties { .. } => "too_few_fields",
        Kind::MaxProperties { .. } => "too_many_fields",
        Kind::AdditionalProperties { .. } | Kind::UnevaluatedProperties { .. } => "unexpected_field",
        Kind::PropertyNames { .. } => "invalid_field_name",
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => "no_alternative",
        Kind::OneOfMultipleValid { .. } => "several_alternatives",
        Kind::Not { .. } => "excluded",
        Kind::FalseSchema => "forbidden",
        Kind::Referencing(_) => "unresolved",
        Kind::Custom { .. } => "custom",
    }
}

/// Says what a keyword asks for.
fn wanted(kind: &Kind) -> String {
    match kind {
        Kind::Type { kind: TypeKind::Single(wanted) } => type_name(*wanted).to_owned(),
        Kind::Type { kind: TypeKind::Multiple(wanted) } => {
            let names: Vec<&str> = wanted.iter().map(type_name).collect();
            names.join(" or ")
        }
        Kind::Enum { options } => format!("one of {}", quote(&options.to_string())),
        Kind::Constant { expected_value } => quote(&expected_value.to_string()),
        Kind::Minimum { limit } => format!("at least {limit}"),
        Kind::ExclusiveMinimum { limit } => format!("more than {limit}"),
        Kind::Maximum { limit } => format!("at most {limit}"),
        Kind::ExclusiveMaximum { limit } => format!("less than {limit}"),
        Kind::MultipleOf { multiple_of } => format!("a multiple of {multiple_of}"),
        Kind::MinLength { limit } => format!("at least {limit} characters"),
        Kind::MaxLength { limit } => format!("at most {limit} characters"),
        Kind::Pattern { pattern } => format!("text that matches {}", quote(pattern)),
        Kind::Format { format } => format!("text of the format `{format}`"),
        Kind::ContentEncoding { content_encoding } => format!("text in `{content_encoding}`"),
        Kind::ContentMediaType { content_media_type } => format!("`{content_media_type}`"),
        Kind::FromUtf8 { .. } => "UTF-8 within the encoding".to_owned(),
        Kind::MinItems { limit } => format!("at least {limit} items"),
        Kind::MaxItems { limit } => format!("at most {limit} items"),
        Kind::UniqueItems => "no two equal items".to_owned(),
        Kind::Contains => "another number of items that match `contains`".to_owned(),
        Kind::AdditionalItems { limit } => format!("at most {limit} items"),
        Kind::UnevaluatedItems { .. } => "no items beyond those that the schema names".to_owned(),
        Kind::MinProperties { limit } => format!("at least {limit} fields"),
        Kind::MaxProperties { limit } => format!("at most {limit} fields"),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => "what matches one of the alternatives".to_owned(),
        Kind::OneOfMultipleValid { .. } => "what matches one alternative only".to_owned(),
        Kind::Not { .. } => "what does not match the schema in `not`".to_owned(),
        Kind::FalseSchema => "nothing".to_owned(),
        // What has no words here is told by the library, without the value.
        _ => "what the schema describes".to_owned(),
    }
}

fn type_name(json_type: JsonType) -> &'static str {
    match json_type {
        JsonType::Array => "an array",
        JsonType::Boolean => "a boolean",
        JsonType::Integer => "an integer",
        JsonType::Null => "null",
        JsonType::Number => "a number",
        JsonType::Object => "an object",
        JsonType::String => "a string",
    }
}

/// Shows a value, cut after its first characters.
fn found(value: &Value) -> String {
    let kind = match value {
        Value::Null => return "null".to_owned(),
        Value::Bool(_) => "the boolean",
        Value::Number(_) => "the number",
        Value::String(_) => "the string",
        Value::Array(items) => return format!("an array of {} items", items.len()),
        Value::Object(members) => return format!("an object of {} fields", members.len()),
    };
    format!("{kind} {}", quote(&value.to_string()))
}

/// Writes the place of an error in the style of the default rules: `properties.items[2].price`.
fn path(error: &ValidationError<'_>) -> String {
    let mut path = PROPERTIES.to_owned();
    for segment in error.instance_path() {
        match segment {
            LocationSegment::Property(name) => path = member(&path, &name),
            LocationSegment::Index(index) => {
                // Writing to a String cannot fail.
                let _ = write!(path, "[{index}]");
            }
        }
    }
    path
}
