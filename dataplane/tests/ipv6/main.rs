//! IPv6 through workers without threads, kernel or clock: pods, the overlay, services, what the switch says itself, and what it says of
//! packets.

mod explain;
mod link;
mod services;
mod world;
