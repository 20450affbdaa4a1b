//! `sluicegate rules capture`: makes goldens of entries that really came, with what comes of them now.
//!
//! - `mask`: hides values, so that equal ones stay equal

mod mask;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::asker::Asker;
use super::outcome_class::OutcomeClass;
use super::project::Project;
use super::{Error, source};
use mask::{Mask, Place};
use sluicegate_verdicts::format::{OutcomeView, golden_line};

/// What to capture.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    source: source::Options,
    /// The file of goldens to make, such as tests/captured.jsonl; without it, standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Hide these fields, or values in the JSON of a field, such as `user_id,data.properties.email`
    #[arg(long, value_name = "PLACE", value_delimiter = ',')]
    mask: Vec<Place>,
    /// Mask with the key in this file, so that equal values are masked alike in every capture
    #[arg(long, value_name = "FILE", requires = "mask")]
    mask_key_file: Option<PathBuf>,
    /// At most so many entries of each kind of outcome
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..))]
    each: Option<u64>,
}

/// The most kinds of outcomes that are counted for `--each`. Entries of further ones are left out.
const MAX_KINDS: usize = 10_000;
/// The most bytes of goldens that wait for an entry with a place that is to be masked.
const MAX_HELD_BYTES: usize = 64 << 20;

/// Where goldens go. They are held back until it is certain that they are to be written.
struct Goldens<'a> {
    file: Option<(&'a Path, BufWriter<File>)>,
    out: &'a mut dyn Write,
    held: Vec<u8>,
}

impl<'a> Goldens<'a> {
    fn new(path: Option<&'a Path>, out: &'a mut dyn Write) -> Result<Self, Error> {
        let make = |path: &'a Path| match File::create_new(path) {
            Ok(file) => Ok((path, BufWriter::new(file))),
            Err(source) => Err(Error::Unwritable { file: path.to_owned(), source }),
        };
        Ok(Self { file: path.map(make).transpose()?, out, held: Vec::new() })
    }

    /// Writes what was held back.
    fn release(&mut self) -> io::Result<()> {
        match &mut self.file {
            Some((_, file)) => file.write_all(&self.held)?,
            None => self.out.write_all(&self.held)?,
        }
        self.held.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.release()?;
        match self.file {
            Some((_, mut file)) => file.flush(),
            None => Ok(()),
        }
    }

    /// Writes nothing: neither is there a file afterwards.
    fn discard(self) -> io::Result<()> {
        match self.file {
            Some((path, _)) => fs::remove_file(path),
            None => Ok(()),
        }
    }
}

/// Writes goldens, and says how many.
pub(super) async fn capture(project: &Project, options: &Options, out: &mut dyn Write) -> Result<(), Error> {
    let mut mask = Mask::new(&options.mask, options.mask_key_file.as_deref())?;
    let asker = Asker::new(project)?;
    let mut entries = options.source.open(project).await?;
    let mut goldens = Goldens::new(options.output.as_deref(), out)?;
    let (mut seen, mut written) = (BTreeMap::<String, u64>::new(), 0_u64);
    loop {
        let mut batch = entries.next_batch(project.tenant.batch_size).await?;
        if batch.is_empty() {
            break;
        }
        batch.iter_mut().filter_map(|entry| entry.fields.as_mut()).for_each(|fields| mask.hide(fields));
        for judged in asker.ask(batch).await?.judged {
            let Some(fields) = &judged.entry.fields else { continue };
            let view = OutcomeView::new(&judged.outcome);
            if options.each.is_some_and(|most| !is_among(&view, most, &mut seen)) {
                continue;
            }
            let line = golden_line(judged.entry.id, fields, &view)?;
            writeln!(goldens.held, "{line}")?;
            written += 1;
        }
        if mask.unseen().next().is_none() {
            goldens.release()?;
        } else if goldens.held.len() > MAX_HELD_BYTES {
            break;
        }
    }
    let unseen: Vec<String> = mask.unseen().map(Place::to_string).collect();
    if mask.entries() > 0 && !unseen.is_empty() {
        goldens.discard()?;
        return Err(Error::NothingToMask { places: unseen.join(", "), entries: mask.entries() });
    }
    goldens.finish()?;
    let mut err = io::stderr();
    writeln!(err, "sluicegate: {written} goldens")?;
    for (place, lacking) in mask.lacking() {
        let (have, them) = if lacking == 1 { ("has", "it") } else { ("have", "them") };
        let entries = mask.entries();
        writeln!(
            err,
            "sluicegate: {lacking} of {entries} entries {have} no {place}: nothing is masked in {them}"
        )?;
    }
    if options.source.is_live() && options.mask.is_empty() {
        writeln!(err, "sluicegate: nothing was masked: the goldens hold what users have sent (--mask)")?;
    }
    Ok(())
}

/// Counts an outcome, and returns whether it is among the first of its kind.
fn is_among(view: &OutcomeView, most: u64, seen: &mut BTreeMap<String, u64>) -> bool {
    let kind = format!("{} {}", view.kind(), OutcomeClass::text(view));
    if seen.len() >= MAX_KINDS && !seen.contains_key(&kind) {
        return false;
    }
    let count = seen.entry(kind).or_default();
    *count += 1;
    *count <= most
}
