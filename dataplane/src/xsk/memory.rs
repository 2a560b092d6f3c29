//! A worker's memory: made once, shared by its ports, never unmapped.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    XskError,
    anchor::Anchor,
    device::XskDevice,
    registered::{Registered, Transfer},
};
use crate::{io::FramePool, spec::PortRole};

/// Entries of each ring of each socket: fill, RX, TX and completion.
pub const RING_SIZE: u32 = 2048;

/// The fewest frames a queue is given to receive into: what the kernel hands over in one go (`NAPI_POLL_WEIGHT`).
const LEAST_SHARE: u32 = 64;

/// Ports for which every worker's memory is to suffice, so far as it can: one for each pod of a node.
const PODS: u32 = 256;

/// The control thread's side of a worker's frames: opens sockets on them.
pub struct WorkerMemory {
    registered: Registered,
    frames: u32,
    budget: Arc<Mutex<Budget>>,
    _anchor: Anchor,
}

impl WorkerMemory {
    /// Registers memory for `frames` frames of [`FRAME_SIZE`](crate::io::FRAME_SIZE) bytes with the kernel. The pool goes to the worker.
    ///
    /// The memory stays mapped for the rest of the process's life.
    ///
    /// # Errors
    /// [`XskError::Memory`] if the kernel refuses the memory, [`XskError::Anchor`] if it cannot be kept registered.
    ///
    /// # Panics
    /// If `frames` is 0.
    pub fn new(frames: u32) -> Result<(WorkerMemory, FramePool), XskError> {
        let count = NonZeroU32::new(frames).expect("a worker needs frames");
        let (registered, pool) = Registered::new(count, Transfer::Copy)?;
        let anchor = Anchor::new(registered.umem())?;
        let budget = Arc::new(Mutex::new(Budget::of(frames)));
        Ok((WorkerMemory { registered, frames, budget, _anchor: anchor }, pool))
    }

    /// Opens a socket on one receive queue of an interface, in the calling thread's network namespace: one of `queues`
    /// queues of a port that this worker serves.
    ///
    /// It receives nothing until the classifier knows it ([`Classifier::register`](super::Classifier::register)) and its
    /// first [`reclaim`](crate::io::PacketIo::reclaim) has given it frames.
    ///
    /// # Errors
    /// [`XskError::NoInterface`], [`XskError::MtuTooLarge`], [`XskError::NoQueue`], [`XskError::FramesExhausted`] or
    /// [`XskError::Socket`], each naming the interface.
    pub fn open(&self, interface: &str, queue: u32, role: PortRole, queues: u32) -> Result<XskDevice, XskError> {
        let share = Share::take(&self.budget, role, queues)
            .ok_or_else(|| XskError::FramesExhausted { interface: interface.into(), frames: self.frames })?;
        self.registered.open(interface, queue, share)
    }
}

/// Frames of a shared memory that no device holds yet to receive into. Three quarters of all to begin with: the rest stays
/// for what is in hand and being sent.
#[derive(Debug)]
struct Budget {
    /// All frames of the memory.
    frames: u32,
    /// For the uplink and the host port, an eighth and a thirty-second of all.
    node: u32,
    /// For pods' ports.
    pods: u32,
    /// Of these, what pods that are still to come find at least.
    promised: u32,
}

impl Budget {
    fn of(frames: u32) -> Budget {
        let node = frames / 8 + frames / 32;
        let pods = frames - frames / 4 - node;
        Budget { frames, node, pods, promised: (PODS * LEAST_SHARE).min(pods / 8 * 7) }
    }

    /// The share of one of a port's `queues` queues: for a pod the least, and a sixteenth of what is promised to nobody.
    fn share(&self, role: PortRole, queues: u32) -> u32 {
        let share = match role {
            PortRole::Uplink => self.frames / 8 / queues,
            PortRole::Host => self.frames / 32 / queues,
            PortRole::Pod => LEAST_SHARE + self.pods.saturating_sub(self.promised) / 16 / queues,
        };
        share.clamp(LEAST_SHARE, RING_SIZE)
    }

