//! The macro that makes structs, defaults, checks and manuals of one table, and the kinds of values
//! that a setting can have.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::units::{Size, Time};
use super::{Listen, LogFormat, Problem, Secret, TableName, Walls, range};

/// One setting, for `--help` and docs/settings.md.
#[derive(Debug)]
pub struct Setting {
    /// The environment variable. In `sluicegate.toml` it is written in lower case.
    pub name: &'static str,
    /// The default as a user would write it, or `None` when there is none.
    pub default: Option<String>,
    /// The meaning in one line, with the range.
    pub meaning: String,
    /// Whether a value such as `42` is text all the same.
    pub(super) is_text: bool,
    /// Whether it names a file or a folder, which in the file is relative to the file's own folder.
    pub(super) is_path: bool,
    /// Whether it is a setting of the whole service, which no tenant has for itself.
    pub is_of_service: bool,
}

impl Setting {
    /// Describes the setting of a field with this name and this default.
    pub(super) fn new<T: Value>(
        field: &str,
        default: &T,
        limits: Option<RangeInclusive<T>>,
        meaning: &str,
        is_of_service: bool,
    ) -> Self {
        let limits = limits.and_then(|limits| T::describe(&limits)).map(|limits| format!("; {limits}"));
        Self {
            // The name is leaked once for each setting, in one table for the whole process.
            name: field.to_uppercase().leak(),
            default: default.written(),
            meaning: format!("{meaning}{}", limits.unwrap_or_default()),
            is_text: T::IS_TEXT,
            is_path: T::IS_PATH,
            is_of_service,
        }
    }
}

/// A kind of value that a setting can have.
pub(super) trait Value: Sized {
    /// Whether the value is text in a file, so that a variable is never read as a number.
    const IS_TEXT: bool;
    /// Whether the value is a path.
    const IS_PATH: bool = false;

    /// Returns the value as a user would write it, if there is anything to write.
    fn written(&self) -> Option<String>;

    /// Checks whether the value can be used.
    fn check(&self, _field: &str, _limits: Option<RangeInclusive<Self>>) -> Result<(), Problem> {
        Ok(())
    }

    /// Describes the limits for the manual.
    fn describe(_limits: &RangeInclusive<Self>) -> Option<String> {
        None
    }
}

fn within<T: PartialOrd + Display>(
    field: &str,
    found: &T,
    limits: Option<RangeInclusive<T>>,
) -> Result<(), Problem> {
    match limits {
        Some(limits) if !limits.contains(found) => {
            let wanted = format!("{} to {}", limits.start(), limits.end());
            Err(range(field.to_uppercase(), found, wanted))
        }
        _ => Ok(()),
    }
}

macro_rules! ordered {
    ($($type:ty: $is_text:literal),*) => {$(
        impl Value for $type {
            const IS_TEXT: bool = $is_text;

            fn written(&self) -> Option<String> {
                Some(self.to_string())
            }

            fn check(&self, field: &str, limits: Option<RangeInclusive<Self>>) -> Result<(), Problem> {
                within(field, self, limits)
            }

            fn describe(limits: &RangeInclusive<Self>) -> Option<String> {
                Some(format!("{} to {}", limits.start(), limits.end()))
            }
        }
    )*};
}
ordered!(u32: false, u64: false, usize: false, Time: true, Size: true);

/// A time, or `None` for no end.
impl Value for Option<Time> {
    const IS_TEXT: bool = true;

    fn written(&self) -> Option<String> {
        self.map(|time| time.to_string())
    }

    fn check(&self, field: &str, limits: Option<RangeInclusive<Self>>) -> Result<(), Problem> {
        let bounds = limits.and_then(|limits| Some((*limits.start())?..=(*limits.end())?));
        self.as_ref().map_or(Ok(()), |time| within(field, time, bounds))
    }

    fn describe(limits: &RangeInclusive<Self>) -> Option<String> {
        Time::describe(&((*limits.start())?..=(*limits.end())?))
    }
}

impl Value for bool {
    const IS_TEXT: bool = false;

    fn written(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// The name of a stream, a group or a consumer.
impl Value for String {
    const IS_TEXT: bool = true;

    fn written(&self) -> Option<String> {
        Some(self.clone())
    }

    fn check(&self, field: &str, _limits: Option<RangeInclusive<Self>>) -> Result<(), Problem> {
        match self.is_empty() || self.len() > 512 {
            true => Err(range(field.to_uppercase(), format!("{} bytes long", self.len()), "1 to 512 bytes")),
            false => Ok(()),
        }
    }
}

macro_rules! unchecked {
    ($($type:ty$([$path:ident])?: |$value:ident| $written:expr),*) => {$(
        impl Value for $type {
            const IS_TEXT: bool = true;
            $(const $path: bool = true;)?

            fn written(&self) -> Option<String> {
                let $value = self;
                $written
            }
        }
    )*};
}
unchecked!(
    PathBuf[IS_PATH]: |path| Some(path.display().to_string()),
    Option<PathBuf>[IS_PATH]: |path| path.as_ref().map(|path| path.display().to_string()),
    Secret: |_secret| None,
    TableName: |table| Some(table.to_string()),
    Listen: |listen| Some(listen.to_string()),
    LogFormat: |format| Some(format.as_str().to_owned()),
    Walls: |walls| Some(walls.as_str().to_owned())
);

/// The settings that a guest reads.
impl Value for BTreeMap<String, String> {
    const IS_TEXT: bool = false;

    fn written(&self) -> Option<String> {
        Some("{}".to_owned())
    }

    fn check(&self, field: &str, _limits: Option<RangeInclusive<Self>>) -> Result<(), Problem> {
        let text = self.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        within(field, &text, Some(0..=64 << 10))
    }
}

/// Declares each setting once: `name: type = default, limits; "meaning"`. After `---` come fields
/// that are no settings of their own.
macro_rules! settings {
    ($(
        $(#[$meta:meta])*
        $struct:ident, of the service: $is_of_service:literal {
            $( $(#[$attribute:meta])* $name:ident: $type:ty = $default:expr $(, $limits:expr)?; $meaning:literal )*
            ---
            $( $(#[$more_meta:meta])* $more:ident: $more_type:ty = $more_default:expr; )*
        }
    )*) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            #[serde(default)]
            pub struct $struct {
                $( $(#[$attribute])* #[doc = $meaning] pub $name: $type, )*
                $( $(#[$more_meta])* pub $more: $more_type, )*
            }

            impl Default for $struct {
                fn default() -> Self {
                    Self { $( $name: $default, )* $( $more: $more_default, )* }
                }
            }

            impl $struct {
                /// Checks whether each setting is within its limits.
                pub(super) fn check_each(&self) -> Result<(), Problem> {
                    $( Value::check(&self.$name, stringify!($name), None $(.or(Some($limits)))?)?; )*
                    Ok(())
                }
            }
        )*

        /// All settings, in the order in which people meet them.
        pub static SETTINGS: LazyLock<Vec<Setting>> = LazyLock::new(|| {
            let mut all = Vec::new();
            $({
                let default = $struct::default();
                $( all.push(Setting::new(
                    stringify!($name),
                    &default.$name,
                    None $(.or(Some($limits)))?,
                    $meaning,
                    $is_of_service,
                )); )*
            })*
            all
        });
    };
}
pub(super) use settings;
