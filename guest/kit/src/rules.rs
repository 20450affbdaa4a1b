//! The trait that an author implements, and the macro that makes a component of it.

use crate::{Entry, Verdict, Violations};

/// What rules say of an entry. An `Err` rejects it, with all that is wrong.
pub type Judged = Result<Verdict, Violations>;

/// Rules for entries: those of text, or, as `Rules<BytesEntry>`, those whose values may be any bytes.
///
/// [`export!`](crate::export) makes a component of a type with this trait.
///
/// ```
/// use sluicegate_kit::{Entry, Judged, Rules, Verdict, read_event};
///
/// /// The default rules, without the events of robots.
/// #[derive(Default)]
/// struct NoRobots;
///
/// impl Rules for NoRobots {
///     fn judge(&self, entry: &Entry) -> Judged {
///         let event = read_event(entry)?;
///         match event.user_id.starts_with("robot-") {
///             true => Ok(Verdict::discard("robot")),
///             false => Ok(Verdict::Accept(event)),
///         }
///     }
/// }
///
/// sluicegate_kit::export!(NoRobots);
///
/// // No wasm is needed for a test.
/// let entry = Entry::of(&[
///     ("event_id", "123e4567-e89b-12d3-a456-426614174000"),
///     ("event_type", "click"),
///     ("user_id", "robot-7"),
///     ("timestamp", "2026-01-18T22:17:34Z"),
/// ]);
/// assert_eq!(NoRobots.judge(&entry), Ok(Verdict::discard("robot")));
/// ```
pub trait Rules<E = Entry> {
    /// Judges one entry. The same entry must get the same verdict, whatever it is among: it may be delivered again.
    ///
    /// # Errors
    ///
    /// All that is wrong with the entry, which is then rejected.
    fn judge(&self, entry: &E) -> Judged;

    /// Judges a batch: one verdict for each entry, in its order. Rules that do something once a batch, such as one statement for
    /// all entries, have a method of their own here.
    fn judge_batch(&self, batch: &[E]) -> Vec<Verdict> {
        batch.iter().map(|entry| self.judge(entry).unwrap_or_else(Verdict::from)).collect()
    }
}

/// Makes rules for text the component's: one line at the end of the file.
///
/// Rules without settings are made by `Default`:
///
/// ```
/// # use sluicegate_kit::{Entry, Judged, Rules, Verdict};
/// #[derive(Default)]
/// struct Nothing;
///
/// impl Rules for Nothing {
///     fn judge(&self, _: &Entry) -> Judged {
///         Ok(Verdict::discard("nothing is wanted"))
///     }
/// }
///
/// sluicegate_kit::export!(Nothing);
/// ```
///
/// Rules with settings are made by a function that takes them, as a type of yours that serde reads. The settings are those of
/// `[guest_settings]`. They are read when an instance starts, so that the service refuses rules whose settings are wrong, and says
/// what is: see [`settings`](crate::settings).
///
/// ```
/// # use sluicegate_kit::{Entry, Judged, Rules, Verdict};
/// #[derive(serde::Deserialize)]
/// struct Settings {
///     region: String,
/// }
///
/// struct Regional {
///     settings: Settings,
/// }
///
/// impl Regional {
///     fn new(settings: Settings) -> Result<Self, String> {
///         match settings.region.as_str() {
///             "north" | "south" => Ok(Self { settings }),
///             _ => Err("`region`: expected `north` or `south`".to_owned()),
///         }
///     }
/// }
///
/// impl Rules for Regional {
///     fn judge(&self, entry: &Entry) -> Judged {
///         match entry.field("region") == Some(&self.settings.region) {
///             true => Ok(Verdict::Accept(sluicegate_kit::read_event(entry)?)),
///             false => Ok(Verdict::discard("of another region")),
///         }
///     }
/// }
///
/// sluicegate_kit::export!(Regional, Regional::new);
/// ```
///
/// A new instance judges each batch, so whatever is made there is made, and paid for, once a batch: compile no large regular
/// expression and read no large table if a `match` does.
///
/// Only wasm is given the exports: elsewhere a linker takes their names, such as `sluicegate:guest/handler@0.1.0#process`, for
/// symbols with a version.
#[macro_export]
macro_rules! export {
    ($rules:ty $(,)?) => {
        $crate::__component!(text, $crate::Entry, $rules, <$rules as ::core::default::Default>::default(), {
        });
    };
    ($rules:ty, $new:expr $(,)?) => {
        $crate::__component!(text, $crate::Entry, $rules, $crate::settings::__make($new), { __start });
    };
}

/// Makes rules for bytes the component's. It takes what [`export!`](crate::export) takes.
///
/// ```
/// use sluicegate_kit::{BytesEntry, Judged, Rules, Verdict};
///
/// #[derive(Default)]
/// struct Packed;
///
/// impl Rules<BytesEntry> for Packed {
///     fn judge(&self, entry: &BytesEntry) -> Judged {
///         match entry.field("packed") {
///             Some([0x1f, 0x8b, ..]) => Ok(Verdict::discard("gzip")),
///             _ => Ok(Verdict::discard("not packed")),
///         }
///     }
/// }
///
/// sluicegate_kit::export_bytes!(Packed);
/// ```
#[macro_export]
macro_rules! export_bytes {
    ($rules:ty $(,)?) => {
        $crate::__component!(
            bytes,
            $crate::BytesEntry,
            $rules,
            <$rules as ::core::default::Default>::default(),
            {}
        );
    };
    ($rules:ty, $new:expr $(,)?) => {
        $crate::__component!(bytes, $crate::BytesEntry, $rules, $crate::settings::__make($new), { __start });
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __component {
    ($form:ident, $entry:ty, $rules:ty, $make:expr, { $($start:ident)? }) => {
        const _: () = {
            // The names of what is here must not hide those of the author's.
            ::std::thread_local! {
                // Once an instance.
                static __RULES: $rules = $make;
            }

            // For other targets too, so that the compiler sees there what is used and what does not fit.
            #[allow(dead_code, reason = "only a component calls it")]
            fn __judge(batch: &[$entry]) -> ::std::vec::Vec<$crate::Verdict> {
                __RULES.with(|rules| <$rules as $crate::Rules<$entry>>::judge_batch(rules, batch))
            }

            #[cfg(target_family = "wasm")]
            struct __Component;

            #[cfg(target_family = "wasm")]
            impl $crate::bindings::$form::Guest for __Component {
                fn process(batch: ::std::vec::Vec<$entry>) -> ::std::vec::Vec<$crate::Verdict> {
                    __judge(&batch)
                }
            }

            #[cfg(target_family = "wasm")]
            $crate::bindings::$form::export!(__Component with_types_in $crate::bindings::$form);

            $(
                // The start of an instance: a core module's function of this name is called when a component is instantiated.
                #[cfg(target_family = "wasm")]
                #[unsafe(export_name = "_initialize")]
                extern "C" fn $start() {
                    $crate::settings::__run_constructors();
                    __RULES.with(|_| ());
                }
            )?
        };
    };
}