    /// The frames for ports of a role.
    fn of_role(&mut self, role: PortRole) -> &mut u32 {
        match role {
            PortRole::Uplink | PortRole::Host => &mut self.node,
            PortRole::Pod => &mut self.pods,
        }
    }
}

/// The frames one device may hold to receive into. Returned to the budget they come out of, if any, when the device is
/// dropped.
pub(super) struct Share {
    frames: u32,
    budget: Option<(PortRole, Arc<Mutex<Budget>>)>,
}

impl Share {
    fn take(budget: &Arc<Mutex<Budget>>, role: PortRole, queues: u32) -> Option<Share> {
        let mut left = budget.lock().unwrap_or_else(PoisonError::into_inner);
        let frames = left.share(role, queues.max(1));
        let of_role = left.of_role(role);
        *of_role = of_role.checked_sub(frames)?;
        if role == PortRole::Pod {
            left.promised = left.promised.saturating_sub(LEAST_SHARE);
        }
        drop(left);
        Some(Share { frames, budget: Some((role, budget.clone())) })
    }

    /// Of a memory with frames for all of its devices.
    pub(super) fn unshared(frames: u32) -> Share {
        Share { frames, budget: None }
    }

    pub(super) fn frames(&self) -> u32 {
        self.frames
    }

    /// True if it is of a port's own memory.
    pub(super) fn is_own(&self) -> bool {
        self.budget.is_none()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some((role, budget)) = &self.budget {
            let mut left = budget.lock().unwrap_or_else(PoisonError::into_inner);
            *left.of_role(*role) += self.frames;
            if *role == PortRole::Pod {
                left.promised = (left.promised + LEAST_SHARE).min(Budget::of(left.frames).promised);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xsk::{Classifier, PortMemory};

    /// Opens ports until there is nothing left, then all again after the first ones have gone.
    fn shares(frames: u32, roles: &[PortRole]) -> Vec<u32> {
        let budget = Arc::new(Mutex::new(Budget::of(frames)));
        let taken: Vec<_> = roles.iter().map_while(|role| Share::take(&budget, *role, 1)).collect();
        let shares = taken.iter().map(Share::frames).collect();
        drop(taken);
        let left = budget.lock().unwrap();
        let fresh = Budget::of(frames);
        assert_eq!((left.node, left.pods), (fresh.node, fresh.pods), "what was taken is back");
        shares
    }

    #[test]
    fn the_default_has_a_deep_uplink_generous_first_pods_and_the_least_for_256() {
        let mut roles = vec![PortRole::Pod; 256];
        roles.extend([PortRole::Host, PortRole::Uplink]);
        let shares = shares(32768, &roles);
        assert_eq!(shares.len(), 258);
        assert_eq!((shares[0], shares[257], shares[256]), (256, 2048, 1024));
        assert!(shares[..256].is_sorted_by(|a, b| a >= b) && shares[255] >= LEAST_SHARE, "{shares:?}");
        assert!(shares.iter().sum::<u32>() <= 32768 / 4 * 3);
    }

    #[test]
    fn a_small_memory_carries_fewer() {
        let pods = shares(1024, &[PortRole::Pod; 100]);
        assert_eq!(pods.len(), 9, "{pods:?}");
        assert!(pods.iter().all(|share| (64..100).contains(share)));
        assert_eq!(shares(1024, &[PortRole::Uplink, PortRole::Uplink]), [128], "there is one uplink");
    }

    #[test]
    fn the_control_thread_may_be_any_thread() {
        fn shared<T: Send + Sync>() {}
        fn sent<T: Send>() {}
        shared::<WorkerMemory>();
        shared::<PortMemory>();
        sent::<Classifier>();
        sent::<XskDevice>();
    }
}
