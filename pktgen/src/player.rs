//! Plays a script: one lane's packets, one after the other.

use std::sync::Arc;

use crate::{packet::Signature, script::Script};

/// One lane's place in a script, and the sequence numbers of its tracks.
#[derive(Clone, Debug)]
pub struct Player {
    script: Arc<Script>,
    at: usize,
    epoch: u8,
    lane: usize,
    lanes: usize,
    sequences: Vec<u32>,
}

impl Player {
    /// Lane `lane` of `lanes` starts at its own place, so that lanes do not send the same flows at the same time.
    pub fn new(script: Arc<Script>, lane: usize, lanes: usize, epoch: u8) -> Player {
        let at = script.slots.len() * lane / lanes;
        let sequences = vec![0; script.streams];
        Player { at, epoch, lane, lanes, sequences, script }
    }

    /// Length of the next packet in bytes, and its stream.
    #[inline]
    pub fn peek(&self) -> (usize, usize) {
        let slot = &self.script.slots[self.at];
        (self.script.templates[slot.template as usize].bytes.len(), slot.stream as usize)
    }

    /// Writes the next packet into `frame`, which has its length.
    #[inline]
    pub fn write(&mut self, frame: &mut [u8], sent: u64, late: u64) {
        let slot = &self.script.slots[self.at];
        let template = &self.script.templates[slot.template as usize];
        let stream = slot.stream as usize;
        let sequence = &mut self.sequences[stream];
        match &self.script.rolling[stream] {
            None => slot.write(template, frame),
            Some(rolling) => {
                let flow = rolling.flow(*sequence, (self.lane as u64, self.lanes as u64));
                template.write(frame, flow, template.checksums(flow), slot.entropy);
            }
        }
        let track = (self.lane * self.script.streams + stream) as u16;
        let signature = Signature { epoch: self.epoch, track, sequence: *sequence, sent, late };
        signature.emit(&mut frame[template.payload..]);
        *sequence = sequence.wrapping_add(1);
        self.at = if self.at + 1 == self.script.slots.len() { 0 } else { self.at + 1 };
    }

    /// Packets of each stream so far, modulo 2^32.
    pub fn sequences(&self) -> &[u32] {
        &self.sequences
    }
}
