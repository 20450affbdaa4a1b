//! Looks through a schema for what is not supported, so that nothing is ignored in silence.

use jsonschema::Draft;
use serde_json::{Map, Value};

use crate::configuration::place;

/// Names a supported version of JSON Schema.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Is that of Snowplow's self-describing schemas.
    Draft4,
    Draft7,
    Draft202012,
}

/// Holds what was found, each with its place.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) unsupported: Vec<String>,
    /// Holds keywords that JSON Schema does not know. They may be misspelt.
    pub(crate) without_effect: Vec<String>,
    /// Holds what leads elsewhere, or says what a schema is called.
    pub(crate) references: Vec<Reference>,
}

/// Holds the value of a `$ref`, or of a keyword like it, with its place.
pub(crate) struct Reference {
    pub(crate) pointer: String,
    pub(crate) text: String,
}

/// Says what the value of a keyword is.
#[derive(Clone, Copy)]
enum Holds {
    /// No schema.
    Data,
    /// A schema, or in older drafts also an array of them.
    Schema,
    Schemas,
    /// An object of schemas, by names that are not keywords.
    Named,
}

/// Lists the keywords of all dialects. Those of another one have no effect, and are told.
const KEYWORDS: [(&str, Holds, &[Dialect]); 64] = {
    use Dialect::{Draft4, Draft7, Draft202012};
    use Holds::{Data, Named, Schema, Schemas};
    const ALL: &[Dialect] = &[Draft4, Draft7, Draft202012];
    const BOTH: &[Dialect] = &[Draft7, Draft202012];
    const OLDER: &[Dialect] = &[Draft4, Draft7];
    const OLDEST: &[Dialect] = &[Draft4];
    const NEW: &[Dialect] = &[Draft202012];
    [
        ("$anchor", Data, NEW),
        ("$comment", Data, BOTH),
        ("$defs", Named, NEW),
        ("$dynamicAnchor", Data, NEW),
        ("$dynamicRef", Data, NEW),
        ("$id", Data, BOTH),
        ("$ref", Data, ALL),
        ("$schema", Data, ALL),
        ("$vocabulary", Data, NEW),
        ("additionalItems", Schema, OLDER),
        ("additionalProperties", Schema, ALL),
        ("allOf", Schemas, ALL),
        ("anyOf", Schemas, ALL),
        ("const", Data, BOTH),
        ("contains", Schema, BOTH),
        ("contentEncoding", Data, BOTH),
        ("contentMediaType", Data, BOTH),
        ("contentSchema", Schema, NEW),
        ("default", Data, ALL),
        ("definitions", Named, ALL),
        ("dependencies", Named, ALL),
        ("dependentRequired", Data, NEW),
        ("dependentSchemas", Named, NEW),
        ("deprecated", Data, NEW),
        ("description", Data, ALL),
        ("else", Schema, BOTH),
        ("enum", Data, ALL),
        ("examples", Data, BOTH),
        ("exclusiveMaximum", Data, ALL),
        ("exclusiveMinimum", Data, ALL),
        ("format", Data, ALL),
        ("id", Data, OLDEST),
        ("if", Schema, BOTH),
        ("items", Schema, ALL),
        ("maxContains", Data, NEW),
        ("maxItems", Data, ALL),
        ("maxLength", Data, ALL),
        ("maxProperties", Data, ALL),
        ("maximum", Data, ALL),
        ("minContains", Data, NEW),
        ("minItems", Data, ALL),
        ("minLength", Data, ALL),
        ("minProperties", Data, ALL),
        ("minimum", Data, ALL),
        ("multipleOf", Data, ALL),
        ("not", Schema, ALL),
        ("oneOf", Schemas, ALL),
        ("pattern", Data, ALL),
        ("patternProperties", Named, ALL),
        ("prefixItems", Schemas, NEW),
        ("properties", Named, ALL),
        ("propertyNames", Schema, BOTH),
        ("readOnly", Data, BOTH),
        ("required", Data, ALL),
        ("self", Data, OLDEST),
        ("then", Schema, BOTH),
        ("title", Data, ALL),
        ("type", Data, ALL),
        ("unevaluatedItems", Schema, NEW),
        ("unevaluatedProperties", Schema, NEW),
        ("uniqueItems", Data, ALL),
        ("writeOnly", Data, BOTH),
        ("$recursiveAnchor", Data, &[]),
        ("$recursiveRef", Data, &[]),
    ]
};

const DRAFT_4: &str = "http://json-schema.org/draft-04/schema";
/// Is draft 4 with a member `self`, which says what the schema is called.
const SELF_DESCRIBING: &str =
    "http://iglucentral.com/schemas/com.snowplowanalytics.self-desc/schema/jsonschema/1-0-0";

/// Puts the draft's own URI where Snowplow's stands: the library knows no other.
pub(crate) fn plain(schema: &mut Value) {
    if let Some(Value::String(uri)) = schema.get_mut("$schema")
        && uri.trim_end_matches('#') == SELF_DESCRIBING
    {
        *uri = format!("{DRAFT_4}#");
    }
}

