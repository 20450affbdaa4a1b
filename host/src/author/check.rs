//! `sluicegate rules check`: what can be known of a component before it meets an entry.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::Error;
use super::asker::Asker;
use super::project::Project;
use crate::batch::Digest;
use crate::sandbox::{Interfaces, Standing, children_time};
use crate::text::printable;
use sluicegate_verdicts::{Entry, EntryId};

/// The calls whose instances are measured.
const STARTS: u32 = 11;
/// A start that takes longer is worth a word: each batch pays for it.
pub(super) const LONG_START: Duration = Duration::from_millis(1);
/// What to do about it.
pub(super) const START_EARLIER: &str = "do the work of the start when the component is built (for Rust, wasmtime wizer; componentize-js and \
                                        componentize-py do it for what stands at the top level of a module)";
/// Compiling that takes longer is worth a word: each start and each swap pays for it.
const LONG_COMPILE: Duration = Duration::from_secs(1);

/// What was found.
struct Report {
    component: String,
    digest: Digest,
    bytes: usize,
    interfaces: Interfaces,
    imports: Vec<(String, Standing)>,
    settings: usize,
    loaded: Result<Loaded, String>,
}

/// What is known of a component that the service would take.
struct Loaded {
    compile: Option<Duration>,
    code_bytes: u64,
    /// The median of the times that an instance takes to start; not known of rules that want a statement for any entry.
    start: Option<Duration>,
    /// What it has of memory when it has started and judged one entry.
    memory_bytes: usize,
    warnings: Vec<String>,
}

/// Checks a component, and returns whether the service would take it.
pub(super) async fn check(project: &Project, json: bool, out: &mut dyn Write) -> Result<bool, Error> {
    let component = project.component()?;
    let interfaces = Interfaces::read(&component);
    let standings = interfaces.standings(&project.tenant.grants);
    let imports = standings.into_iter().map(|(name, standing)| (name.to_owned(), standing)).collect();
    let loaded = match load(project, &interfaces).await {
        Ok(loaded) => Ok(loaded),
        Err(Error::Refused { reason, .. }) => Err(reason.to_string()),
        Err(error) => return Err(error),
    };
    let report = Report {
        component: project.component_name(),
        digest: Digest::new(&component),
        bytes: component.len(),
        interfaces,
        imports,
        settings: project.tenant.guest_settings.len(),
        loaded,
    };
    match json {
        true => writeln!(out, "{}", report.as_json())?,
        false => report.tell(out)?,
    }
    Ok(report.loaded.is_ok())
}

async fn load(project: &Project, interfaces: &Interfaces) -> Result<Loaded, Error> {
    let before = children_time();
    let (asker, code_bytes) = Asker::compiled(project)?;
    let compile = before.zip(children_time()).map(|(before, after)| after.saturating_sub(before));
    let (mut starts, mut memory_bytes) = (Vec::new(), 0);
    for _ in 0..STARTS {
        // What the rules make of it does not matter.
        let entry = Entry { id: EntryId::ZERO, fields: Some(Vec::new()), deliveries: 1 };
        let measured = match asker.ask(vec![entry]).await {
            Ok(asked) => asked.measured,
            Err(Error::NoFake(_)) => break,
            Err(error) => return Err(error),
        };
        starts.push(measured.start / u32::try_from(measured.calls).unwrap_or(1).max(1));
        memory_bytes = memory_bytes.max(measured.memory_bytes);
    }
    starts.sort();
    let start = starts.get(starts.len() / 2).copied();
    let warnings = warnings(project, interfaces, compile, start);
    Ok(Loaded { compile, code_bytes, start, memory_bytes, warnings })
}

/// Returns what an author would otherwise find out in production.
fn warnings(
    project: &Project,
    interfaces: &Interfaces,
    compile: Option<Duration>,
    start: Option<Duration>,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(start) = start.filter(|start| *start > LONG_START) {
        let batch = project.tenant.batch_size;
        warnings.push(format!(
            "each batch pays {} ms for the start of an instance, with BATCH_SIZE {batch} that is {:.1} µs an entry: \
             {START_EARLIER}",
            millis(start),
            start.as_secs_f64() * 1e6 / f64::from(u32::try_from(batch).unwrap_or(u32::MAX)),
        ));
    }
    if compile.is_some_and(|compile| compile > LONG_COMPILE) && project.config.guest_cache.is_none() {
        warnings.push(
            "it is compiled at each start of the service; GUEST_CACHE names a folder for what was compiled"
                .to_owned(),
        );
    }
    let imports = |interface: &str| interfaces.imports.iter().any(|import| import.starts_with(interface));
    for (interface, what) in [
        (
            "wasi:clocks/wall-clock",
            "a clock: it begins at the ID of the first entry of a call, and is no time of day",
        ),
        (
            "wasi:random/",
            "randomness: it is the same for each call that begins with the same entry; take IDs from the entry instead",
        ),
    ] {
        if imports(interface) {
            warnings.push(format!("it imports {what}"));
        }
    }
    if !interfaces.has_function_names {
        warnings.push("it has no names of functions, so the message of a trap tells numbers; keep the name section (strip = \"debuginfo\")".to_owned());
    }
    warnings
}

