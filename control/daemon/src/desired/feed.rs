//! The state as readers see it, and the changes that led to it.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::watch;

use super::{Change, State};

/// Changes that are remembered for those who resume a watch.
const REMEMBERED: usize = 1024;

/// The latest state and the changes before it. Written by the controller, read by the API.
#[derive(Debug)]
pub struct Feed {
    inner: RwLock<Inner>,
    tick: watch::Sender<Tick>,
}

#[derive(Debug)]
struct Inner {
    state: Arc<State>,
    changes: VecDeque<Arc<Change>>,
}

/// What a subscriber wakes up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// The latest version.
    pub version: u64,
    /// Nothing follows.
    pub closed: bool,
}

impl Feed {
    /// A feed that begins with `state`; what came before it is not known.
    pub fn new(state: Arc<State>) -> Self {
        let tick = watch::Sender::new(Tick { version: state.version, closed: false });
        Feed { inner: RwLock::new(Inner { state, changes: VecDeque::new() }), tick }
    }

    /// The latest state.
    pub fn state(&self) -> Arc<State> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).state.clone()
    }

    /// The changes after `version`, oldest first; `None` if they are not all known.
    pub fn since(&self, version: u64) -> Option<Vec<Arc<Change>>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let missing = usize::try_from(inner.state.version.checked_sub(version)?).ok()?;
        let skip = inner.changes.len().checked_sub(missing)?;
        Some(inner.changes.iter().skip(skip).cloned().collect())
    }

    /// Makes `state` the latest one; `change` led to it from the one before.
    pub fn push(&self, state: Arc<State>, change: Change) {
        let version = state.version;
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.state = state;
        inner.changes.push_back(Arc::new(change));
        if inner.changes.len() > REMEMBERED {
            inner.changes.pop_front();
        }
        drop(inner);
        self.tick.send_replace(Tick { version, closed: false });
    }

    /// Tells subscribers that nothing follows.
    pub fn close(&self) {
        self.tick.send_modify(|tick| tick.closed = true);
    }

    /// Wakes up when the state changes.
    pub fn subscribe(&self) -> watch::Receiver<Tick> {
        self.tick.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(feed: &Feed, version: u64) {
        let state = State { version, ..State::default() };
        feed.push(Arc::new(state), Change { version, ..Change::default() });
    }

    fn versions(feed: &Feed, since: u64) -> Option<Vec<u64>> {
        Some(feed.since(since)?.iter().map(|change| change.version).collect())
    }

    #[test]
    fn changes_are_replayed_from_any_known_version() {
        let feed = Feed::new(Arc::new(State { version: 7, ..State::default() }));
        assert_eq!(versions(&feed, 7), Some(vec![]));
        assert_eq!(versions(&feed, 6), None, "before a restart");
        assert_eq!(versions(&feed, 8), None, "not yet");
        push(&feed, 8);
        push(&feed, 9);
        assert_eq!(versions(&feed, 7), Some(vec![8, 9]));
        assert_eq!(versions(&feed, 8), Some(vec![9]));
        assert_eq!(versions(&feed, 9), Some(vec![]));
    }

    #[test]
    fn old_changes_are_forgotten() {
        let feed = Feed::new(Arc::default());
        for version in 1..=REMEMBERED as u64 + 1 {
            push(&feed, version);
        }
        assert_eq!(versions(&feed, 0), None);
        assert_eq!(versions(&feed, 1).unwrap().len(), REMEMBERED);
    }
}
