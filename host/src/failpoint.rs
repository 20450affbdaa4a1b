//! Failpoints are places at which a test makes the service fail, stall or die.
//!
//! They need the feature `failpoints` (`make failpoints`): in any other build, [`failpoint!`] is
//! nothing at all. The variable `FAILPOINTS` says what happens where, such as
//! `after_read=error/5;before_insert=delay:300/3;after_ack=kill/20`: the action at every fifth,
//! third and twentieth time.

/// Marks a place by its name, with the error that the action `error` stands for, if there can be
/// one. The error is returned, so it takes the same path as a real one.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        let _ = $crate::failpoint::reach($name).await;
    };
    ($name:literal, $error:expr) => {
        #[cfg(feature = "failpoints")]
        if $crate::failpoint::reach($name).await {
            return Err($error);
        }
    };
}
pub(crate) use failpoint;

#[cfg(feature = "failpoints")]
pub(crate) use enabled::reach;

#[cfg(feature = "failpoints")]
mod enabled {
    use std::collections::HashMap;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Action {
        Error,
        Delay(Duration),
        Kill,
    }

    #[derive(Debug)]
    pub(super) struct Point {
        pub(super) action: Action,
        /// The action takes place each time that a multiple of this number is reached.
        pub(super) every: u64,
        reached: AtomicU64,
    }

    static POINTS: LazyLock<HashMap<String, Point>> = LazyLock::new(|| {
        let text = std::env::var("FAILPOINTS").unwrap_or_default();
        #[expect(clippy::panic, reason = "a test that does not say what it wants must not pass")]
        parse(&text).unwrap_or_else(|| panic!("FAILPOINTS does not read: {text:?}"))
    });

    pub(super) fn parse(text: &str) -> Option<HashMap<String, Point>> {
        let point = |text: &str| {
            let (name, rest) = text.split_once('=')?;
            let (action, every) = rest.split_once('/')?;
            let action = match action.split_once(':') {
                Some(("delay", millis)) => Action::Delay(Duration::from_millis(millis.parse().ok()?)),
                None if action == "error" => Action::Error,
                None if action == "kill" => Action::Kill,
                _ => return None,
            };
            let every = every.parse().ok().filter(|every| *every > 0)?;
            Some((name.to_owned(), Point { action, every, reached: AtomicU64::new(0) }))
        };
        text.split(';').filter(|part| !part.is_empty()).map(point).collect()
    }

    /// Does what is to be done at this place, and returns whether the place is to fail.
    pub(crate) async fn reach(name: &str) -> bool {
        let Some(Point { action, every, reached }) = POINTS.get(name) else { return false };
        if (reached.fetch_add(1, Ordering::Relaxed) + 1) % every != 0 {
            return false;
        }
        tracing::warn!(name, ?action, "failpoint");
        match action {
            Action::Error => return true,
            Action::Delay(delay) => tokio::time::sleep(*delay).await,
            Action::Kill => {
                let _ = kill_process(getpid(), Signal::KILL);
                std::future::pending::<()>().await;
            }
        }
        false
    }
}

#[cfg(all(test, feature = "failpoints"))]
mod tests {
    use super::enabled::{Action, parse};

    #[test]
    fn points_are_read() {
        let points = parse("a=error/5;b=delay:30/1;c=kill/2").expect("it reads");
        let found = |name: &str| points.get(name).map(|point| (point.action, point.every));
        assert_eq!(found("a"), Some((Action::Error, 5)));
        assert_eq!(found("b"), Some((Action::Delay(std::time::Duration::from_millis(30)), 1)));
        assert_eq!(found("c"), Some((Action::Kill, 2)));
        for bad in ["a", "a=error", "a=error/0", "a=delay/1", "a=panic/1"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
