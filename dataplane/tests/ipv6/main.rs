//! IPv6 through workers without threads, kernel or clock: pods, the overlay, services, and what the switch says itself.

mod link;
mod services;
mod world;
