//! When the frames of a capture leave.

use super::Capture;

/// How fast a capture is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As it was captured, this many times faster.
    Captured(f64),
    /// Evenly, in packets per second.
    Rate(f64),
    /// As fast as the port takes them.
    Max,
}

/// The order in which frames leave, and when: the capture, round after round.
#[derive(Debug)]
pub struct Schedule<'a> {
    capture: &'a Capture,
    pace: Pace,
    /// Rounds left, the present one included.
    rounds: u64,
    next: usize,
    /// Frames that have left.
    left: u64,
    /// When the present round began, in nanoseconds since the first.
    began_ns: f64,
}

impl<'a> Schedule<'a> {
    /// Sends `capture` `rounds` times.
    pub fn new(capture: &'a Capture, pace: Pace, rounds: u64) -> Schedule<'a> {
        Schedule { capture, pace, rounds, next: 0, left: 0, began_ns: 0.0 }
    }

    /// Nanoseconds from the first frame to the last of all rounds; `None`: it depends on the port.
    pub fn length_ns(&self) -> Option<f64> {
        let frames = self.capture.count() as f64 * self.rounds as f64;
        match self.pace {
            Pace::Captured(faster) => {
                let rounds = self.rounds.saturating_sub(1) as f64 * self.round_ns();
                Some((rounds + self.capture.length_ns() as f64) / faster)
            }
            Pace::Rate(pps) => Some((frames - 1.0).max(0.0) * 1e9 / pps),
            Pace::Max => None,
        }
    }

    /// Nanoseconds from one round's first frame to the next one's. After the last frame comes the mean gap: the capture
    /// does not say what followed it.
    fn round_ns(&self) -> f64 {
        let (length, frames) = (self.capture.length_ns() as f64, self.capture.count() as f64);
        if frames > 1.0 { length * frames / (frames - 1.0) } else { length }
    }
}

impl<'a> Iterator for Schedule<'a> {
    /// When a frame is due, in nanoseconds since the start, and the frame. At [`Pace::Max`] all are due at once.
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<(u64, &'a [u8])> {
        if self.rounds == 0 {
            return None;
        }
        let recorded = self.capture.get(self.next)?;
        let due = match self.pace {
            Pace::Captured(faster) => (self.began_ns + recorded.at_ns as f64) / faster,
            Pace::Rate(pps) => self.left as f64 * 1e9 / pps,
            Pace::Max => 0.0,
        };
        self.left += 1;
        self.next += 1;
        if self.next == self.capture.count() {
            self.next = 0;
            self.rounds -= 1;
            self.began_ns += self.round_ns();
        }
        Some((due as u64, recorded.frame))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pcap_file::pcap::{PcapPacket, PcapWriter};

    use super::{super::Truncated, *};

    fn capture(micros: &[u64]) -> Capture {
        let mut writer = PcapWriter::new(Vec::new()).unwrap();
        for (i, at) in micros.iter().enumerate() {
            let frame = [i as u8; 60];
            writer.write_packet(&PcapPacket::new(Duration::from_micros(*at), 60, &frame)).unwrap();
        }
        Capture::parse(&writer.into_writer(), Truncated::Refuse, 1514).unwrap()
    }

    fn schedule(micros: &[u64], pace: Pace, rounds: u64) -> Vec<(u64, u8)> {
        Schedule::new(&capture(micros), pace, rounds).map(|(due, frame)| (due, frame[0])).collect()
    }

    #[test]
    fn the_captured_pace_is_kept_or_sped_up() {
        assert_eq!(schedule(&[5, 6, 9], Pace::Captured(1.0), 1), [(0, 0), (1000, 1), (4000, 2)]);
        assert_eq!(schedule(&[5, 6, 9], Pace::Captured(4.0), 1), [(0, 0), (250, 1), (1000, 2)]);
    }

    #[test]
    fn rounds_follow_one_another_after_the_mean_gap() {
        let times = schedule(&[5, 6, 9], Pace::Captured(2.0), 2);
        assert_eq!(times[3..], [(3000, 0), (3500, 1), (5000, 2)]);
        assert_eq!(schedule(&[7], Pace::Captured(1.0), 3), [(0, 0), (0, 0), (0, 0)]);
    }

    #[test]
    fn the_length_is_the_last_frames_time() {
        let capture = capture(&[5, 6, 9]);
        for (pace, rounds) in [(Pace::Captured(2.0), 1), (Pace::Captured(1.0), 3), (Pace::Rate(1e6), 2)] {
            let schedule = Schedule::new(&capture, pace, rounds);
            let length = schedule.length_ns().unwrap();
            assert_eq!(schedule.last().unwrap().0 as f64, length, "{pace:?}");
        }
    }

    #[test]
    fn a_rate_and_full_speed_heed_no_times() {
        assert_eq!(
            schedule(&[5, 6, 9], Pace::Rate(1e6), 2).iter().map(|t| t.0).collect::<Vec<_>>(),
            [0, 1000, 2000, 3000, 4000, 5000]
        );
        assert_eq!(schedule(&[5, 6, 9], Pace::Max, 1), [(0, 0), (0, 1), (0, 2)]);
        assert_eq!(schedule(&[5, 6, 9], Pace::Max, 0), []);
    }
}
