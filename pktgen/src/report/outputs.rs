//! Files that a report is written to, beside the text on standard output.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;

use super::{csv, html, model::Report};

/// Files to write the report to.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Report")]
pub struct Outputs {
    /// Write everything that was measured as JSON; `pktgen compare` and `pktgen show` read it.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a row for each trial and stream as CSV.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// Write a row for each sample over time as CSV.
    #[arg(long, value_name = "FILE")]
    pub samples: Option<PathBuf>,
    /// Write a page with plots, complete in itself.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// A file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be written.
    #[error("{} cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no report.
    #[error("{} is no report of pktgen (write one with --json): {source}", path.display())]
    NoReport {
        /// The file.
        path: PathBuf,
        /// What does not fit, and where.
        source: serde_json::Error,
    },
}

impl Outputs {
    /// Makes sure that every file can be written, before a run whose report would otherwise be lost. Files that exist keep
    /// what they hold until there is something better.
    pub fn check(&self) -> Result<(), FileError> {
        for path in [&self.json, &self.csv, &self.samples, &self.html].into_iter().flatten() {
            let opened = fs::OpenOptions::new().append(true).create(true).open(path);
            opened.map_err(|source| FileError::Write { path: path.clone(), source })?;
        }
        Ok(())
    }

    /// Writes the files that were asked for.
    pub fn write(&self, report: &Report) -> Result<(), FileError> {
        if let Some(path) = &self.json {
            write(path, &json(report))?;
        }
        if let Some(path) = &self.csv {
            write(path, &csv::trials(report))?;
        }
        if let Some(path) = &self.samples {
            write(path, &csv::samples(report))?;
        }
        if let Some(path) = &self.html {
            write(path, &html::page_of(report))?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<(), FileError> {
    fs::write(path, text).map_err(|source| FileError::Write { path: path.to_owned(), source })
}

/// The report as JSON, for [`read`] and for other programs.
pub fn json(report: &Report) -> String {
    let mut text = serde_json::to_string_pretty(report).expect("a report has only string keys");
    text.push('\n');
    text
}

/// Reads a report that was written as JSON.
pub fn read(path: &Path) -> Result<Report, FileError> {
    let text = fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|source| FileError::NoReport { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::fixture, *};

    fn round_trip(report: &Report) -> Report {
        serde_json::from_str(&json(report)).expect("what was written is read")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn json_says_all_there_is(
            which in 0..3_usize,
            pps in proptest::option::of(0.0..1e12_f64),
            seconds in 1e-9..1e6_f64,
            lost in any::<u64>(),
            texts in [any::<String>(), any::<String>(), any::<String>()],
            value in proptest::option::of(any::<f64>().prop_filter("finite", |value| value.is_finite())),
        ) {
            let mut report = [fixture::run(), fixture::search(), fixture::connections()][which].clone();
            let [label, profile, name] = texts;
            report.trials[0].offered_pps = pps;
            report.trials[0].seconds = seconds;
            report.trials[0].total.lost = lost;
            report.trials[0].samples[0].received_pps = seconds;
            report.trials[0].label = label;
            report.setup.profile_text = profile;
            report.findings.iter_mut().for_each(|f| (f.name, f.value) = (name.clone(), value));
            prop_assert_eq!(round_trip(&report), report);
        }
    }

    #[test]
    fn every_file_asked_for_is_written_and_the_json_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| Some(folder.path().join(name));
        let outputs =
            Outputs { json: path("a.json"), csv: path("a.csv"), samples: path("s.csv"), html: path("a.html") };
        let report = fixture::search();
        outputs.check().unwrap();
        outputs.write(&report).unwrap();
        assert_eq!(read(&outputs.json.unwrap()).unwrap(), report);
        for (path, begin) in
            [(outputs.csv, "trial,label"), (outputs.samples, "trial,at_s"), (outputs.html, "<!DOCTYPE")]
        {
            assert!(fs::read_to_string(path.unwrap()).unwrap().starts_with(begin));
        }
    }

    #[test]
    fn what_cannot_be_written_is_known_before_the_run() {
        let outputs = Outputs { html: Some("/nowhere/at/all.html".into()), ..Outputs::default() };
        let error = outputs.check().unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/at/all.html cannot be written"), "{error}");
    }

    #[test]
    fn a_file_of_another_kind_is_refused_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.json");
        fs::write(&path, "{\n\"version\": 3}").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("b.json is no report") && error.contains("line 2"), "{error}");
    }
}
