//! Answers for what guests ask of the host: statements, lag and delivery counts, from a file that the author writes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use serde::Deserialize;
use uuid::Uuid;

use super::Error;
use crate::capabilities::{
    Lost, StatementError, StatementMeter, StatementResult, TransactionRequest, TransactionRequests, Value,
};
use crate::config::{Parameter, Statement};
use crate::store::check_parameters;
use sluicegate_verdicts::EntryId;
use sluicegate_verdicts::format::{compact, time_of};

/// The file in the folder of the goldens.
pub(super) const FILE: &str = "fakes.toml";
/// The most bytes of the file.
const MAX_BYTES: u64 = 16 << 20;
/// The most characters of parameters that an error shows.
const MAX_SHOWN: usize = 300;

/// What the host answers.
#[derive(Default)]
pub(super) struct Fakes {
    file: PathBuf,
    pub(super) lag: Option<u64>,
    deliveries: BTreeMap<EntryId, u64>,
    statements: BTreeMap<String, Vec<Fake>>,
}

/// The answer to a statement with these parameters, or with any.
struct Fake {
    parameters: Option<Vec<Value>>,
    answer: Result<Answer, StatementError>,
}

#[derive(Clone)]
enum Answer {
    Rows(Vec<Vec<Value>>),
    Changed(u64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    lag: Option<u64>,
    #[serde(default)]
    deliveries: BTreeMap<String, u64>,
    #[serde(default)]
    statements: BTreeMap<String, Vec<FileFake>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileFake {
    parameters: Option<Vec<toml::Value>>,
    rows: Option<Vec<Vec<toml::Value>>>,
    changed: Option<u64>,
    error: Option<FileError>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum FileError {
    /// What PostgreSQL says: SQLSTATE and message.
    Refused { code: String, message: String },
    /// The limit in milliseconds.
    TimedOut(u64),
    /// The limit in rows or bytes.
    TooMuch(u64),
}

impl Fakes {
    /// Reads the fakes for these statements from a file in the folder of the goldens, if there is one.
    pub(super) fn read(folder: &Path, statements: &BTreeMap<String, Statement>) -> Result<Self, Error> {
        let path = folder.join(FILE);
        if !path.exists() {
            return Ok(Self { file: path, ..Self::default() });
        }
        let mut text = String::new();
        fs::File::open(&path)
            .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text))
            .map_err(|source| Error::Fakes { file: path.clone(), message: source.to_string() })?;
        Self::parse(&text, statements)
            .map(|fakes| Self { file: path.clone(), ..fakes })
            .map_err(|message| Error::Fakes { file: path, message })
    }

    fn parse(text: &str, statements: &BTreeMap<String, Statement>) -> Result<Self, String> {
        let File { lag, deliveries, statements: fakes } =
            toml::from_str(text).map_err(|error| error.to_string())?;
        let deliveries = deliveries.into_iter().map(|(id, count)| match EntryId::parse(id.as_bytes()) {
            Some(id) => Ok((id, count)),
            None => Err(format!("deliveries: {id:?} is no ID of an entry; wanted <milliseconds>-<sequence>")),
        });
        let fakes = fakes.into_iter().map(|(name, fakes)| {
            let statement = statements.get(&name);
            let wanted = "wanted the name of a statement that the settings grant, under [grants]";
            let statement =
                statement.ok_or_else(|| format!("statements.{name}: it is not granted; {wanted}"))?;
            let fakes = fakes.into_iter().enumerate();
            let fakes = fakes.map(|(i, fake)| {
                Fake::read(fake, statement).map_err(|message| format!("statements.{name}[{i}]: {message}"))
            });
            let fakes = fakes.collect::<Result<_, String>>()?;
            Ok((name, fakes))
        });
        Ok(Self {
            file: PathBuf::new(),
            lag,
            deliveries: deliveries.collect::<Result<_, String>>()?,
            statements: fakes.collect::<Result<_, String>>()?,
        })
    }

    /// Returns how often an entry was delivered.
    pub(super) fn deliveries(&self, id: EntryId) -> u64 {
        self.deliveries.get(&id).copied().unwrap_or(1)
    }

    /// Answers what the rules ask of the transaction of a batch, within the limits of the service. A statement without a
    /// fake ends the transaction, and is told.
    pub(super) async fn serve(
        &self,
        statements: &BTreeMap<String, Statement>,
        missing: &Mutex<Option<String>>,
        mut requests: TransactionRequests,
    ) {
        let mut meter = StatementMeter::default();
        while let Some(request) = requests.recv().await {
            // If the asker has gone meanwhile, nobody has a use for the answer.
            match request {
                TransactionRequest::BeginCall(answer) => {
                    meter.begin_call();
                    let _ = answer.send(Ok(()));
                }
                TransactionRequest::UndoCall(answer) => {
                    meter.undo_call();
                    let _ = answer.send(Ok(()));
                }
                TransactionRequest::Query(name, parameters, answer) => {
                    let found = self.answer(statements, missing, &mut meter, &name, parameters);
                    let _ = answer.send(found.map(|answer| answer.map(Answer::into_rows)));
                }
                TransactionRequest::Execute(name, parameters, answer) => {
                    let found = self.answer(statements, missing, &mut meter, &name, parameters);
                    let _ = answer.send(found.map(|answer| answer.map(|answer| answer.changed())));
                }
            }
        }
    }

    fn answer(
        &self,
        statements: &BTreeMap<String, Statement>,
        missing: &Mutex<Option<String>>,
        meter: &mut StatementMeter,
        name: &str,
        parameters: Vec<Value>,
    ) -> StatementResult<Answer> {
        let Some(statement) = statements.get(name) else {
            return Ok(Err(StatementError::NotGranted(name.to_owned())));
        };
        let checked = meter.admit(&parameters).and_then(|()| check_parameters(statement, parameters.clone()));
        if let Err(refusal) = checked {
            return Ok(Err(refusal));
        }
        let parameters: Vec<Value> = parameters.into_iter().map(canonical).collect();
        let fits = |fake: &&Fake| fake.parameters.as_ref().is_none_or(|wanted| *wanted == parameters);
        let Some(fake) = self.statements.get(name).and_then(|fakes| fakes.iter().find(fits)) else {
            missing.lock().get_or_insert_with(|| self.missing(name, &parameters));
            return Err(Lost);
        };
        Ok(match &fake.answer {
            Ok(Answer::Rows(rows)) if rows.len() > statement.rows => {
                Err(StatementError::too_much(statement.rows))
            }
            answer => answer.clone(),
        })
    }

    /// Says which fake is wanted, as the file would have it.
    fn missing(&self, name: &str, parameters: &[Value]) -> String {
        let shown: String =
            parameters.iter().map(shown).collect::<Vec<_>>().join(", ").chars().take(MAX_SHOWN).collect();
        format!(
            "the rules run the statement {name}, for which {} has no answer; wanted there: [[statements.{name}]] with \
             parameters = [{shown}], or without to answer all, and with rows = [[…]], changed = 1 or error = {{ … }}",
            self.file.display()
        )
    }
}

impl Answer {
    fn into_rows(self) -> Vec<Vec<Value>> {
        match self {
            Self::Rows(rows) => rows,
            Self::Changed(_) => Vec::new(),
        }
    }

