//! What contenders are asked to do.

use shunt_pktgen::quantity::count;

/// Sizes of frames, with the frame check sequence of 4 bytes that a veth does not carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    Bytes(u32),
    /// Seven of 64, four of 570 and one of 1450 bytes: the usual mix, with the largest made to fit behind 50 bytes of
    /// VXLAN.
    Imix,
}

impl Frames {
    /// Sizes and their weights.
    pub fn mix(self) -> Vec<(u32, u32)> {
        match self {
            Frames::Bytes(size) => vec![(size, 1)],
            Frames::Imix => vec![(64, 7), (570, 4), (1450, 1)],
        }
    }

    fn name(self) -> String {
        match self {
            Frames::Bytes(size) => format!("{size} bytes"),
            Frames::Imix => "IMIX".to_owned(),
        }
    }
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub frames: Frames,
    /// Services that the contender has; traffic goes to all of them in turns, as far as there are flows.
    pub services: u32,
}

impl Case {
    /// All of a full report.
    pub const FULL: [Case; 4] = [
        Case { frames: Frames::Bytes(64), services: 10 },
        Case { frames: Frames::Imix, services: 10 },
        Case { frames: Frames::Bytes(1450), services: 10 },
        Case { frames: Frames::Bytes(64), services: 10_000 },
    ];

    /// That of a quick one: it has frames of all sizes.
    pub const QUICK: [Case; 1] = [Case::FULL[1]];

    /// Its name in reports.
    pub fn name(self) -> String {
        format!("{}, {} services", self.frames.name(), count(u64::from(self.services)))
    }
}
