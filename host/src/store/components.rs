//! Keeps the components of the rules, each once.

use super::pool::on_connection;
use super::{Database, Error};
use crate::batch::Digest;

/// The bytes of a component that are sent at a time.
const COPY_BYTES: usize = 64 << 10;

impl Database {
    /// Stores a component, unless it is there. It is read only when it is missing, and one at a time: they can be large.
    pub async fn store_component<E: From<Error>>(
        &self,
        component: Digest,
        read: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        if self.keep_component(component).await? {
            return Ok(());
        }
        let _alone = self.storing.lock().await;
        if self.keep_component(component).await? {
            return Ok(());
        }
        let bytes = read()?;
        match self.copy_component(component, &bytes).await {
            // Another replica was faster.
            Err(_) if self.keep_component(component).await? => Ok(()),
            copied => Ok(copied?),
        }
    }

    /// Sends a component piece by piece: a parameter would be copied as a whole several times.
    async fn copy_component(&self, component: Digest, bytes: &[u8]) -> Result<(), Error> {
        on_connection!(self, "storing a component", |connection| {
            let mut copy = connection
                .copy_in_raw("COPY rules_components (component, bytes) FROM STDIN (FORMAT binary)")
                .await?;
            // A header without flags and extensions, a row of two fields, and its end.
            let length = |bytes: &[u8]| i32::try_from(bytes.len()).map_err(|_| Error::TooManyFields);
            let (name, size) = (component.as_bytes(), length(bytes)?);
            let head = [
                &b"PGCOPY\n\xff\r\n\0"[..],
                &[0; 8],
                &2_i16.to_be_bytes(),
                &length(name)?.to_be_bytes(),
                name,
                &size.to_be_bytes(),
            ];
            copy.send(head.concat()).await?;
            for piece in bytes.chunks(COPY_BYTES) {
                copy.send(piece).await?;
            }
            copy.send(&(-1_i16).to_be_bytes()[..]).await?;
            copy.finish().await?;
            Ok(())
        })
    }

    /// Returns whether the component is stored. It stays for a day then, though no version may have it yet.
    async fn keep_component(&self, component: Digest) -> Result<bool, Error> {
        on_connection!(self, "looking for a component", |connection| {
            let kept = sqlx::query("UPDATE rules_components SET stored_at = now() WHERE component = $1");
            let kept = kept.bind(component.as_bytes()).execute(connection).await?;
            Ok(kept.rows_affected() > 0)
        })
    }

    /// Returns the bytes of a component.
    pub async fn component(&self, component: Digest) -> Result<Option<Vec<u8>>, Error> {
        on_connection!(self, "reading a component", |connection| {
            let bytes = sqlx::query_scalar("SELECT bytes FROM rules_components WHERE component = $1");
            Ok(bytes.bind(component.as_bytes()).fetch_optional(connection).await?)
        })
    }
}
