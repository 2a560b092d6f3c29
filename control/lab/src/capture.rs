//! Packets as they are on the wire: `tcpdump` records them, `tshark` judges them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    command::{Background, run},
    error::{LabError, Result},
    netns::Namespace,
    plan::VXLAN_PORT,
    wait,
};

static CAPTURES: AtomicU32 = AtomicU32::new(0);

/// What tells of a fault in a packet: that it is malformed, the severity of what tshark says of it, and its checksums' status.
const JUDGED: [&str; 8] = [
    MALFORMED,
    SEVERITY,
    "ip.checksum.status",
    "udp.checksum.status",
    "tcp.checksum.status",
    "sctp.checksum.status",
    "icmp.checksum.status",
    "icmpv6.checksum.status",
];
const MALFORMED: &str = "_ws.malformed";
const SEVERITY: &str = "_ws.expert.severity";
/// From this severity on it is an error.
const ERROR: u32 = 0x80_0000;
/// What tshark says of all ones where zero is usual. Where Linux finishes a checksum in a device's place it writes these in TCP, too
/// (`CSUM_MANGLED_0`), and whoever adds them up finds them right.
const ALL_ONES: &str = "Checksum 0xffff instead of 0x0000 (see RFC 1624)";
/// The status of a checksum that is wrong.
const BAD: &str = "0";

/// A running recording.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Background,
    file: PathBuf,
}

/// A finished recording.
#[derive(Clone, Debug)]
pub struct Recording {
    file: PathBuf,
}

impl Capture {
    /// Records what matches the pcap `filter` on `interface`, into a file of its own in `folder`.
    pub fn start(namespace: &Namespace, interface: &str, filter: &str, folder: &Path) -> Result<Capture> {
        let name = format!("capture-{}", CAPTURES.fetch_add(1, Ordering::Relaxed));
        let file = folder.join(format!("{name}.pcap"));
        let mut command = namespace.command("tcpdump");
        // Without a drop of privileges the file lies where root's directory is; each packet is written at once.
        command.args(["-n", "-U", "--immediate-mode", "-Z", "root", "-i", interface, "-w"]).arg(&file);
        command.args(filter.split_whitespace());
        let tcpdump = Background::start(&mut command, &folder.join(format!("{name}.log")))?;
        wait::until("tcpdump to listen", Duration::from_secs(10), || {
            let log = tcpdump.log();
            if log.contains("listening on") { Ok(()) } else { Err(log) }
        })?;
        Ok(Capture { tcpdump, file })
    }

    /// Stops recording.
    pub fn finish(self) -> Result<Recording> {
        // What is on its way through the kernel's socket buffer still belongs to the recording.
        std::thread::sleep(Duration::from_millis(200));
        self.tcpdump.signal("INT")?;
        let mut tcpdump = self.tcpdump;
        tcpdump.wait(Duration::from_secs(10))?;
        Ok(Recording { file: self.file })
    }
}

impl Recording {
    /// The named fields of each packet that matches the display filter, one row per packet. VXLAN is decoded on
    /// flannel's port, and IPv4, UDP, TCP and SCTP checksums are verified. A field that occurs twice (outer and inner) has
    /// both values, outer first, separated by a comma.
    pub fn rows(&self, display_filter: &str, fields: &[&str]) -> Result<Vec<Vec<String>>> {
        let mut command = self.tshark();
        command.args(["-Y", display_filter, "-T", "fields", "-E", "separator=/t"]);
        for field in fields {
            command.args(["-e", field]);
        }
        let table = run(&mut command)?;
        Ok(table.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }

    /// How many packets match the display filter.
    pub fn count(&self, display_filter: &str) -> Result<usize> {
        Ok(self.rows(display_filter, &["frame.number"])?.len())
    }

    /// Checks that packets match `display_filter`, and that tshark finds none of them malformed, with a wrong checksum
    /// or otherwise in error (warnings are left out: they tell of TCP, not of form).
    ///
    /// # Errors
    /// [`LabError::Unreadable`] with the packets at fault.
    pub fn must_be_well_formed(&self, display_filter: &str) -> Result<usize> {
        // One look at all of them, for tshark takes a second to start; a closer one only if there are faults.
        let packets = self.rows(display_filter, &JUDGED)?;
        let number = packets.len();
        if number > 0 && !packets.iter().any(|packet| is_faulty(packet)) {
            return Ok(number);
        }
        let faulty = JUDGED.map(|field| match field {
            MALFORMED => field.to_owned(),
            SEVERITY => format!("{field} >= {ERROR}"),
            checksum => format!("{checksum} == {BAD}"),
        });
        let what = ["frame.number", "_ws.col.Protocol", "_ws.col.Info", "_ws.expert.message"];
        let mut faults = self.rows(&format!("({display_filter}) && ({})", faulty.join(" || ")), &what)?;
        faults.retain(|fault| !fault.iter().any(|text| text.contains(ALL_ONES)));
        if number > 0 && faults.is_empty() {
            return Ok(number);
        }
        let shown = faults.iter().take(20).map(|row| row.join("  ")).collect::<Vec<_>>().join("\n");
        Err(LabError::Unreadable {
            command: format!("tshark -r {}", self.file.display()),
            reason: format!("{} of {number} packets that match {display_filter} are faulty", faults.len()),
            output: shown,
        })
    }

    fn tshark(&self) -> Command {
        let mut command = Command::new("tshark");
        command.args(["-n", "-r"]).arg(&self.file).args(["-d", &format!("udp.port=={VXLAN_PORT},vxlan")]);
        for protocol in ["ip.check_checksum", "udp.check_checksum", "tcp.check_checksum"] {
            command.args(["-o", &format!("{protocol}:TRUE")]);
        }
        command.args(["-o", "sctp.checksum:CRC 32c"]);
        // What pods send is a pattern, on ports where tshark expects other things.
        for protocol in ["http", "mdns", "dns"] {
            command.args(["--disable-protocol", protocol]);
        }
        command
    }
}

/// True if one of the [judged](JUDGED) fields tells of a fault. Those that occur several times have values with commas between.
fn is_faulty(packet: &[String]) -> bool {
    JUDGED.iter().zip(packet).any(|(field, values)| {
        values.split(',').filter(|value| !value.is_empty()).any(|value| match *field {
            MALFORMED => true,
            SEVERITY => value.parse().is_ok_and(|severity: u32| severity >= ERROR),
            _ => value == BAD,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::is_faulty;

    #[test]
    fn each_kind_of_fault_is_seen() {
        let packet = |fields: [&str; 8]| fields.map(str::to_owned);
        assert!(!is_faulty(&packet(["", "4194304", "1,1", "3,2", "", "", "", ""])));
        for (at, value) in
            [(0, "1"), (1, "4194304,8388608"), (2, "1,0"), (3, "0"), (4, "0"), (5, "0"), (6, "0,1"), (7, "0")]
        {
            let mut fields = ["", "", "1", "", "", "", "", ""];
            fields[at] = value;
            assert!(is_faulty(&packet(fields)), "{fields:?}");
        }
    }
}
