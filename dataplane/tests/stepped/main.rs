//! Workers without threads, kernel or clock, over devices in memory: what becomes of flows, packet by packet.

mod affinity;
mod fragments;
mod guard;
mod limits;
mod oversize;
mod pressure;
mod related;
mod schedulers;
mod sctp;
mod states;
mod workers;
mod world;
