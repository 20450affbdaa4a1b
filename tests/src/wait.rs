//! Waits for conditions, never for time.

use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

/// Leaves time for a small and busy machine; only a failing test waits so long.
const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(15);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_all().build().expect("a runtime for the tests' own queries")
});

/// Runs what is asynchronous, from a test's plain sequence of steps.
pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// Looks again and again until `look` succeeds, or fails the test with what was awaited and what
/// was found last.
pub fn until<T>(awaited: &str, look: impl FnMut() -> Result<T, String>) -> T {
    until_within(DEADLINE, awaited, look)
}

/// Does the same as [`until`], with a deadline that the test is about.
pub fn until_within<T>(deadline: Duration, awaited: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(found) if start.elapsed() > deadline => {
                panic!("waited {deadline:?} for {awaited}; found {found}")
            }
            Err(_) => sleep(POLL),
        }
    }
}
