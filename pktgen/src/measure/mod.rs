//! What came back, counted and timed.

mod distribution;
mod meter;
mod track;

pub use self::{
    distribution::{Histogram, distribution},
    meter::{Interval, Meter},
};
