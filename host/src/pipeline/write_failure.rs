//! Decides what is done about a part of a batch that PostgreSQL did not take.
//!
//! Most errors tell by their SQLSTATE whose fault they are. Many do not: a trigger of the user's
//! can raise any of them about one row, and so can a frozen chunk, a policy, an extension. Then the
//! stage looks whether other rows can be written. If they can, the batch is halved until the row's
//! entry is alone, and it is given up when it has been tried for long enough. If they cannot, it is
//! the server, and no entry is to blame.

use crate::store::{OtherRows, Remedy};

/// How often the server may lack what a single entry needs before it is refused: about ten seconds.
const MAX_SHORTAGES: u32 = 10;
/// How often a single entry is tried, whatever the time, before it is refused for an error that may
/// pass.
const MIN_TRIES: u32 = 3;

/// A failure to write a part, as far as it decides what comes next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) remedy: Remedy,
    /// Whether the write ended because it took the server or the service too long.
    pub(super) is_too_slow: bool,
    /// How often this part has failed, this time included.
    pub(super) failures: u32,
    /// Whether the part was tried for as long as a single entry is.
    pub(super) is_out_of_patience: bool,
    pub(super) part: Shape,
    /// Whether others of the batch could be tried first.
    pub(super) is_ahead: bool,
    /// Whether other rows can be written, or `None` before somebody has looked.
    pub(super) others: Option<OtherRows>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Several entries.
    Several,
    /// A single entry with one row, or one whose outcome is not known.
    Row,
    /// A single entry with many rows.
    Rows,
    /// A single entry that is a dead letter already.
    Letter,
}

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Tries the same again, after a pause.
    Again,
    /// Tries the others of the batch first: they need not wait for this part, and tell more.
    Later,
    /// Tries each half by itself.
    Halve,
    /// Looks whether other rows can be written.
    Look,
    /// Makes a dead letter of the entry.
    Refuse,
    /// Ends the run, because somebody must change something.
    Stop,
}

impl Failure {
    pub(super) fn next(self) -> Step {
        let is_several = self.part == Shape::Several;
        match self.remedy {
            // The first time may be because of somebody's lock.
            Remedy::Retry if self.is_too_slow && self.failures > 1 && is_several => Step::Halve,
            Remedy::Retry => Step::Again,
            Remedy::Split | Remedy::BlameRow if is_several => Step::Halve,
            // An entry of many rows is at fault itself, if the server is short again and again. One
            // of a single row most likely came at a bad time.
            Remedy::Split if self.part == Shape::Rows && self.failures >= MAX_SHORTAGES => Step::Refuse,
            Remedy::Split if self.part == Shape::Rows => Step::Again,
            Remedy::Split => self.unless_row(Step::Again),
            Remedy::BlameRow => Step::Refuse,
            Remedy::RetryUnlessRow => self.unless_row(Step::Again),
            Remedy::StopUnlessRow => self.unless_row(Step::Stop),
            Remedy::Stop => Step::Stop,
        }
    }

