//! All queues of one interface as one station.

use shunt_dataplane::{
    spec::PortRole,
    xsk::{Classifier, Interface, UplinkFilter, XdpMode},
};

use crate::engine::{AfXdpStation, EngineError, Station};

/// An interface whose frames are all ours, whichever queue they come in on.
pub struct Port {
    station: AfXdpStation,
    /// What the kernel says about it.
    pub facts: Interface,
    classifier: Classifier,
}

impl Port {
    /// Opens all queues of an interface. Until the port is dropped, the kernel sees nothing of what arrives there.
    ///
    /// # Errors
    /// What the kernel refuses, with the interface's name.
    pub fn open(interface: &str, mode: XdpMode) -> Result<Port, EngineError> {
        let facts = Interface::query(interface)?;
        let mut classifier = Classifier::attach(&facts, PortRole::Pod, mode, &UplinkFilter::default())?;
        let queues: Vec<_> = (0..facts.queues).map(|queue| (interface, queue)).collect();
        let station = AfXdpStation::open(&queues, true)?;
        for (queue, device) in (0..).zip(station.devices()) {
            classifier.register(queue, device)?;
        }
        Ok(Port { station, facts, classifier })
    }

    /// The interface, for people.
    pub fn name(&self) -> String {
        format!("{} (XDP {})", self.facts.name, self.classifier.mode())
    }
}

impl Station for Port {
    fn push(&mut self, len: usize, write: &mut dyn FnMut(&mut [u8])) -> bool {
        self.station.push(len, write)
    }

    fn flush(&mut self) {
        self.station.flush();
    }

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> usize {
        self.station.receive(take)
    }

    fn missed(&self) -> u64 {
        self.station.missed()
    }
}
