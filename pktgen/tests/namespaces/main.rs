//! pktgen on real interfaces, its figures checked against somebody else's: the kernel's counters, tcpdump, tshark,
//! sockperf, DPDK's testpmd, nginx, curl, and a path whose faults are known.
//!
//! Run as root; each test has a network namespace of its own. The machine may be busy: rates are low where figures must
//! be exact. Those whose figures depend on the time have the machine to themselves all the same: see `measuring`.

mod counters;
mod decode;
mod life;
mod measuring;
mod net;
mod replay;
mod tool;
