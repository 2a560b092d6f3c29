//! Tables out of rows: one for each family of cases, contenders below one another, metrics beside one another.

use std::fmt;

use crate::rows::{Part, Row};

/// A table with a line for each contender in each case of a family.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// What its cases have in common.
    pub family: String,
    /// `case` where the family has more than one, then `contender` where there is more than one, then the metrics.
    pub headings: Vec<String>,
    /// How many of the headings are no metrics.
    pub labels: usize,
    pub lines: Vec<Line>,
}

/// A contender in a case.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub labels: Vec<String>,
    pub cells: Cells,
}

/// What was measured, or why nothing could be.
#[derive(Clone, Debug, PartialEq)]
pub enum Cells {
    Values(Vec<String>),
    Reason(String),
}

/// The tables of a part. The name of a case is "FAMILY: MEMBER"; a case without a colon is a family of its own.
pub fn tables(rows: &[Row], part: Part) -> Vec<Table> {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.part == part).collect();
    let families = distinct(rows.iter().map(|row| split(&row.case).0));
    families.into_iter().map(|family| table(family, &rows)).collect()
}

fn table(family: &str, rows: &[&Row]) -> Table {
    let rows: Vec<&Row> = rows.iter().copied().filter(|row| split(&row.case).0 == family).collect();
    let metrics = distinct(rows.iter().map(|row| row.metric.as_str()).filter(|metric| !metric.is_empty()));
    let members = distinct(rows.iter().map(|row| split(&row.case).1));
    let contenders = distinct(rows.iter().map(|row| row.contender.as_str()));
    let label = |member: &str, contender: &str| {
        let member = (members.len() > 1).then(|| member.to_owned());
        let contender = (contenders.len() > 1 || members.len() == 1).then(|| contender.to_owned());
        member.into_iter().chain(contender).collect::<Vec<_>>()
    };
    let mut lines = Vec::new();
    for member in &members {
        for contender in &contenders {
            let of: Vec<&&Row> =
                rows.iter().filter(|row| split(&row.case).1 == *member && row.contender == *contender).collect();
            if of.is_empty() {
                continue;
            }
            let labels = label(member, contender);
            let reason = of.iter().find_map(|row| row.reason.clone());
            if of.iter().any(|row| row.value.is_some()) {
                let cell =
                    |metric: &&str| of.iter().find(|row| row.metric == **metric).map_or(String::new(), |r| shown(r));
                lines.push(Line { labels: labels.clone(), cells: Cells::Values(metrics.iter().map(cell).collect()) });
            }
            if let Some(reason) = reason {
                lines.push(Line { labels, cells: Cells::Reason(reason) });
            }
        }
    }
    let names = label("case", "contender");
    let labels = names.len();
    let headings = names.into_iter().chain(metrics.into_iter().map(str::to_owned)).collect();
    Table { family: family.to_owned(), headings, labels, lines }
}

/// A row's value, with the range of all rounds if there were several.
fn shown(row: &Row) -> String {
    let (Some(value), Some(unit)) = (row.value, row.unit) else { return String::new() };
    let text = |value| unit.shown().text(value).trim().to_owned();
    match row.range {
        Some([least, greatest]) => format!("{} ({} to {})", text(value), text(least), text(greatest)),
        None => text(value),
    }
}

/// Family and member of a case.
pub fn split(case: &str) -> (&str, &str) {
    case.split_once(": ").unwrap_or((case, ""))
}

/// Each once, in the order of their first appearance.
pub fn distinct<'a>(items: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

/// In Markdown.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, cells: &mut dyn Iterator<Item = &str>| {
            for cell in cells {
                write!(f, "| {} ", cell.replace('|', "\\|"))?;
            }
            writeln!(f, "|")
        };
        line(f, &mut self.headings.iter().map(String::as_str))?;
        let rule = |(at, _)| if at < self.labels { "---" } else { "---:" };
        line(f, &mut self.headings.iter().enumerate().map(rule))?;
        for Line { labels, cells } in &self.lines {
            let labels = labels.iter().map(String::as_str);
            match cells {
                Cells::Values(values) => line(f, &mut labels.chain(values.iter().map(String::as_str)))?,
                Cells::Reason(reason) => line(f, &mut labels.chain([format!("not run: {reason}").as_str()]))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::{Ledger, Unit};

    #[test]
    fn a_table_holds_every_row_of_its_family() {
        let mut ledger = Ledger::default();
        for (contender, rate) in [("Shunt", 1_000_000.0), ("kernel", 300_000.0)] {
            ledger.record(Part::Veth, "64 bytes", contender, "no loss", Unit::PacketsPerSecond, rate);
            ledger.record(Part::Veth, "64 bytes", contender, "p99", Unit::Nanoseconds, 12_300.0);
        }
        ledger.record(Part::Veth, "64 bytes", "kernel", "no loss", Unit::PacketsPerSecond, 200_000.0);
        ledger.refuse(Part::Veth, "64 bytes", "VPP", "no | package");
        ledger.record(Part::Engine, "route: 10 flows", "Shunt", "cycles", Unit::Cycles, 40.0);
        let tables = tables(&ledger.rows(), Part::Veth);
        assert_eq!(tables.len(), 1);
        assert_eq!(
            tables[0].to_string(),
            "| contender | no loss | p99 |\n\
             | --- | ---: | ---: |\n\
             | Shunt | 1.000 Mpps | 12.3 µs |\n\
             | kernel | 250.0 kpps (200.0 kpps to 300.0 kpps) | 12.3 µs |\n\
             | VPP | not run: no \\| package |\n"
        );
    }

    #[test]
    fn members_of_a_family_stand_below_one_another() {
        let mut ledger = Ledger::default();
        for flows in ["10 flows", "20 flows"] {
            ledger.record(Part::Engine, &format!("route: {flows}"), "Shunt", "cycles", Unit::Cycles, 40.0);
        }
        let tables = tables(&ledger.rows(), Part::Engine);
        assert_eq!(
            tables[0].to_string(),
            "| case | cycles |\n| --- | ---: |\n| 10 flows | 40 cycles |\n| 20 flows | 40 cycles |\n"
        );
    }
}
