//! Address translation with both ends of every packet checked: a node with two pods, its kernel and an uplink.

mod direct;
mod explain;
mod frontends;
mod masquerade;
mod property;
mod world;
