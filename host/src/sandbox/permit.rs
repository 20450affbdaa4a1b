//! Waits for a permit on a thread that may block.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Blocks until there is a permit, in the order of asking. It never returns `None`: nobody closes the semaphores of
/// this folder.
pub(super) fn acquire_blocking(semaphore: &Semaphore) -> Option<SemaphorePermit<'_>> {
    futures_executor::block_on(semaphore.acquire()).ok()
}
