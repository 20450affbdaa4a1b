//! Runs the initialiser of the generic component inside the program, and makes a component of the memory it leaves.
//!
//! - `image`: takes a component apart, and puts it together with another memory
//!
//! This is the one place outside of a worker where guest code runs: code of the program's own, in the short-lived process
//! of `sluicegate rules from-schema`, with the user's files as data. It has no imports but fixed numbers, bounded fuel and
//! bounded memory. No service calls it.
//!
//! An interpreter runs it, wasmi: the component holds 4 MiB of code, of which the initialiser takes a small part, once. To
//! compile all of that takes wasmtime ten seconds, and wasmi is done in a tenth of one.

mod image;

use wasmi::errors::LinkerError;
use wasmi::{
    Caller, CompilationMode, Config, Engine, Extern, ExternType, Linker, Memory, Module, Store, StoreLimits,
    StoreLimitsBuilder, Val,
};

use image::Image;

/// Bounds what the initialiser computes, in WebAssembly instructions: about two minutes of it. A small schema takes 40
/// million.
const MAX_FUEL: u64 = 50_000_000_000;
/// Bound how deep its calls may be nested, and what the interpreter keeps for that. The initialiser's own stack, of 512
/// KiB, is full before.
const MAX_CALLS: usize = 100_000;
const MAX_STACK_BYTES: usize = 64 << 20;
/// Bounds the memory that it may take. The rest of a guest's memory is for its batches.
const MAX_MEMORY_BYTES: usize = 64 << 20;

/// Names the interface by which the guest seeds its hash tables, without its version.
const RANDOM: &str = "wasi:random/";

/// Why a component could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the initialiser says of its argument, each with its place.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
    #[error("the initialiser ended early: {0}; it may take {max} MiB and two minutes of processor time", max = MAX_MEMORY_BYTES >> 20)]
    Ended(String),
    /// The program has a defect.
    #[error("the generic component inside the program is not as expected: {0}")]
    Defective(String),
}

impl From<wasmi::Error> for Error {
    fn from(error: wasmi::Error) -> Self {
        Self::Defective(error.to_string())
    }
}

impl From<LinkerError> for Error {
    fn from(error: LinkerError) -> Self {
        Self::Defective(error.to_string())
    }
}

/// Holds a component that is initialised, with what its initialiser has noted.
#[derive(Debug)]
pub struct Initialised {
    pub component: Vec<u8>,
    pub notes: Vec<String>,
}

/// Calls `configure` of the generic component with this text, and returns the component that begins where it ended.
///
/// The same text gives the same bytes.
pub fn preinitialise(component: &[u8], configuration: &str) -> Result<Initialised, Error> {
    let image = Image::find(component)?;
    let mut config = Config::default();
    // What is not called is not translated either.
    config.compilation_mode(CompilationMode::Lazy).consume_fuel(true);
    config.set_max_recursion_depth(MAX_CALLS).set_max_stack_height(MAX_STACK_BYTES);
    let engine = Engine::new(&config);
    let module = Module::new(&engine, image.module())?;
    let limits = StoreLimitsBuilder::new().memory_size(MAX_MEMORY_BYTES).build();
    let mut store = Store::new(&engine, limits);
    store.limiter(|limits| limits);
    store.set_fuel(MAX_FUEL)?;
    let instance = linker(&engine, &module)?.instantiate_and_start(&mut store, &module)?;
    let memory = instance
        .get_memory(&store, "memory")
        .ok_or_else(|| Error::Defective("it exports no memory".to_owned()))?;

    let len = length(configuration.len())?;
    let allocate = instance.get_typed_func::<(i32, i32, i32, i32), i32>(&store, "cabi_realloc")?;
    let configure = instance.get_typed_func::<(i32, i32), i32>(&store, "configure")?;
    let forget = instance.get_typed_func::<i32, ()>(&store, "cabi_post_configure")?;
    let ended = |error: wasmi::Error| Error::Ended(error.to_string());
    let at = allocate.call(&mut store, (0, 0, 1, len)).map_err(ended)?;
    memory
        .write(&mut store, address(at)?, configuration.as_bytes())
        .map_err(|error| Error::Defective(error.to_string()))?;
    let returned = configure.call(&mut store, (at, len)).map_err(ended)?;
    let told = Reader { memory: memory.data(&store) }.result(returned)?;
    forget.call(&mut store, returned).map_err(ended)?;
    let notes = told.map_err(Error::Refused)?;
    Ok(Initialised { component: image.with_memory(memory.data(&store))?, notes })
}

