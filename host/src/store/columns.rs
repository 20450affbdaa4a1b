//! The columns of a table for events: one entry for each field of an event.

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use sluicegate_verdicts::Event;

pub(super) type Statement<'q> = Query<'q, Postgres, PgArguments>;

/// A column, and how its values get there.
struct Column {
    name: &'static str,
    /// As `format_type` of PostgreSQL names it.
    sql_type: &'static str,
    is_required: bool,
    /// The type in which the values are sent: an array of it is one parameter.
    sent_as: &'static str,
    /// Hands over the values of all events.
    bind: for<'q> fn(Statement<'q>, &[&Event]) -> Statement<'q>,
}

const COLUMNS: [Column; 5] = [
    Column {
        name: "time",
        sql_type: "timestamp with time zone",
        is_required: true,
        sent_as: "timestamp with time zone",
        bind: |statement, events| statement.bind(values(events, |event| event.time)),
    },
    Column {
        name: "event_id",
        sql_type: "uuid",
        is_required: true,
        sent_as: "uuid",
        bind: |statement, events| statement.bind(values(events, |event| event.event_id)),
    },
    Column {
        name: "event_type",
        sql_type: "text",
        is_required: true,
        sent_as: "text",
        bind: |statement, events| statement.bind(values(events, |event| event.event_type.as_str())),
    },
    Column {
        name: "user_id",
        sql_type: "text",
        is_required: true,
        sent_as: "text",
        bind: |statement, events| statement.bind(values(events, |event| event.user_id.as_str())),
    },
    Column {
        name: "properties",
        sql_type: "jsonb",
        is_required: false,
        sent_as: "text",
        bind: |statement, events| statement.bind(values(events, |event| event.properties.as_deref())),
    },
];

/// How many parameters [`bind`] takes.
pub(super) const PARAMETERS: usize = COLUMNS.len();

/// Two rows with the same values in these columns are the same event.
pub(super) const KEY: &str = "event_id, time";

fn values<'e, T>(events: &[&'e Event], value: impl Fn(&'e Event) -> T) -> Vec<T> {
    events.iter().map(|event| value(event)).collect()
}

fn listed(part: impl Fn(usize, &Column) -> String) -> String {
    COLUMNS.iter().zip(1..).map(|(column, number)| part(number, column)).collect::<Vec<_>>().join(", ")
}

/// Returns the names, in the order of the table.
pub(super) fn names() -> String {
    listed(|_, column| column.name.to_owned())
}

/// Returns the names, with this expression where the column `name` stands.
pub(super) fn names_but(name: &str, expression: &str) -> String {
    listed(|_, column| if column.name == name { expression } else { column.name }.to_owned())
}

/// Returns a query that makes rows of the parameters of [`bind`], each with `more` at its end.
pub(super) fn rows_sent(more: &str) -> String {
    format!(
        "SELECT {}{more} FROM UNNEST({}) AS event ({})",
        listed(|_, column| format!("{}::{}", column.name, column.sql_type)),
        listed(|number, column| format!("${number}::{}[]", column.sent_as)),
        names()
    )
}

/// Hands over all values of these events.
pub(super) fn bind<'q>(statement: Statement<'q>, events: &[&Event]) -> Statement<'q> {
    COLUMNS.iter().fold(statement, |statement, column| (column.bind)(statement, events))
}

/// Returns what stands between the brackets when the table is made.
pub(super) fn definition() -> String {
    let column = |column: &Column| {
        let constraint = if column.is_required { " NOT NULL" } else { "" };
        format!("{} {}{constraint}", column.name, column.sql_type)
    };
    format!("{}, PRIMARY KEY ({KEY})", listed(|_, it| column(it)))
}

/// Returns what a table must have: columns and key, by name.
pub(super) fn form() -> String {
    let mut columns = COLUMNS.map(|column| format!("{} {}", column.name, column.sql_type));
    columns.sort_unstable();
    format!("{}; primary key ({KEY})", columns.join(", "))
}

/// Returns the names as an array for PostgreSQL.
pub(super) fn name_array() -> Vec<&'static str> {
    COLUMNS.iter().map(|column| column.name).collect()
}
