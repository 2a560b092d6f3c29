//! The steps of a packet's walk, one file each. Every stage goes over the whole batch before the next one starts.

pub mod decap;
pub mod forward;
pub mod fragments;
pub mod ipv6;
pub mod limit;
pub mod local;
pub mod lost;
pub mod masquerade;
pub mod nat;
pub mod oversize;
pub mod parse;
pub mod related;
pub mod relay;
pub mod route;
pub mod select;
pub mod service;
pub mod track;
pub mod usual;
