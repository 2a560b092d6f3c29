//! The controller as others see it.

use std::{
    io,
    sync::{Arc, PoisonError, RwLock, mpsc},
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

use super::{Applied, ApplyError, Command, Controller};
use crate::{
    attachments::Attachments,
    compile::Identity,
    desired::{Feed, Transaction},
    engine::Engine,
    health::Problems,
    kernel::KernelView,
};

/// What is true of the switch after the latest step.
#[derive(Debug, Default)]
pub struct Observed {
    /// The ports.
    pub attachments: Attachments,
    /// The kernel's knowledge that is in force.
    pub view: Arc<KernelView>,
    /// The generation that every worker has adopted.
    pub generation: u64,
    /// Why some services' health checks are not answered.
    pub health_problems: Problems,
}

/// A running controller. Cheap to clone.
#[derive(Clone)]
pub struct ControllerHandle {
    commands: mpsc::Sender<Command>,
    observed: Arc<RwLock<Arc<Observed>>>,
    feed: Arc<Feed>,
    engine: Arc<dyn Engine>,
    identity: Arc<Identity>,
}

impl ControllerHandle {
    /// Runs `controller` on a thread of its own, until [`ControllerHandle::stop`].
    pub fn spawn(controller: Controller) -> io::Result<(ControllerHandle, JoinHandle<()>)> {
        let (commands, receiver) = mpsc::channel();
        let handle = ControllerHandle {
            commands,
            observed: controller.observed.clone(),
            feed: controller.feed.clone(),
            engine: controller.engine.clone(),
            identity: Arc::new(controller.identity.clone()),
        };
        let thread = thread::Builder::new().name("controller".into()).spawn(move || controller.run(&receiver))?;
        Ok((handle, thread))
    }

    /// Changes the desired state; returns once it is on disk and every worker forwards by it.
    pub async fn apply(&self, transaction: Transaction) -> Result<Applied, ApplyError> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Apply(transaction, answer)).map_err(|_| ApplyError::Stopping)?;
        answered.await.unwrap_or(Err(ApplyError::Stopping))
    }

    /// There is news from the kernel.
    pub fn kernel_changed(&self) {
        // After the controller has ended nobody cares.
        let _ = self.commands.send(Command::KernelChanged);
    }

    /// Empties the switch and ends the thread, after what was asked for before.
    pub fn stop(&self) {
        let _ = self.commands.send(Command::Stop);
    }

    /// The switch after the latest step.
    pub fn observed(&self) -> Arc<Observed> {
        self.observed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The desired state and its changes.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// The engine, for counters and flows.
    pub fn engine(&self) -> &Arc<dyn Engine> {
        &self.engine
    }

    /// What does not change while the daemon runs.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}
