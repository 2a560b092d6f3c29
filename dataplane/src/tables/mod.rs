//! Tables the stages look things up in.

pub mod arena;
pub mod conntrack;