    /// Decides about an error that may be a row's fault, with `else_` if it is not.
    fn unless_row(self, else_: Step) -> Step {
        let may_pass = else_ == Step::Again;
        match (self.others, self.part) {
            _ if may_pass && self.failures < 2 => Step::Again,
            // There is no other row that would tell.
            (_, Shape::Letter) => else_,
            (None, _) => Step::Look,
            (Some(OtherRows::Refused), _) => else_,
            (Some(OtherRows::Away), _) => Step::Again,
            (Some(OtherRows::Written | OtherRows::Unknown), Shape::Several) => Step::Halve,
            (Some(OtherRows::Unknown), _) if self.is_ahead => Step::Later,
            (Some(OtherRows::Unknown), _) => else_,
            (Some(OtherRows::Written), _)
                if may_pass && !(self.is_out_of_patience && self.failures >= MIN_TRIES) =>
            {
                if self.is_ahead {
                    Step::Later
                } else {
                    Step::Again
                }
            }
            // It is tried once more, on another connection.
            (Some(OtherRows::Written), _) if self.failures < 2 => Step::Again,
            (Some(OtherRows::Written), _) => Step::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The remedy, the shape, the failures, whether patience is at its end, and the others.
    type Case = (Remedy, Shape, u32, bool, Option<OtherRows>);

    fn failure((remedy, part, failures, is_out_of_patience, others): Case) -> Failure {
        Failure { remedy, is_too_slow: false, failures, is_out_of_patience, part, is_ahead: false, others }
    }

    #[test]
    fn each_failure_has_its_step() {
        use OtherRows::{Away, Refused, Unknown, Written};
        use Remedy::{BlameRow, Retry, RetryUnlessRow, Split, Stop, StopUnlessRow};
        use Shape::{Letter, Row, Rows, Several};
        for (case, wanted) in [
            // The server is away: nobody is to blame, for as long as it takes.
            ((Retry, Several, 1, false, None), Step::Again),
            ((Retry, Row, 1_000, true, Some(Written)), Step::Again),
            // It has no room for so much.
            ((Split, Several, 1, false, None), Step::Halve),
            ((Split, Row, 1, true, None), Step::Again),
            ((Split, Row, 3, false, Some(Written)), Step::Again),
            ((Split, Row, 3, true, Some(Written)), Step::Refuse),
            ((Split, Row, 1_000, true, Some(Refused)), Step::Again),
            ((Split, Rows, MAX_SHORTAGES - 1, true, None), Step::Again),
            ((Split, Rows, MAX_SHORTAGES, false, None), Step::Refuse),
            // There is a value that it cannot hold, say.
            ((BlameRow, Several, 1, false, None), Step::Halve),
            ((BlameRow, Row, 1, false, None), Step::Refuse),
            ((BlameRow, Letter, 1, false, None), Step::Refuse),
            // There was a deadlock, or an internal error.
            ((RetryUnlessRow, Several, 1, false, None), Step::Again),
            ((RetryUnlessRow, Several, 2, false, None), Step::Look),
            ((RetryUnlessRow, Several, 2, false, Some(Refused)), Step::Again),
            ((RetryUnlessRow, Several, 2, false, Some(Away)), Step::Again),
            ((RetryUnlessRow, Several, 2, false, Some(Written)), Step::Halve),
            ((RetryUnlessRow, Several, 2, false, Some(Unknown)), Step::Halve),
            ((RetryUnlessRow, Row, 9, false, Some(Written)), Step::Again),
            ((RetryUnlessRow, Row, 2, true, Some(Written)), Step::Again),
            ((RetryUnlessRow, Row, 3, true, Some(Written)), Step::Refuse),
            ((RetryUnlessRow, Rows, 3, true, Some(Written)), Step::Refuse),
            ((RetryUnlessRow, Row, 1_000, true, Some(Unknown)), Step::Again),
            ((RetryUnlessRow, Row, 1_000, true, Some(Refused)), Step::Again),
            ((RetryUnlessRow, Letter, 1_000, true, None), Step::Again),
            // There is no such table, or no right to it.
            ((StopUnlessRow, Several, 1, false, None), Step::Look),
            ((StopUnlessRow, Several, 1, false, Some(Refused)), Step::Stop),
            ((StopUnlessRow, Several, 1, false, Some(Away)), Step::Again),
            ((StopUnlessRow, Several, 1, false, Some(Written)), Step::Halve),
            ((StopUnlessRow, Several, 1, false, Some(Unknown)), Step::Halve),
            ((StopUnlessRow, Row, 1, false, Some(Written)), Step::Again),
            ((StopUnlessRow, Row, 2, false, Some(Written)), Step::Refuse),
            ((StopUnlessRow, Row, 1, false, Some(Unknown)), Step::Stop),
            ((StopUnlessRow, Row, 1, false, Some(Refused)), Step::Stop),
            ((StopUnlessRow, Letter, 1, false, None), Step::Stop),
            ((Stop, Row, 1, false, None), Step::Stop),
            ((Stop, Several, 1, false, None), Step::Stop),
        ] {
            assert_eq!(failure(case).next(), wanted, "{case:?}");
        }
    }

    #[test]
    fn what_is_too_slow_twice_is_halved() {
        let step = |failures, part| {
            Failure { is_too_slow: true, ..failure((Remedy::Retry, part, failures, true, None)) }.next()
        };
        assert_eq!(step(1, Shape::Several), Step::Again);
        assert_eq!(step(2, Shape::Several), Step::Halve);
        assert_eq!(step(9, Shape::Row), Step::Again, "it is somebody's lock");
    }

    #[test]
    fn others_do_not_wait_for_an_entry_that_may_be_at_fault() {
        let step = |remedy, others| {
            Failure { is_ahead: true, ..failure((remedy, Shape::Row, 2, false, Some(others))) }.next()
        };
        assert_eq!(step(Remedy::RetryUnlessRow, OtherRows::Written), Step::Later);
        assert_eq!(step(Remedy::RetryUnlessRow, OtherRows::Refused), Step::Again);
        assert_eq!(step(Remedy::StopUnlessRow, OtherRows::Unknown), Step::Later, "the table is empty yet");
        assert_eq!(step(Remedy::StopUnlessRow, OtherRows::Refused), Step::Stop);
    }
}
