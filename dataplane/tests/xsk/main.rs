//! AF_XDP sockets and the classifier on real veth pairs.

mod attach;
mod frames;
mod memories;
mod net;
mod nodeport;
mod removal;
mod rig;
mod uplink;
