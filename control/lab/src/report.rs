//! Checks and the table they end in.

use std::fmt::{self, Display};

/// Something that was checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// What was seen: `Ok` if it is as it should be.
    pub outcome: Result<String, String>,
}

impl Check {
    /// A check that holds if `holds` is true; `seen` says what was seen either way.
    pub fn of(name: impl Into<String>, holds: bool, seen: impl Into<String>) -> Check {
        let seen = seen.into();
        Check { name: name.into(), outcome: if holds { Ok(seen) } else { Err(seen) } }
    }

    /// A check that failed because it could not be carried out.
    pub fn broken(name: impl Into<String>, error: impl Display) -> Check {
        Check { name: name.into(), outcome: Err(error.to_string()) }
    }
}

/// All checks of a run.
#[derive(Clone, Debug, Default)]
pub struct Report(Vec<Check>);

impl Report {
    /// Adds a check.
    pub fn add(&mut self, check: Check) {
        self.0.push(check);
    }

    /// True if there are checks and all hold.
    pub fn holds(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|check| check.outcome.is_ok())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|check| check.name.chars().count()).max().unwrap_or(0).max(5);
        writeln!(f, "{:<width$}  RESULT  DETAIL", "CHECK")?;
        for check in &self.0 {
            let (result, detail) = match &check.outcome {
                Ok(detail) => ("ok", detail),
                Err(detail) => ("FAILED", detail),
            };
            let mut lines = detail.lines();
            writeln!(f, "{:<width$}  {result:<6}  {}", check.name, lines.next().unwrap_or(""))?;
            for line in lines {
                writeln!(f, "{:<width$}          {line}", "")?;
            }
        }
        let failed = self.0.iter().filter(|check| check.outcome.is_err()).count();
        match failed {
            0 => write!(f, "all {} checks hold", self.0.len()),
            _ => write!(f, "{failed} of {} checks failed", self.0.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_only_if_something_was_checked_and_all_of_it_holds() {
        let mut report = Report::default();
        assert!(!report.holds());
        report.add(Check::of("ping", true, "3 of 3"));
        assert!(report.holds());
        report.add(Check::broken("curl", "no route"));
        assert!(!report.holds());
        let expected = "CHECK  RESULT  DETAIL\nping   ok      3 of 3\ncurl   FAILED  no route\n1 of 2 checks failed";
        assert_eq!(report.to_string(), expected);
    }
}
