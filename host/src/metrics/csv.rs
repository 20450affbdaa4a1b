//! Writes the metrics file, whose form is a contract.

use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};

const HEADER: [&str; 5] = ["timestamp", "events_processed", "lag", "batch_time_ms", "processing_rate"];

#[derive(Clone, Copy, Debug)]
pub struct MetricsRow {
    pub timestamp: DateTime<Utc>,
    /// The number of entries that have ended since the start.
    pub events_processed: u64,
    /// The entries not yet delivered to the group; empty in the file when Redis does not know.
    pub lag: Option<u64>,
    /// How long the last batch took, from its reading to its acknowledgement.
    pub batch_time_ms: u64,
    /// Entries that ended per second, over the interval.
    pub processing_rate: f64,
}

/// The file is appended to. It is made with its folders when it is missing, and again when somebody
/// has moved it away. The header stands once, at the beginning.
#[derive(Debug)]
pub struct CsvFile {
    path: PathBuf,
}

impl CsvFile {
    /// Names the file, and touches nothing yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn append(&self, record: &MetricsRow) -> Result<(), csv::Error> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        let is_empty = file.seek(SeekFrom::End(0))? == 0;
        write(&mut file, is_empty, record)
    }
}

fn write(file: &mut File, with_header: bool, record: &MetricsRow) -> Result<(), csv::Error> {
    let mut writer = csv::Writer::from_writer(file);
    if with_header {
        writer.write_record(HEADER)?;
    }
    writer.write_record([
        record.timestamp.to_rfc3339_opts(SecondsFormat::Millis, true),
        record.events_processed.to_string(),
        record.lag.map(|lag| lag.to_string()).unwrap_or_default(),
        record.batch_time_ms.to_string(),
        format!("{:.2}", record.processing_rate),
    ])?;
    writer.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_has_its_exact_form() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = CsvFile::new(&folder.path().join("a/b/metrics.csv"));
        let record = MetricsRow {
            timestamp: DateTime::from_timestamp_millis(1_768_774_674_827).expect("a time"),
            events_processed: 137,
            lag: Some(2),
            batch_time_ms: 8,
            processing_rate: 13.588,
        };
        file.append(&record).expect("written");
        // A second run appends, without a second header.
        CsvFile::new(file.path())
            .append(&MetricsRow { lag: None, processing_rate: 0.0, ..record })
            .expect("written");
        assert_eq!(
            std::fs::read_to_string(file.path()).expect("read"),
            "timestamp,events_processed,lag,batch_time_ms,processing_rate\n\
             2026-01-18T22:17:54.827Z,137,2,8,13.59\n\
             2026-01-18T22:17:54.827Z,137,,8,0.00\n"
        );
    }
}
