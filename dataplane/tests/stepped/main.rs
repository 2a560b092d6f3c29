//! Workers without threads, kernel or clock, over devices in memory: what becomes of flows, packet by packet.

mod fragments;
mod pressure;
mod related;
mod states;
mod workers;
mod world;
