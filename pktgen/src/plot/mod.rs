//! Plots as inline SVG and the page around them: one self-contained HTML file, light or dark as the reader's system is.
//!
//! [`Lines`] draws series over a continuous axis, [`Bars`] compares contenders case by case, and [`page`] holds the
//! parts of a page. Colours are the style sheet's: a series has a number, and its place in [`COLOURS`] is its colour
//! everywhere on a page. Nothing is loaded from elsewhere, and no script runs: what a reader points at is shown by the
//! style sheet alone.

mod bars;
mod lines;
pub mod page;
mod scale;

pub use bars::{Bar, Bars, Group};
pub use lines::{Lines, Mark, Series};
pub use scale::{Axis, Scale, Unit};

/// How many series the style sheet has colours for. A plot of more is unreadable: leave some out instead.
pub const COLOURS: usize = 6;

/// A coordinate as SVG wants it: a tenth of a unit is finer than a screen shows.
fn coordinate(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}
