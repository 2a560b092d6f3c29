//! Which backend a new flow gets.

use crate::{
    packet::Meta,
    spec::Backend,
    stages::track,
    tables::{hash::mix, service::Choice},
};

/// Hashes tried for a backend other than a silent one: of two equal backends, all name the same once in 65,536 times.
const OTHER_HASHES: usize = 16;

/// The backend that the flow's hash names, or another one if that did not answer the flow's earlier SYN.
#[inline]
pub fn backend(meta: &Meta, choice: &Choice) -> Option<Backend> {
    let named = choice.select(meta.hash);
    if meta.has(Meta::UNANSWERED) { another(meta, choice, named) } else { named }
}

#[cold]
fn another(meta: &Meta, choice: &Choice, named: Option<Backend>) -> Option<Backend> {
    let silent = track::backend(meta.other);
    // The hash names the silent one still, unless the service has changed; others of its hashes need not.
    let mut hash = meta.hash;
    let others = std::iter::repeat_with(|| {
        hash = mix(hash);
        choice.select(hash)
    });
    std::iter::once(named).chain(others.take(OTHER_HASHES)).find(|backend| *backend != Some(silent)).unwrap_or(named)
}