impl Dialect {
    /// Reads `$schema`. Without it, a schema is of 2020-12.
    pub(crate) fn of(schema: &Value) -> Result<Self, String> {
        match schema.get("$schema") {
            None => Ok(Self::Draft202012),
            Some(Value::String(uri)) => Self::from_uri(uri),
            Some(other) => Err(format!("at {}: found {other}, expected a URI", place("/$schema"))),
        }
    }

    fn from_uri(uri: &str) -> Result<Self, String> {
        match uri.trim_end_matches('#') {
            "http://json-schema.org/draft-07/schema" | "https://json-schema.org/draft-07/schema" => {
                Ok(Self::Draft7)
            }
            "https://json-schema.org/draft/2020-12/schema" => Ok(Self::Draft202012),
            DRAFT_4 | SELF_DESCRIBING => Ok(Self::Draft4),
            other => Err(format!(
                "at {}: found `{other}`, expected `http://json-schema.org/draft-07/schema#`, \
                 `https://json-schema.org/draft/2020-12/schema` or Snowplow's `{SELF_DESCRIBING}#`",
                place("/$schema")
            )),
        }
    }

    pub(crate) fn draft(self) -> Draft {
        match self {
            Self::Draft4 => Draft::Draft4,
            Self::Draft7 => Draft::Draft7,
            Self::Draft202012 => Draft::Draft202012,
        }
    }
}

/// Looks through a schema that its meta-schema has found to be sound.
pub(crate) fn look(schema: &Value, dialect: Dialect) -> Findings {
    let mut findings = Findings::default();
    look_at(schema, dialect, "", &mut findings);
    findings
}

/// Looks at one schema and at those within. How deep they are is bounded: the parser refuses more than 128 levels.
fn look_at(schema: &Value, dialect: Dialect, at: &str, findings: &mut Findings) {
    let Value::Object(keywords) = schema else { return };
    if dialect != Dialect::Draft202012 && keywords.contains_key("$ref") {
        let ignored = keywords.keys().filter(|name| !is_beside_ref(name));
        let told = ignored.map(|name| {
            format!("at {}: this draft ignores it beside a `$ref`", place(&format!("{at}/{name}")))
        });
        findings.without_effect.extend(told);
    }
    for (name, value) in keywords {
        let at = format!("{at}/{}", escaped(name));
        let known = KEYWORDS.iter().find(|(known, ..)| known == name);
        match known.filter(|(.., dialects)| dialects.contains(&dialect)) {
            Some((_, holds, _)) => {
                check(name, value, keywords, dialect, &at, findings);
                within(*holds, value, dialect, &at, findings);
            }
            None => findings.without_effect.push(format!("at {}: no keyword of this draft", place(&at))),
        }
    }
}

fn is_beside_ref(name: &str) -> bool {
    matches!(name, "$ref" | "$comment" | "title" | "description" | "definitions" | "$schema")
}

fn within(holds: Holds, value: &Value, dialect: Dialect, at: &str, findings: &mut Findings) {
    match (holds, value) {
        (Holds::Schema, Value::Object(_)) => look_at(value, dialect, at, findings),
        (Holds::Schema | Holds::Schemas, Value::Array(schemas)) => {
            for (i, schema) in schemas.iter().enumerate() {
                look_at(schema, dialect, &format!("{at}/{i}"), findings);
            }
        }
        (Holds::Named, Value::Object(schemas)) => {
            for (name, schema) in schemas {
                look_at(schema, dialect, &format!("{at}/{}", escaped(name)), findings);
            }
        }
        _ => {}
    }
}

/// Checks what the value of a keyword asks for.
fn check(
    name: &str,
    value: &Value,
    keywords: &Map<String, Value>,
    dialect: Dialect,
    at: &str,
    findings: &mut Findings,
) {
    let Value::String(text) = value else { return };
    if matches!(name, "$ref" | "$dynamicRef" | "$id" | "id") {
        findings.references.push(Reference { pointer: at.to_owned(), text: text.clone() });
    }
    let refusal = match name {
        "$schema" => match Dialect::from_uri(text) {
            Ok(found) if found == dialect => return,
            _ => "another version of JSON Schema than the file's is not supported within it".to_owned(),
        },
        "format" if !is_known_format(text, dialect) => format!("the format `{text}` is not supported"),
        "contentEncoding" if dialect == Dialect::Draft7 && text != "base64" => {
            format!("the encoding `{text}` is not supported; `base64` is")
        }
        "contentMediaType" if dialect == Dialect::Draft7 && text != "application/json" => {
            format!("the media type `{text}` is not supported; `application/json` is")
        }
        "contentEncoding" | "contentMediaType" if dialect == Dialect::Draft202012 => {
            let told = format!("at {}: 2020-12 does not check it", place(at));
            return findings.without_effect.push(told);
        }
        _ => return,
    };
    if dialect != Dialect::Draft202012 && keywords.contains_key("$ref") {
        return; // ignored, and told so
    }
    findings.unsupported.push(format!("at {}: {refusal}", place(at)));
}

fn is_known_format(name: &str, dialect: Dialect) -> bool {
    name == "uuid" || jsonschema::options().is_known_format(dialect.draft(), name)
}

/// Writes a name as a JSON pointer does.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
