//! Reads and writes times and sizes as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A time with its unit, such as `500ms`, `10s` or `30d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Time(pub Duration);

/// A number of bytes, such as `64KiB` or `128MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(pub u64);

impl Time {
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    pub const fn days(days: u64) -> Self {
        Self::secs(days * 86_400)
    }

    /// Returns the time in whole milliseconds.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the time in whole days.
    pub fn as_days(self) -> u32 {
        u32::try_from(self.0.as_secs() / 86_400).unwrap_or(u32::MAX)
    }
}

impl Size {
    pub const fn kib(kib: u64) -> Self {
        Self(kib << 10)
    }

    pub const fn mib(mib: u64) -> Self {
        Self(mib << 20)
    }

    pub const fn gib(gib: u64) -> Self {
        Self(gib << 30)
    }

    /// Returns the number of bytes, where memory is meant.
    pub fn bytes(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// Writes a time in the greatest unit of which it is a whole number.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.as_millis();
        let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];
        match units.iter().find(|(_, unit)| millis != 0 && millis.is_multiple_of(*unit)) {
            Some((name, unit)) => write!(f, "{}{name}", millis / unit),
            None => f.write_str("0s"),
        }
    }
}

/// Writes a size in the greatest unit of which it is a whole number.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.iter().find(|(_, bits)| self.0 != 0 && self.0.trailing_zeros() >= *bits) {
            Some((name, bits)) => write!(f, "{}{name}", self.0 >> bits),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // `0` needs no unit; humantime knows no time of less than a nanosecond.
        let time = if text == "0" { Ok(Duration::ZERO) } else { humantime::parse_duration(text) };
        time.map(Self)
            .map_err(|_| format!("is {text:?}, which is no time with a unit such as 500ms, 10s or 30d"))
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<bytesize::ByteSize>()
            .map(|size| Self(size.as_u64()))
            .map_err(|_| format!("is {text:?}, which is no size such as 64KiB or 128MiB"))
    }
}

impl TryFrom<String> for Time {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Time> for String {
    fn from(time: Time) -> Self {
        time.to_string()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_as_they_are_written() {
        for (text, millis) in
            [("0s", 0), ("500ms", 500), ("90s", 90_000), ("2m", 120_000), ("36h", 129_600_000)]
        {
            assert_eq!(text.parse(), Ok(Time::millis(millis)));
            assert_eq!(Time::millis(millis).to_string(), text);
        }
        assert_eq!("0".parse(), Ok(Time::millis(0)));
        assert_eq!(Time::secs(86_400).to_string(), "1d");
        assert_eq!("1d 12h".parse(), Ok(Time::secs(129_600)));
        for bad in ["", "5", "ms", "-1s", "1.5x", "1 fortnight", "99999999999999999999d"] {
            assert!(bad.parse::<Time>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes_read_as_they_are_written() {
        for (text, bytes) in
            [("0B", 0), ("1000B", 1_000), ("64KiB", 65_536), ("3MiB", 3 << 20), ("1TiB", 1 << 40)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)));
            assert_eq!(Size(bytes).to_string(), text);
        }
        assert_eq!("4096".parse(), Ok(Size(4_096)));
        for bad in ["", "MiB", "-1KiB", "1 parsec"] {
            assert!(bad.parse::<Size>().is_err(), "{bad:?}");
        }
    }
}
