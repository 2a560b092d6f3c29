//! What a run shows while it goes on: on a terminal one block that is drawn over, otherwise a line a second.

use std::io::{self, IsTerminal, Write};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    quantity::{bps, count, pps, time},
    report::model::Sample,
};

/// Seconds between lines where lines are not drawn over.
const LINE_EVERY_S: f64 = 1.0;

/// Progress on standard error.
pub struct Progress {
    out: Out,
    /// When the last line was written, in seconds of the trial.
    last_line_s: f64,
}

enum Out {
    Nothing,
    Block(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl Progress {
    /// A block if standard error is a terminal, otherwise lines.
    pub fn stderr() -> Progress {
        let stderr = io::stderr();
        if !stderr.is_terminal() {
            return Progress::lines(stderr);
        }
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(10));
        let style = "{prefix}\n{wide_bar:.cyan/black.bright} {percent:>3}%\n{msg}";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is well-formed").progress_chars("━╸━"));
        Progress::to(Out::Block(bar))
    }

    /// Lines to `out`.
    pub fn lines(out: impl Write + Send + 'static) -> Progress {
        Progress::to(Out::Lines(Box::new(out)))
    }

    /// No progress.
    pub fn nothing() -> Progress {
        Progress::to(Out::Nothing)
    }

    fn to(out: Out) -> Progress {
        Progress { out, last_line_s: 0.0 }
    }

    /// A trial begins that is to send for `seconds`; zero if its length is not known. No load: as fast as the port takes
    /// packets.
    pub fn begin(&mut self, label: &str, seconds: f64, offered_pps: Option<f64>) {
        let load = offered_pps.map_or("as fast as possible".to_owned(), pps);
        self.begin_with(&format!("{label}: {load}"), seconds);
    }

    /// Something begins that `heading` says all about.
    pub fn begin_with(&mut self, heading: &str, seconds: f64) {
        self.last_line_s = 0.0;
        match &mut self.out {
            Out::Nothing => {}
            Out::Block(bar) => {
                bar.reset();
                bar.set_length((seconds * 1e3) as u64);
                bar.set_prefix(heading.to_owned());
                bar.set_message(String::new());
            }
            Out::Lines(out) => written(writeln!(out, "{heading}")),
        }
    }

    /// What happened since the sample before.
    pub fn sample(&mut self, sample: &Sample) {
        match &mut self.out {
            Out::Nothing => {}
            Out::Block(bar) => {
                bar.set_message(block(sample));
                bar.set_position((sample.at_s * 1e3) as u64);
            }
            Out::Lines(out) => {
                if sample.at_s - self.last_line_s >= LINE_EVERY_S - 1e-3 {
                    self.last_line_s = sample.at_s;
                    written(writeln!(out, "{:>6.1} s  {}", sample.at_s, parts(sample).concat().join(", ")));
                }
            }
        }
    }

    /// A line that stays: what a trial came to, what went wrong.
    pub fn say(&mut self, line: &str) {
        match &mut self.out {
            Out::Nothing => {}
            Out::Block(bar) => bar.suspend(|| written(writeln!(io::stderr(), "{line}"))),
            Out::Lines(out) => written(writeln!(out, "{line}")),
        }
    }

    /// Removes the block, for the report to take its place.
    pub fn end(&mut self) {
        if let Out::Block(bar) = &self.out {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

/// Progress is not the run's result: that nobody reads it any more ends nothing.
fn written(result: io::Result<()>) {
    drop(result);
}

/// The sample in a few lines.
fn block(sample: &Sample) -> String {
    let lines: Vec<_> =
        parts(sample).into_iter().filter(|line| !line.is_empty()).map(|line| line.join("   ")).collect();
    lines.join("\n")
}

/// Rates and losses, latency, connections.
fn parts(sample: &Sample) -> [Vec<String>; 3] {
    let mut rates = vec![
        format!("sent {}", pps(sample.sent_pps)),
        format!("received {} ({})", pps(sample.received_pps), bps(sample.received_bps)),
    ];
    if sample.open_connections.is_none() {
        rates.push(format!("lost {}", count(sample.lost)));
    }
    let latency = [("p50", sample.p50_ns), ("p99", sample.p99_ns)];
    let latency = latency.into_iter().filter_map(|(name, ns)| Some(format!("{name} {}", time(ns? as f64)))).collect();
    let mut connections = Vec::new();
    connections.extend(sample.established_per_s.map(|n| format!("{} new connections/s", count(n.round() as u64))));
    connections.extend(sample.open_connections.map(|n| format!("{} open", count(n))));
    [rates, latency, connections]
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::report::fixture;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn piped_progress_is_a_line_a_second() {
        let written = Shared::default();
        let mut progress = Progress::lines(written.clone());
        let report = fixture::connections();
        progress.begin("first", 10.0, Some(500e3));
        report.trials[0].samples[..5].iter().for_each(|sample| progress.sample(sample));
        progress.say("done");
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        insta::assert_snapshot!(text);
    }

    #[test]
    fn a_block_has_a_line_for_each_kind_of_figure() {
        let report = fixture::run();
        let block = block(&report.trials[0].samples[3]);
        assert_eq!(block.lines().count(), 2, "{block}");
        assert!(block.starts_with("sent 500.0 kpps   received "), "{block}");
    }
}
