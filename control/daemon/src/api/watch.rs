//! Watches: the state first, or what has changed since, then every change.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use futures_util::stream::{self, Stream};
use shunt_control_api::{Key, Resource, v1};
use tokio::sync::watch::Receiver;
use tonic::Status;

use crate::{
    controller::ControllerHandle,
    desired::{Change, Tick},
};

/// Resources in one message: enough to be quick, few enough for gRPC's usual limit of 4 MiB.
const CHUNK: usize = 256;

/// The answer to a watch.
pub(super) type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

/// Begins a watch after `after_version`, or with the whole state.
pub(super) fn watch(controller: &ControllerHandle, after_version: Option<u64>) -> Result<WatchStream, Status> {
    let feed = controller.feed();
    let mut watcher =
        Watcher { tick: feed.subscribe(), controller: controller.clone(), seen: 0, queue: VecDeque::new() };
    match after_version {
        Some(version) => {
            watcher.seen = version;
            watcher.queue_changes()?;
        }
        None => {
            let state = feed.state();
            let all: Vec<_> = state.resources.values().cloned().collect();
            watcher.seen = state.version;
            watcher.queue_chunks(state.version, true, &all, &[]);
        }
    }
    let next = |watcher: Option<Watcher>| async {
        let mut watcher = watcher?;
        match watcher.next().await? {
            Ok(message) => Some((Ok(message), Some(watcher))),
            Err(status) => Some((Err(status), None)),
        }
    };
    Ok(Box::pin(stream::unfold(Some(watcher), next)))
}

struct Watcher {
    controller: ControllerHandle,
    tick: Receiver<Tick>,
    /// The version after which `queue` goes on to.
    seen: u64,
    queue: VecDeque<v1::WatchResponse>,
}

impl Watcher {
    /// The next message; `None` when the daemon stops.
    async fn next(&mut self) -> Option<Result<v1::WatchResponse, Status>> {
        loop {
            if let Some(message) = self.queue.pop_front() {
                return Some(Ok(message));
            }
            let now = *self.tick.borrow_and_update();
            if now.version > self.seen {
                if let Err(status) = self.queue_changes() {
                    return Some(Err(status));
                }
            } else if now.closed {
                return None;
            } else {
                self.tick.changed().await.ok()?;
            }
        }
    }

    /// Queues every change after `seen`.
    fn queue_changes(&mut self) -> Result<(), Status> {
        let seen = self.seen;
        let unknown = || {
            Status::out_of_range(format!(
                "after_version: changes after version {seen} are not known; watch again without it"
            ))
        };
        for change in self.controller.feed().since(seen).ok_or_else(unknown)? {
            let Change { version, upserts, deletes } = &*change;
            self.queue_chunks(*version, false, upserts, deletes);
            self.seen = *version;
        }
        Ok(())
    }

    /// Queues one version, in as many messages as it takes; one at least.
    fn queue_chunks(&mut self, version: u64, initial: bool, upserts: &[Arc<Resource>], deletes: &[Key]) {
        let (mut upserts, mut deletes) = (upserts.chunks(CHUNK), deletes.chunks(CHUNK));
        let (mut some, mut others) = (upserts.next(), deletes.next());
        loop {
            let message = v1::WatchResponse {
                version,
                initial,
                more: upserts.len() + deletes.len() > 0,
                upserts: some.unwrap_or_default().iter().map(|resource| (&**resource).into()).collect(),
                deletes: others.unwrap_or_default().iter().map(v1::Key::from).collect(),
            };
            let more = message.more;
            self.queue.push_back(message);
            if !more {
                return;
            }
            (some, others) = (upserts.next(), deletes.next());
        }
    }
}