    fn changed(&self) -> u64 {
        match self {
            Self::Rows(rows) => u64::try_from(rows.len()).unwrap_or(u64::MAX),
            Self::Changed(changed) => *changed,
        }
    }
}

impl Fake {
    fn read(
        FileFake { parameters, rows, changed, error }: FileFake,
        statement: &Statement,
    ) -> Result<Self, String> {
        let parameters = parameters.map(|given| match given.len() == statement.parameters.len() {
            true => given
                .iter()
                .zip(&statement.parameters)
                .map(|(value, kind)| read(value, Some(*kind)))
                .collect(),
            false => Err(format!("{} parameters, wanted {}", given.len(), statement.parameters.len())),
        });
        let answer = match (rows, changed, error) {
            (Some(rows), None, None) => {
                let row = |row: &Vec<toml::Value>| row.iter().map(|value| read(value, None)).collect();
                Ok(Answer::Rows(rows.iter().map(row).collect::<Result<_, String>>()?))
            }
            (None, Some(changed), None) => Ok(Answer::Changed(changed)),
            (None, None, Some(error)) => Err(match error {
                FileError::Refused { code, message } => StatementError::Refused(code, message),
                FileError::TimedOut(limit_ms) => StatementError::TimedOut(limit_ms),
                FileError::TooMuch(limit) => StatementError::TooMuch(limit),
            }),
            _ => return Err("wanted one of rows, changed and error".to_owned()),
        };
        Ok(Self { parameters: parameters.transpose()?, answer })
    }
}

/// Reads a value of this kind, or of the kind that it seems to be.
fn read(value: &toml::Value, kind: Option<Parameter>) -> Result<Value, String> {
    let wrong = || {
        let wanted =
            kind.map_or("text, a number, a boolean, a time".to_owned(), |kind| kind.as_str().to_owned());
        format!(
            "found {value}; wanted {wanted}, or one of {{ null = true }}, {{ uuid = \"…\" }}, {{ timestamp = \"…\" }}, \
             {{ json = \"…\" }}, {{ bytes = \"base64\" }}"
        )
    };
    let typed = |name: &str, value: &toml::Value| match name {
        "null" => Ok(Value::Null),
        "uuid" => read(value, Some(Parameter::Uuid)),
        "timestamp" => read(value, Some(Parameter::Timestamp)),
        "json" => read(value, Some(Parameter::Json)),
        "bytes" => read(value, Some(Parameter::Bytes)),
        _ => Err(wrong()),
    };
    match (value, kind) {
        (toml::Value::Table(table), _) => match table.iter().next() {
            Some((name, value)) if table.len() == 1 && !value.is_table() => typed(name, value),
            _ => Err(wrong()),
        },
        (toml::Value::String(text), None | Some(Parameter::Text)) => Ok(Value::Text(text.clone())),
        (toml::Value::String(text), Some(Parameter::Uuid)) => match Uuid::try_parse(text) {
            Ok(uuid) => Ok(Value::Uuid(uuid.to_string())),
            Err(_) => Err(wrong()),
        },
        (toml::Value::String(text), Some(Parameter::Timestamp)) => {
            time_of(text).map(Value::Timestamp).ok_or_else(wrong)
        }
        (toml::Value::String(text), Some(Parameter::Json)) => Ok(canonical(Value::Json(text.clone()))),
        (toml::Value::String(text), Some(Parameter::Bytes)) => {
            STANDARD.decode(text).map(Value::Bytes).map_err(|_| wrong())
        }
        (toml::Value::Integer(number), None | Some(Parameter::Integer)) => Ok(Value::Integer(*number)),
        (toml::Value::Integer(micros), Some(Parameter::Timestamp)) => Ok(Value::Timestamp(*micros)),
        (toml::Value::Float(number), None | Some(Parameter::Number)) => Ok(Value::Number(*number)),
        (toml::Value::Boolean(is_true), None | Some(Parameter::Boolean)) => Ok(Value::Boolean(*is_true)),
        (toml::Value::Datetime(time), None | Some(Parameter::Timestamp)) => {
            time_of(&time.to_string()).map(Value::Timestamp).ok_or_else(wrong)
        }
        _ => Err(wrong()),
    }
}

/// Returns the one form of a value that has several.
fn canonical(value: Value) -> Value {
    match value {
        Value::Uuid(text) => Value::Uuid(Uuid::try_parse(&text).map_or(text, |uuid| uuid.to_string())),
        Value::Json(text) => Value::Json(compact(&text)),
        other => other,
    }
}

/// Returns a value as the file would have it.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "{ null = true }".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) | Value::Timestamp(value) => value.to_string(),
        Value::Number(value) => format!("{value:?}"),
        Value::Text(text) | Value::Uuid(text) => toml::Value::String(text.clone()).to_string(),
        Value::Json(text) => toml::Value::String(text.clone()).to_string(),
        Value::Bytes(bytes) => format!("\"{}\"", STANDARD.encode(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Time;

    fn statements() -> BTreeMap<String, Statement> {
        use Parameter::{Bytes, Integer, Json, Number, Text, Timestamp, Uuid};
        let parameters = vec![Text, Uuid, Timestamp, Json, Bytes, Number, Integer];
        let statement = Statement { sql: "SELECT 1".to_owned(), parameters, timeout: Time::secs(1), rows: 1 };
        BTreeMap::from([("look".to_owned(), statement)])
    }

    fn asked() -> Vec<Value> {
        vec![
            Value::Text("a".into()),
            Value::Uuid("0C7B6B3E5A0E4B0F9D6C2F1F6A3C8E11".into()),
            Value::Timestamp(1),
            Value::Json(r#"{ "a": 1 }"#.into()),
            Value::Bytes(vec![255]),
            Value::Number(0.5),
            Value::Null,
        ]
    }

    fn answer(fakes: &str, parameters: Vec<Value>) -> Result<Result<Answer, StatementError>, String> {
        let (fakes, missing) = (Fakes::parse(fakes, &statements()).expect("fakes"), Mutex::default());
        fakes
            .answer(&statements(), &missing, &mut StatementMeter::default(), "look", parameters)
            .map_err(|Lost| missing.into_inner().expect("what is missing"))
    }

    const PARAMETERS: &str = r#"["a", "0c7b6b3e-5a0e-4b0f-9d6c-2f1f6a3c8e11", 1970-01-01T00:00:00.000001Z, '{"a":1}', "/w==", 0.5, { null = true }]"#;

    #[test]
    fn a_statement_is_answered_by_the_first_fake_that_fits() {
        let fakes = format!(
            "[[statements.look]]\nparameters = {}\nchanged = 9\n[[statements.look]]\nparameters = {PARAMETERS}\n\
             rows = [[\"gold\", 7, true, {{ json = '{{}}' }}]]\n[[statements.look]]\nerror = {{ timed_out = 100 }}\n",
            PARAMETERS.replace("[\"a\"", "[\"b\"")
        );
        let wanted = vec![vec![
            Value::Text("gold".into()),
            Value::Integer(7),
            Value::Boolean(true),
            Value::Json("{}".into()),
        ]];
        let found = answer(&fakes, asked()).expect("an answer").expect("no error");
        assert_eq!(found.changed(), 1);
        assert_eq!(found.into_rows(), wanted);
        let others = std::iter::once(Value::Null).chain(asked().into_iter().skip(1)).collect();
        assert_eq!(answer(&fakes, others).expect("an answer").err(), Some(StatementError::TimedOut(100)));
        assert!(matches!(answer(&fakes, Vec::new()), Ok(Err(StatementError::WrongParameters(_)))));
        let two = "[[statements.look]]\nrows = [[1], [2]]\n";
        assert_eq!(answer(two, asked()).expect("an answer").err(), Some(StatementError::TooMuch(1)));
    }

    /// What the error shows can be copied into the file.
    #[test]
    fn a_statement_without_a_fake_is_told_as_the_file_would_have_it() {
        let missing = answer("lag = 1", asked()).err().expect("no fake");
        let shown = missing.split_once("parameters = ").and_then(|(_, rest)| rest.split_once(", or without"));
        let (shown, _) = shown.expect("parameters");
        let fakes = format!("[[statements.look]]\nparameters = {shown}\nchanged = 3\n");
        assert_eq!(answer(&fakes, asked()).expect("an answer").expect("no error").changed(), 3);
    }

    #[test]
    fn what_is_no_fake_is_refused_with_its_place() {
        for (text, wanted) in [
            ("[[statements.other]]\nchanged = 1", "statements.other: it is not granted"),
            (
                "[[statements.look]]\nchanged = 1\nrows = []",
                "statements.look[0]: wanted one of rows, changed and error",
            ),
            ("[[statements.look]]\nparameters = [1]\nchanged = 1", "1 parameters, wanted 7"),
            ("[[statements.look]]\nrows = [[{ a = 1 }]]", "{ uuid = "),
            ("[deliveries]\n5 = 1", "wanted <milliseconds>-<sequence>"),
            ("lags = 1", "unknown field `lags`"),
        ] {
            let error = Fakes::parse(text, &statements()).err().expect("a refusal");
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
