//! What stays on an uplink when this process ends (`shunt_guard` in `bpf/traffic_control.h`): the program that keeps answers of the
//! node's own processes back while nobody translates them, and the map of those answers. The next process takes over from it.
#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use aya::{
    maps::{HashMap, Map, MapData, MapInfo},
    programs::{ProgramError, ProgramInfo, SchedClassifier, TcAttachType},
    sys::SyscallError,
};

use super::Interface;

pub(super) const GUARD: &str = "shunt_guard";
/// The map of answers to whom the switch led here.
pub(super) const ANSWERS: &str = "answers";

/// `BPF_TCX_EGRESS` of linux/bpf.h.
const TCX_EGRESS: u32 = 47;

/// `struct answer`, as it lies in memory.
pub(super) type Answer = [u8; 16];

/// What former processes left on an uplink.
pub(super) struct Former(Vec<ProgramInfo>);

impl Former {
    /// Looks for it. There is none where the kernel knows no such programs.
    pub(super) fn on(uplink: &Interface) -> Former {
        let programs = SchedClassifier::query_tcx(&uplink.name, TcAttachType::Egress);
        let programs = programs.map_or(Vec::new(), |(_, programs)| programs);
        Former(programs.into_iter().filter(|program| program.name_as_str() == Some(GUARD)).collect())
    }

    /// Copies the answers that they guard. What does not fit has given way, as it might at any time.
    pub(super) fn hand_over(&self, answers: &mut HashMap<&mut MapData, Answer, u64>) {
        for former in self.0.iter().filter_map(answers_of) {
            for (answer, noted) in former.iter().filter_map(Result::ok) {
                let _ = answers.insert(answer, noted, 0);
            }
        }
    }

    /// Takes them off.
    pub(super) fn detach(self, uplink: &Interface) -> Result<(), ProgramError> {
        self.0.iter().try_for_each(|program| {
            let program = program.fd()?;
            let (program, uplink) = (program.as_fd().as_raw_fd(), uplink.index as i32);
            // SAFETY: tells the kernel two numbers, of a program that is open and of an interface.
            done("bpf_prog_detach", unsafe { libxdp_sys::bpf_prog_detach2(program, uplink, TCX_EGRESS) })
        })
    }
}

/// The map of a guard.
fn answers_of(program: &ProgramInfo) -> Option<HashMap<MapData, Answer, u64>> {
    let ids = program.map_ids().ok()??;
    let is_it = |id: &u32| MapInfo::from_id(*id).is_ok_and(|map| map.name_as_str() == Some(ANSWERS));
    let map = MapData::from_id(ids.into_iter().find(is_it)?).ok()?;
    Map::from_map_data(map).ok()?.try_into().ok()
}

/// Attaches the guard to an uplink, behind what is there, to stay until the interface goes or somebody takes it off.
pub(super) fn stay(guard: &SchedClassifier, uplink: &Interface) -> Result<(), ProgramError> {
    let (guard, uplink) = (guard.fd()?.as_fd().as_raw_fd(), uplink.index as i32);
    // SAFETY: tells the kernel two numbers, of a program that is open and of an interface.
    done("bpf_prog_attach", unsafe { libxdp_sys::bpf_prog_attach(guard, uplink, TCX_EGRESS, 0) })
}

fn done(call: &'static str, code: i32) -> Result<(), ProgramError> {
    if code < 0 {
        return Err(SyscallError { call, io_error: io::Error::from_raw_os_error(-code) }.into());
    }
    Ok(())
}
