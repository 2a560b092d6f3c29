//! What a run found, and how it is told: as text for a terminal, as JSON and CSV for programs, as a page to look at.

pub mod csv;
#[cfg(test)]
pub(crate) mod fixture;
pub mod html;
pub mod model;
pub mod outputs;
mod plots;
pub mod text;
