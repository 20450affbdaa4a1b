//! Conditions in CEL: parsed when the component is made, so that an instance has nothing to parse.
//!
//! What an expression may cost is bounded by its form: it is short, a macro stands in no other, and patterns are known
//! from the beginning. So it looks at each item of an event a bounded number of times.
//!
//! No condition depends on the order in which the members of a map are visited, which differs from instance to instance:
//! `map` and `filter`, which would make lists of them, are refused.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};
use cel::common::types::{CelBool, CelString};
use cel::common::value::{CowVal, Val};
use cel::context::VariableResolver;
use cel::objects::{Key, Map};
use cel::parser::PrattParser;
use cel::{Context, DeclarationError, Env, ExecutionError, Value};
use regex::Regex;
use serde_json::Value as Json;
use sluicegate_kit::{Violation, quote, violation};

use super::object::Object;
use super::path::FIELDS;

/// Bounds an expression, in bytes.
const MAX_LEN: usize = 2_000;
/// Bounds the nodes of an expression's tree.
const MAX_NODES: usize = 500;
/// Bounds how deep an expression is nested.
const MAX_DEPTH: u16 = 32;

/// Names the entry as it came, among the variables.
const ENTRY: &str = "entry";
/// Names the function whose patterns are compiled beforehand.
const MATCHES: &str = "matches";
/// Lists the functions beside the operators.
const FUNCTIONS: [&str; 9] =
    ["size", "contains", "startsWith", "endsWith", MATCHES, "int", "uint", "double", "string"];

/// Says that a condition could not be answered.
const CONDITION_FAILED: &str = "condition_failed";

/// Holds the patterns of all conditions, compiled. A function of CEL has no state of its own.
static PATTERNS: OnceLock<BTreeMap<String, Regex>> = OnceLock::new();

/// Compiles conditions, and collects what they need.
#[derive(Default)]
pub(crate) struct Compiler {
    patterns: BTreeMap<String, Regex>,
}

/// Holds a condition that was parsed and looked through.
pub(crate) struct Condition {
    expression: IdedExpr,
}

/// Says what names mean around a part of an expression.
#[derive(Clone, Copy)]
struct Scope<'s> {
    /// Holds the variables of the macro around it, if there is one.
    own: &'s [&'s str],
}

impl Compiler {
    pub(crate) fn compile(&mut self, text: &str) -> Result<Condition, String> {
        if text.len() > MAX_LEN {
            return Err(format!("found {} bytes, expected at most {MAX_LEN}", text.len()));
        }
        let parser = PrattParser::new().max_recursion_depth(MAX_DEPTH).max_expression_node_count(MAX_NODES);
        let expression =
            parser.parse(text).map_err(|errors| format!("found no expression in CEL: {errors}"))?;
        self.look_at(&expression, Scope { own: &[] })?;
        Ok(Condition { expression })
    }

    /// Ends the compilation: what it has collected is in force.
    pub(crate) fn finish(self) {
        // It is called once, as all of this is.
        let _ = PATTERNS.set(self.patterns);
    }

    /// Refuses what is not supported.
    fn look_at(&mut self, expression: &IdedExpr, scope: Scope<'_>) -> Result<(), String> {
        match &expression.expr {
            Expr::Literal(_) => Ok(()),
            Expr::Ident(name) if scope.own.contains(&name.as_str()) => Ok(()),
            Expr::Ident(name) if name == ENTRY || FIELDS.contains(&name.as_str()) => Ok(()),
            Expr::Ident(name) => Err(format!(
                "found the variable `{name}`, expected `{ENTRY}` or {}",
                FIELDS.map(|field| format!("`{field}`")).join(", ")
            )),
            Expr::Select(select) => self.look_at(&select.operand, scope),
            Expr::List(list) => list.elements.iter().try_for_each(|element| self.look_at(element, scope)),
            Expr::Call(call) => {
                self.look_at_call(call)?;
                let target = call.target.iter().map(AsRef::as_ref);
                target.chain(&call.args).try_for_each(|part| self.look_at(part, scope))
            }
            Expr::Comprehension(_) if !scope.own.is_empty() => {
                Err("a macro such as `exists` within another is not supported: it may take too long"
                    .to_owned())
            }
            Expr::Comprehension(all) if matches!(all.accu_init.expr, Expr::List(_)) => {
                Err("`map` and `filter` are not supported; `all`, `exists` and `exists_one` are".to_owned())
            }
            Expr::Comprehension(all) => {
                self.look_at(&all.iter_range, scope)?;
                let mut own = vec![all.iter_var.as_str(), all.accu_var.as_str()];
                own.extend(all.iter_var2.as_deref());
                let within = [&all.accu_init, &all.loop_cond, &all.loop_step, &all.result];
                within.into_iter().try_for_each(|part| self.look_at(part, Scope { own: &own }))
            }
            Expr::Map(_) | Expr::Struct(_) | Expr::Unspecified => {
                Err("a map or a structure in an expression is not supported".to_owned())
            }
        }
    }

