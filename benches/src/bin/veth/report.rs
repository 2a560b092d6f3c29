//! Samples of all rounds, and what they say.

use std::fmt;

use crate::Error;

/// One contender in one round, in packets per second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// What the source sent.
    pub offered: f64,
    /// What arrived at the sink.
    pub forwarded: f64,
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} Mpps forwarded of {:.3} offered", self.forwarded / 1e6, self.offered / 1e6)
    }
}

/// All samples, by contender.
pub struct Report {
    rows: Vec<(&'static str, Vec<Sample>)>,
}

impl Report {
    pub fn new(names: impl Iterator<Item = &'static str>) -> Report {
        Report { rows: names.map(|name| (name, Vec::new())).collect() }
    }

    pub fn add(&mut self, name: &str, sample: Sample) {
        if let Some((_, samples)) = self.rows.iter_mut().find(|(row, _)| *row == name) {
            samples.push(sample);
        }
    }

    /// Prints how `name` compares with the best of `others`, round by round, and whether that reaches `goal`. Nothing if
    /// one of them was not measured.
    pub fn print_goal(&self, name: &str, others: &[&str], goal: f64) {
        let samples = |name: &str| self.rows.iter().find(|(row, _)| *row == name).map(|(_, samples)| samples);
        let Some(ours) = samples(name) else { return };
        let Some(theirs) = others.iter().map(|other| samples(other)).collect::<Option<Vec<_>>>() else { return };
        let ratios = ours.iter().enumerate().map(|(round, sample)| {
            let best = theirs.iter().map(|samples| samples[round].forwarded).fold(0.0, f64::max);
            sample.forwarded / best
        });
        let ratio = middle(ratios.collect());
        let verdict = if ratio >= goal { "reached" } else { "MISSED" };
        println!("{name} to {}: {ratio:.2}, goal {goal:.1} {verdict}", others.join(" or "));
    }

    pub fn json(&self) -> Result<String, Error> {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|(name, samples)| {
                serde_json::json!({
                    "contender": name,
                    "median_pps": median(samples).round(),
                    "forwarded_pps": samples.iter().map(|s| s.forwarded.round()).collect::<Vec<_>>(),
                    "offered_pps": samples.iter().map(|s| s.offered.round()).collect::<Vec<_>>(),
                })
            })
            .collect();
        Ok(serde_json::to_string_pretty(&rows)? + "\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.rows.first().map_or(f64::NAN, |(_, samples)| median(samples));
        writeln!(f, "{:32} {:>8} {:>8} {:>8} {:>10}", "Mpps", "median", "least", "most", "to first")?;
        for (name, samples) in &self.rows {
            let forwarded = || samples.iter().map(|sample| sample.forwarded);
            let (least, most) = (forwarded().fold(f64::INFINITY, f64::min), forwarded().fold(0.0, f64::max));
            let middle = median(samples);
            // A contender that forwards nearly all it is offered may be able to do more.
            let limited = samples.iter().any(|sample| sample.forwarded > 0.95 * sample.offered);
            writeln!(
                f,
                "{name:32} {:8.3} {:8.3} {:8.3} {:10.2}{}",
                middle / 1e6,
                least / 1e6,
                most / 1e6,
                middle / first,
                if limited { "  (the source was the limit)" } else { "" }
            )?;
        }
        Ok(())
    }
}

fn median(samples: &[Sample]) -> f64 {
    middle(samples.iter().map(|sample| sample.forwarded).collect())
}

fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => f64::NAN,
        n => (numbers[(n - 1) / 2] + numbers[n / 2]) / 2.0,
    }
}
