//! Sends what replays of dead letters have published.
//!
//! It is committed with the rows of the replay, and sent afterwards: by the replay itself or, if
//! that was killed, by the next one or by the service. So it may be sent twice but is not lost, and
//! nothing is sent that is not committed.

use crate::failpoint::failpoint;
use crate::store::{self, Store};
use crate::stream::{self, Stream};

/// Why publications were not sent. They are kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Stream(#[from] stream::Error),
    #[error("postgres: {0}")]
    Store(#[from] store::Error),
}

/// Sends all that is due, except what somebody else is sending. Returns the number of sent entries.
///
/// The stream is made only when there is something to send.
pub async fn send(store: &Store, stream: impl Fn() -> Result<Stream, stream::Error>) -> Result<usize, Error> {
    let mut sent = 0;
    while let Some(due) = store.due().await? {
        stream()?.publish(&due.publications).await?;
        failpoint!("after_publish", store::Error::SessionLost.into());
        sent += due.publications.len();
        store.sent(due).await?;
    }
    Ok(sent)
}
