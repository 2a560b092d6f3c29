//! Rates as a profile writes them, and what they come to in packets per second.

use std::str::FromStr;

/// What a frame takes on an Ethernet link beyond its own bytes: preamble, start delimiter and the gap before the next
/// one (IEEE 802.3 clause 4.2.3), in bytes.
pub const LINK_OVERHEAD: f64 = 20.0;

/// Bytes of the frame check sequence, which a network card adds.
pub const FCS: usize = 4;

/// How fast to send.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// As fast as the port takes packets.
    Max,
    /// A share of the line rate, above 0 and at most 1.
    Line(f64),
    /// Packets per second.
    Packets(f64),
    /// Bits per second of frames with their FCS, without preamble and gap.
    Bits(f64),
}

impl Rate {
    /// In packets per second, for frames of `mean` bytes on average (FCS included) on a line of `line` bits per second.
    /// `None`: as fast as the port takes them.
    pub fn pps(self, mean: f64, line: f64) -> Option<f64> {
        match self {
            Rate::Max => None,
            Rate::Line(share) => Some(share * line / ((mean + LINK_OVERHEAD) * 8.0)),
            Rate::Packets(pps) => Some(pps),
            Rate::Bits(bps) => Some(bps / (mean * 8.0)),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let wrong = || {
            format!(
                "'{text}' is not a rate: write packets per second (500kpps, 1.5Mpps), bits per second (2Gbps), \
                 a share of the line (50%), or max"
            )
        };
        let text = text.trim();
        if text == "max" {
            return Ok(Rate::Max);
        }
        let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = text[..split].parse().map_err(|_| wrong())?;
        let rate = match text[split..].trim() {
            "%" if number > 100.0 => return Err(format!("'{text}' is more than the line carries")),
            "%" => Rate::Line(number / 100.0),
            unit => {
                let (factor, unit) = prefix(unit);
                match unit {
                    "pps" => Rate::Packets(number * factor),
                    "bps" => Rate::Bits(number * factor),
                    _ => return Err(wrong()),
                }
            }
        };
        if number == 0.0 { Err(format!("'{text}' would send nothing")) } else { Ok(rate) }
    }
}

/// Splits an SI prefix off a unit.
fn prefix(unit: &str) -> (f64, &str) {
    let rest = unit.get(1..).unwrap_or("");
    match unit.chars().next() {
        Some('k' | 'K') => (1e3, rest),
        Some('M') => (1e6, rest),
        Some('G') => (1e9, rest),
        _ => (1.0, unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_rate_of_the_smallest_frames_is_the_known_figure() {
        let pps = Rate::Line(1.0).pps(64.0, 10e9).unwrap();
        assert_eq!(pps.round(), 14_880_952.0);
        assert_eq!(Rate::Line(0.5).pps(1518.0, 10e9).unwrap().round(), 406_372.0);
    }

    #[test]
    fn rates_read_as_people_write_them() {
        assert_eq!("1.5Mpps".parse(), Ok(Rate::Packets(1.5e6)));
        assert_eq!("200 kpps".parse(), Ok(Rate::Packets(200e3)));
        assert_eq!("7pps".parse(), Ok(Rate::Packets(7.0)));
        assert_eq!("2Gbps".parse(), Ok(Rate::Bits(2e9)));
        assert_eq!("25%".parse(), Ok(Rate::Line(0.25)));
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!("1Mpps".parse::<Rate>().unwrap().pps(64.0, 10e9), Some(1e6));
        assert_eq!(Rate::Bits(512e6).pps(64.0, 10e9), Some(1e6));
    }

    #[test]
    fn nonsense_is_refused_with_what_is_possible() {
        for text in ["", "0pps", "0%", "101%", "-1pps", "5", "1.2.3pps", "5Tpps", "pps", "1e6pps"] {
            let error = text.parse::<Rate>().expect_err(text);
            assert!(error.contains(text), "{error}");
        }
    }
}
