//! Who may go now: so many at a time, in the order of asking.

use std::sync::{Condvar, Mutex, PoisonError};

/// A line in front of a bounded number of places.
///
/// Many tenants may have a batch to judge at the same time. Without the bound
/// the pool of instances would run out, and guests would reach their time
/// limits because others have the processor.
#[derive(Debug)]
pub struct Turns {
    line: Mutex<Line>,
    moved: Condvar,
}

#[derive(Debug)]
struct Line {
    /// The number that the next one in the line gets.
    next: u64,
    /// Numbers below it may go.
    admitted: u64,
}

/// A place, until it is dropped.
#[must_use]
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Turns {
    /// For so many at a time.
    pub fn new(places: u32) -> Self {
        Self { line: Mutex::new(Line { next: 0, admitted: u64::from(places) }), moved: Condvar::new() }
    }

    /// Blocks until it is this one's turn.
    pub fn take(&self) -> Turn<'_> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let number = line.next;
        line.next += 1;
        let _line = self
            .moved
            .wait_while(line, |line| line.admitted <= number)
            .unwrap_or_else(PoisonError::into_inner);
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.line.lock().unwrap_or_else(PoisonError::into_inner).admitted += 1;
        self.0.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn no_more_than_there_are_places_and_all_in_the_end() {
        let (turns, inside, most) = (Turns::new(3), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let _turn = turns.take();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!((1..=3).contains(&most.into_inner()));
    }
}
