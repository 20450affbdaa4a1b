//! `sluicegate top`: shows what each tenant does, by the admin API of a service or of several.
//!
//! - `picture`: what the services told last, and whether they answer
//! - `row`: a tenant in the list, and what is wrong with it
//! - `table`: the columns, as many as there is room for
//! - `view`: what is shown of the picture, and how keys change that
//! - `screen`: draws it
//! - `poll`: asks the services again and again
//! - `interactive`: the terminal

mod interactive;
mod picture;
mod poll;
mod row;
mod screen;
mod table;
mod view;

use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use clap::Args;
use futures_util::future::join_all;
use serde::Serialize;
use tokio::task::JoinError;
use tokio::time::MissedTickBehavior;

use crate::admin::TenantView;
use crate::client::{self, Client, Services};
use crate::text::{printable, printable_json};
use picture::ServicePicture;
use row::Sort;

/// The shortest interval: a service looks into Redis once a second at most.
const MIN_INTERVAL: Duration = Duration::from_millis(200);

/// What to show, and how.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    services: Services,
    /// How often to ask
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = interval)]
    interval: Duration,
    /// Print a table and end
    #[arg(long)]
    once: bool,
    /// For programs: a JSON document, or without --once one a line at each interval
    #[arg(long)]
    json: bool,
}

/// Why there is nothing to see.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Client(#[from] client::Error),
    #[error("standard output is no terminal; add --once for a table, or --json")]
    NoTerminal,
    #[error("the terminal: {0}")]
    Terminal(io::Error),
    #[error("writing the output: {0}")]
    Output(#[from] io::Error),
    /// The program has a defect.
    #[error("asking a service panicked: {0}")]
    Panicked(#[from] JoinError),
}

/// Shows the tenants until somebody quits, or once. Returns whether every service that was asked once has answered.
pub async fn run(options: Options, out: &mut dyn Write, errors: &mut dyn Write) -> Result<bool, Error> {
    let clients = options.services.clients()?;
    let shown = match (options.once, options.json) {
        (true, as_json) => once(&clients, as_json, out, errors).await,
        (false, true) => follow(&clients, options.interval, out).await.map(|()| true),
        (false, false) if !io::stdout().is_terminal() => return Err(Error::NoTerminal),
        (false, false) => {
            return interactive::run(clients, options.interval).await.map(|()| true);
        }
    };
    match shown {
        // Whoever reads it may have read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
        shown => Ok(shown?),
    }
}

async fn once(
    clients: &[Client],
    as_json: bool,
    out: &mut dyn Write,
    errors: &mut dyn Write,
) -> io::Result<bool> {
    let services = ask_all(clients).await;
    match as_json {
        true => writeln!(out, "{}", document(clients, &services))?,
        false if services.iter().any(ServicePicture::has_told) => {
            table::write(&row::rows(&services, Sort::default()), services.len() > 1, out)?;
        }
        false => {}
    }
    out.flush()?;
    let failures = services.iter().filter_map(|service| service.failing.as_ref());
    let told = failures.map(|failing| writeln!(errors, "sluicegate: {}", failing.why));
    Ok(told.count() == 0)
}

/// Writes a document a line until nobody reads any more.
async fn follow(clients: &[Client], interval: Duration, out: &mut dyn Write) -> io::Result<()> {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        writeln!(out, "{}", document(clients, &ask_all(clients).await))?;
        out.flush()?;
    }
}

async fn ask_all(clients: &[Client]) -> Vec<ServicePicture> {
    join_all(clients.iter().map(async |client| {
        let mut service = ServicePicture::new(client);
        service.update(Utc::now(), poll::tenants(client).await);
        service
    }))
    .await
}

#[derive(Serialize)]
struct Document<'a> {
    at: String,
    services: Vec<ServiceDocument<'a>>,
}

#[derive(Serialize)]
struct ServiceDocument<'a> {
    url: &'a str,
    /// Why it has not answered.
    error: Option<&'a str>,
    tenants: &'a [TenantView],
}

fn document(clients: &[Client], services: &[ServicePicture]) -> String {
    let services = clients.iter().zip(services).map(|(client, service)| ServiceDocument {
        url: client.url().as_str(),
        error: service.failing.as_ref().map(|failing| failing.why.as_str()),
        tenants: service.tenants(),
    });
    let at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
    let document = Document { at, services: services.collect() };
    // Names and numbers become JSON always.
    printable_json(&serde_json::to_string(&document).unwrap_or_default()).into_owned()
}

fn interval(text: &str) -> Result<Duration, String> {
    let wanted = || format!("found {:?}, wanted a time of 200ms or more, such as 2s", printable(text));
    humantime::parse_duration(text).ok().filter(|interval| *interval >= MIN_INTERVAL).ok_or_else(wanted)
}