    fn look_at_call(&mut self, call: &CallExpr) -> Result<(), String> {
        let name = call.func_name.as_str();
        let is_operator = !name.chars().all(|c| c == '_' || c.is_alphanumeric());
        if !is_operator && !FUNCTIONS.contains(&name) {
            return Err(format!(
                "the function `{name}` is not supported; these are: {}",
                FUNCTIONS.join(", ")
            ));
        }
        if name != MATCHES {
            return Ok(());
        }
        match call.args.last().map(|pattern| &pattern.expr) {
            Some(Expr::Literal(LiteralValue::String(pattern))) => {
                let pattern = pattern.inner();
                let compiled = Regex::new(pattern)
                    .map_err(|error| format!("the pattern {}: {error}", quote(pattern)))?;
                self.patterns.insert(pattern.to_owned(), compiled);
                Ok(())
            }
            _ => Err(format!(
                "`{MATCHES}` takes a pattern that is written out, since it is compiled beforehand"
            )),
        }
    }
}

/// Makes the environment in which conditions are answered.
pub(crate) fn environment() -> Result<Arc<Env>, String> {
    let mut env = Env::stdlib();
    let told = |error: DeclarationError| error.to_string();
    cel::add_member_overload!(env, fn matches: (CelString, CelString) -> Result<CelBool>).map_err(told)?;
    cel::add_overload!(env, fn matches: (CelString, CelString) -> Result<CelBool>).map_err(told)?;
    Ok(Arc::new(env))
}

fn matches(text: &CelString<'_>, pattern: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    match PATTERNS.get().and_then(|patterns| patterns.get(pattern.inner())) {
        Some(pattern) => Ok(CelBool::from(pattern.is_match(text.inner()))),
        None => Err(ExecutionError::function_error(MATCHES, "the pattern is not known")),
    }
}

impl Condition {
    /// Returns whether it holds, or what is to be told if there is no telling: `place` is the condition's own.
    pub(crate) fn holds(
        &self,
        env: &Arc<Env>,
        entry: &Object<'_>,
        event: &Object<'_>,
        place: impl FnOnce() -> String,
    ) -> Result<bool, Violation> {
        let variables = Variables { entry, event };
        let mut context = Context::with_env(Arc::clone(env));
        context.set_variable_resolver(&variables);
        let message = match Value::resolve(&self.expression, &context) {
            Ok(Value::Bool(holds)) => return Ok(holds),
            Ok(other) => format!("found {}, expected true or false", other.type_of()),
            Err(error) => told(&error),
        };
        Err(violation(place(), CONDITION_FAILED, message))
    }
}

/// Tells an error in the words of the library, without values of the event.
fn told(error: &ExecutionError) -> String {
    match error {
        ExecutionError::NoSuchKey(name) => {
            format!("found no field {}, expected one; `has(…)` asks whether there is one", quote(name))
        }
        ExecutionError::NoSuchOverload(error) => error.to_string(),
        ExecutionError::UndeclaredReference(name) => {
            format!("found nothing of the name {}, expected a value", quote(name))
        }
        ExecutionError::IndexOutOfBounds(_) => "found fewer items, expected one of this index".to_owned(),
        ExecutionError::DivisionByZero(_) | ExecutionError::RemainderByZero(_) => {
            "found a division by zero".to_owned()
        }
        ExecutionError::Overflow(..) => "found a number that is too large".to_owned(),
        _ => "found a value of another type than the condition expects".to_owned(),
    }
}

/// Gives a condition its variables. A name such as `entry.context.ip` is looked for as a whole first, so that nothing is
/// read but what is asked for.
struct Variables<'e> {
    entry: &'e Object<'e>,
    event: &'e Object<'e>,
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let path: Vec<&str> = variable.split('.').collect();
        let json = match path.split_first() {
            Some((&ENTRY, within)) => self.entry.get(within),
            // A field that lacks is null, so that a condition can ask for it.
            Some((name, [])) if FIELDS.contains(name) => self.event.get(&path).or(Some("null".into())),
            Some((name, _)) if FIELDS.contains(name) => self.event.get(&path),
            _ => None,
        }?;
        let value = serde_json::from_str(&json).map_or(Value::Null, value);
        Box::<dyn Val>::try_from(value).ok().map(CowVal::Owned)
    }
}

/// Makes a value of CEL. A number that was written as an integer is one.
fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Bool(truth),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number),
            (None, Some(number)) => Value::UInt(number),
            _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::String(Arc::new(text)),
        Json::Array(items) => Value::List(Arc::new(items.into_iter().map(value).collect())),
        Json::Object(members) => {
            let members: HashMap<Key, Value> =
                members.into_iter().map(|(name, member)| (Key::from(name), value(member))).collect();
            Value::Map(Map { map: Arc::new(members) })
        }
    }
}