impl Report {
    fn tell(&self, out: &mut dyn Write) -> Result<(), Error> {
        writeln!(out, "component  {}", printable(&self.component))?;
        writeln!(out, "digest     {}", self.digest.to_hex())?;
        writeln!(out, "size       {} bytes", self.bytes)?;
        writeln!(out, "world      {}", self.interfaces.world())?;
        for (name, standing) in &self.imports {
            let standing = match standing {
                Standing::Given => "ok".to_owned(),
                Standing::Ungranted(remedy) => format!("not granted; under [grants]: {remedy}"),
                Standing::Refused(why) if why == name => "refused: no guest is given this".to_owned(),
                Standing::Refused(why) => format!("refused: {why}"),
            };
            writeln!(out, "import     {name}  {standing}")?;
        }
        for name in &self.interfaces.exports {
            writeln!(out, "export     {name}")?;
        }
        match &self.loaded {
            Err(reason) => {
                let lines = self.lines_to_grant();
                if !lines.is_empty() {
                    writeln!(out, "\nsluicegate.toml would grant it by:\n\n{lines}")?;
                }
                writeln!(out, "refused    {reason}")?;
            }
            Ok(loaded) => {
                let compile = loaded.compile.map_or("?".to_owned(), millis);
                writeln!(out, "settings   {} given; it starts with them", self.settings)?;
                writeln!(
                    out,
                    "compile    {compile} ms of a processor, {} bytes of native code",
                    loaded.code_bytes
                )?;
                let start = loaded.start.map_or("?".to_owned(), millis);
                let memory = loaded.memory_bytes;
                writeln!(
                    out,
                    "start      {start} ms for each batch, {memory} bytes of memory after one entry"
                )?;
                loaded.warnings.iter().try_for_each(|warning| writeln!(out, "note       {warning}"))?;
            }
        }
        Ok(())
    }

    /// Returns the lines of the settings that grant what lacks, with names to be filled in.
    fn lines_to_grant(&self) -> String {
        let lacks = |interface: &str| {
            self.imports.iter().any(|(name, standing)| {
                matches!(standing, Standing::Ungranted(_)) && name.starts_with(interface)
            })
        };
        let mut lines = String::new();
        if lacks("sluicegate:guest/stream") {
            lines.push_str("stream = true\npublish = { STREAM = 1_000_000 }\n");
        }
        if lacks("sluicegate:guest/store") {
            lines.push_str("statements = [\"NAME\"]\n");
        }
        if lacks("sluicegate:guest/metrics") {
            lines.push_str("metrics = true\n");
        }
        if lines.is_empty() {
            return lines;
        }
        let statement = match lacks("sluicegate:guest/store") {
            true => "\n[statements.NAME]\nsql = \"SELECT …\"\nparameters = [\"text\"]\n",
            false => "",
        };
        format!("[grants]\n{lines}{statement}")
    }

    fn as_json(&self) -> Value {
        let import = |(name, standing): &(String, Standing)| match standing {
            Standing::Given => json!({ "name": name, "standing": "ok" }),
            Standing::Ungranted(remedy) => {
                json!({ "name": name, "standing": "not_granted", "remedy": remedy })
            }
            Standing::Refused(why) => json!({ "name": name, "standing": "refused", "why": why }),
        };
        let loaded = self.loaded.as_ref().ok();
        json!({
            "component": self.component,
            "digest": self.digest.to_hex(),
            "bytes": self.bytes,
            "world": self.interfaces.world(),
            "imports": self.imports.iter().map(import).collect::<Vec<_>>(),
            "exports": self.interfaces.exports,
            "grants": self.lines_to_grant(),
            "refused": self.loaded.as_ref().err(),
            "compile_ms": loaded.and_then(|loaded| loaded.compile).map(|time| time.as_secs_f64() * 1e3),
            "code_bytes": loaded.map(|loaded| loaded.code_bytes),
            "start_ms": loaded.and_then(|loaded| loaded.start).map(|time| time.as_secs_f64() * 1e3),
            "memory_bytes": loaded.map(|loaded| loaded.memory_bytes),
            "notes": loaded.map(|loaded| &loaded.warnings),
        })
    }
}

/// Returns a time in milliseconds, with as many digits as are of use.
fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    if millis < 10.0 { format!("{millis:.2}") } else { format!("{millis:.0}") }
}
