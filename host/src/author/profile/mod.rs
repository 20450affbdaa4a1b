//! `sluicegate rules profile`: where the time of rules goes, function by function.
//!
//! - `functions`: the functions with the most time, as a table
//! - `firefox`: the file that the Firefox Profiler opens

mod firefox;
mod functions;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;

use super::asker::Asker;
use super::project::Project;
use super::workload::{self, Workload};
use super::{Error, files};
use crate::capabilities::Measured;
use crate::sandbox::Interfaces;
use crate::text::printable;

/// Samples are taken for so much processor time.
const TIME: Duration = Duration::from_secs(2);

/// What to profile, and where to write it.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    input: workload::Options,
    /// The profile to write
    #[arg(long, short, value_name = "FILE", default_value = "profile.json")]
    output: PathBuf,
}

/// Profiles rules, writes the profile, and tells which functions take the most time.
pub(super) async fn profile(project: &Project, options: &Options, out: &mut dyn Write) -> Result<(), Error> {
    let mut workload = Workload::read(project, &options.input)?;
    let asker = Asker::with_rules(project, Arc::new(project.load()?.with_samples()))?;
    workload.leave_out_faults(&asker).await?;
    let (begun, mut sum) = (SystemTime::now(), Measured::default());
    workload.repeat(&asker, TIME, |measured| sum.add(measured)).await?;
    let Measured { time, samples, .. } = sum;
    let (file, name) = (&options.output, project.component_name());
    let profile = serde_json::to_vec(&firefox::profile(&printable(&name), begun, time, &samples))?;
    files::write(file, &profile).map_err(|source| Error::Unwritable { file: file.clone(), source })?;
    let taken: usize = samples.iter().map(|call| call.stacks.len()).sum();
    writeln!(out, "component  {}", printable(&name))?;
    writeln!(out, "input      {}", workload.describe())?;
    writeln!(out, "samples    {taken} in {:.1} s of a processor", time.as_secs_f64())?;
    functions::tell(&samples, out)?;
    writeln!(out, "written    {}, for https://profiler.firefox.com", printable(&file.display().to_string()))?;
    if !Interfaces::read(&project.component()?).has_function_names {
        writeln!(
            out,
            "note       it has no names of functions, so these are numbers; keep the name section (strip = \"debuginfo\")"
        )?;
    }
    Ok(())
}