/// Links what the guest imports. It may ask for randomness, to seed its hash tables, and always gets the same; all
/// else is a trap.
fn linker(engine: &Engine, module: &Module) -> Result<Linker<StoreLimits>, Error> {
    let mut linker = Linker::new(engine);
    for import in module.imports() {
        let (interface, name) = (import.module(), import.name());
        match name {
            "get-random-u64" | "get-insecure-random-u64" if interface.starts_with(RANDOM) => {
                linker.func_wrap(interface, name, || 0_i64)?;
            }
            "insecure-seed" | "get-insecure-seed" if interface.starts_with(RANDOM) => {
                linker.func_wrap(interface, name, |mut caller: Caller<'_, StoreLimits>, at: i32| {
                    let memory = memory_of(&caller)?;
                    let at = usize::try_from(at).map_err(|error| wasmi::Error::new(error.to_string()))?;
                    Ok(memory.write(&mut caller, at, &[0; 16])?)
                })?;
            }
            _ => {
                let ExternType::Func(kind) = import.ty() else { continue };
                let refused = format!("it called {name} of {interface}, which is not there yet");
                let trap = move |_: Caller<'_, StoreLimits>, _: &[Val], _: &mut [Val]| {
                    Err(wasmi::Error::new(refused.clone()))
                };
                linker.func_new(interface, name, kind.clone(), trap)?;
            }
        }
    }
    Ok(linker)
}

fn memory_of(caller: &Caller<'_, StoreLimits>) -> Result<Memory, wasmi::Error> {
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    memory.ok_or_else(|| wasmi::Error::new("it exports no memory"))
}

fn length(bytes: usize) -> Result<i32, Error> {
    i32::try_from(bytes)
        .map_err(|_| Error::Refused(vec!["the files are larger than 2 GiB together".to_owned()]))
}

fn address(at: i32) -> Result<usize, Error> {
    usize::try_from(at).map_err(|_| Error::Defective("it returned an address beyond 2 GiB".to_owned()))
}

/// Reads what the canonical ABI of components puts into memory.
struct Reader<'a> {
    memory: &'a [u8],
}

impl Reader<'_> {
    /// Reads a `result<list<string>, list<string>>`.
    fn result(&self, at: i32) -> Result<Result<Vec<String>, Vec<String>>, Error> {
        let at = address(at)?;
        let list = self.strings(at.saturating_add(4))?;
        match self.bytes(at, 1)? {
            [0] => Ok(Ok(list)),
            _ => Ok(Err(list)),
        }
    }

    fn strings(&self, at: usize) -> Result<Vec<String>, Error> {
        let (first, count) = self.slice(at)?;
        (0..count)
            .map(|i| {
                let (start, len) = self.slice(first.saturating_add(i.saturating_mul(8)))?;
                Ok(String::from_utf8_lossy(self.bytes(start, len)?).into_owned())
            })
            .collect()
    }

    /// Reads an address and a length.
    fn slice(&self, at: usize) -> Result<(usize, usize), Error> {
        Ok((self.word(at)?, self.word(at.saturating_add(4))?))
    }

    fn word(&self, at: usize) -> Result<usize, Error> {
        let bytes = self.bytes(at, 4)?.first_chunk().copied().unwrap_or_default();
        usize::try_from(u32::from_le_bytes(bytes)).map_err(|error| Error::Defective(error.to_string()))
    }

    fn bytes(&self, at: usize, len: usize) -> Result<&[u8], Error> {
        let found = self.memory.get(at..at.saturating_add(len));
        found.ok_or_else(|| Error::Defective("it returned an address beyond its memory".to_owned()))
    }
}
