//! Looks for secrets in the environment, in the arguments and on standard input. It finds its own
//! settings, which the operator has given to it, and nothing else.

use std::io::Read as _;

use hostile::wasi::config;

hostile::provoked!(|entry| {
    let mut input = Vec::new();
    let bytes = std::io::stdin().read_to_end(&mut input).unwrap_or_default();
    let counts = [std::env::vars().count(), std::env::args().count(), bytes];
    let settings = config::get_all().unwrap_or_default();
    let same = settings.iter().all(|(name, value)| config::get(name).ok().flatten().as_ref() == Some(value));
    // The names and the values of the tests need no escapes.
    let settings: Vec<String> =
        settings.iter().map(|(name, value)| format!("[{name:?},{value:?}]")).collect();
    let settings = settings.join(",");
    hostile::tell(entry, format!("{{\"found\":{counts:?},\"settings\":[{settings}],\"one_by_one\":{same}}}"))
});
