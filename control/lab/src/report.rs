//! Checks and the table they end in.

use std::fmt;

use crate::error::Result;

/// What a measurement found, and whether it is as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Whether it is as it should be.
    pub holds: bool,
    /// What was seen.
    pub seen: String,
}

impl Finding {
    /// A finding.
    pub fn of(holds: bool, seen: impl Into<String>) -> Finding {
        Finding { holds, seen: seen.into() }
    }
}

/// A named finding.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Check {
    name: String,
    finding: Finding,
}

/// All checks of a run.
#[derive(Clone, Debug, Default)]
pub struct Report(Vec<Check>);

impl Report {
    /// Adds what was found; a measurement that could not be made counts as failed.
    pub fn add(&mut self, name: impl Into<String>, finding: Result<Finding>) -> &Finding {
        let finding = finding.unwrap_or_else(|error| Finding::of(false, error.to_string()));
        self.0.push(Check { name: name.into(), finding });
        &self.0[self.0.len() - 1].finding
    }

    /// True if there are checks and all hold.
    pub fn holds(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|check| check.finding.holds)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|check| check.name.chars().count()).max().unwrap_or(0).max(5);
        writeln!(f, "{:<width$}  RESULT  DETAIL", "CHECK")?;
        for check in &self.0 {
            let result = if check.finding.holds { "ok" } else { "FAILED" };
            let mut lines = check.finding.seen.lines();
            writeln!(f, "{:<width$}  {result:<6}  {}", check.name, lines.next().unwrap_or(""))?;
            for line in lines {
                writeln!(f, "{:<width$}          {line}", "")?;
            }
        }
        let failed = self.0.iter().filter(|check| !check.finding.holds).count();
        match failed {
            0 => write!(f, "all {} checks hold", self.0.len()),
            _ => write!(f, "{failed} of {} checks failed", self.0.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::LabError;

    #[test]
    fn a_report_holds_only_if_something_was_checked_and_all_of_it_holds() {
        let mut report = Report::default();
        assert!(!report.holds());
        report.add("ping", Ok(Finding::of(true, "3 of 3")));
        assert!(report.holds());
        report.add("curl", Err(LabError::Unknown("no route".into())));
        assert!(!report.holds());
        let expected = "CHECK  RESULT  DETAIL\nping   ok      3 of 3\ncurl   FAILED  no route\n1 of 2 checks failed";
        assert_eq!(report.to_string(), expected);
    }
}
