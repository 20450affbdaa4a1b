//! The terminal: what is drawn, and who presses which key.

use std::io;
use std::time::Duration;

use chrono::Utc;
use crossterm::event::{Event, EventStream};
use futures_util::StreamExt as _;
use ratatui::DefaultTerminal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Error;
use super::picture::ServicePicture;
use super::poll::poll;
use super::screen::{Look, draw};
use super::view::View;
use crate::client::Client;

/// How often the clock moves, if nothing else does.
const CLOCK: Duration = Duration::from_secs(1);

/// The terminal as a screen, which is what it was before when this is dropped, and after a panic.
struct Screen(DefaultTerminal);

impl Screen {
    fn enter() -> Result<Self, Error> {
        ratatui::try_init().map(Self).map_err(Error::Terminal)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Shows the services until somebody quits, or ends the program.
pub(super) async fn run(clients: Vec<Client>, interval: Duration) -> Result<(), Error> {
    // Those who end the program get their terminal back as well.
    let ends = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
    let ends = ends.into_iter().collect::<io::Result<Vec<Signal>>>().map_err(Error::Terminal)?;
    let mut ended = std::pin::pin!(any_of(ends));
    let mut view = View::new(clients.iter().map(ServicePicture::new).collect());
    let (looked_at, _) = watch::channel(None);
    let (told, mut updates) = mpsc::channel(clients.len());
    let mut polls = JoinSet::new();
    for (at, client) in clients.into_iter().enumerate() {
        polls.spawn(poll(client, at, interval, looked_at.subscribe(), told.clone()));
    }
    let look = Look { has_colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    let mut clock = tokio::time::interval(CLOCK);
    let mut screen = Screen::enter()?;
    let mut events = EventStream::new();
    loop {
        screen.0.draw(|frame| draw(frame, &view, Utc::now(), look)).map_err(Error::Terminal)?;
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) if view.press(key) => return Ok(()),
                Some(Ok(_)) => {} // a new size, for example
                Some(Err(error)) => return Err(Error::Terminal(error)),
                None => return Ok(()), // the terminal is gone
            },
            Some(update) = updates.recv() => view.update(update),
            _ = clock.tick() => {}
            _ = &mut ended => return Ok(()),
            Some(Err(panicked)) = polls.join_next() => return Err(panicked.into()),
        }
        looked_at.send_if_modified(|before| {
            let now = view.looked_at();
            let is_other = *before != now;
            *before = now;
            is_other
        });
    }
}

/// Waits for one of these signals.
async fn any_of(mut signals: Vec<Signal>) {
    let received = signals.iter_mut().map(|signal| Box::pin(signal.recv()));
    futures_util::future::select_all(received).await;
}
