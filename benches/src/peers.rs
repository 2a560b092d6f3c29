//! Other people's switches: unpacked from Debian packages into a directory, so that installing them starts no daemon.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use nix::mount::{MsFlags, mount};
use shunt_control_lab::{binaries, tidy::Tidy};

use crate::{
    Error,
    scratch::{Scratch, mortal},
};

/// Huge pages of 2 MiB that DPDK takes its memory from, if the machine gives them.
const HUGE_PAGES: u64 = 64;
/// As much in ordinary pages, in MiB.
const ORDINARY_MIB: u64 = 128;
const HUGE_PAGES_SETTING: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// DPDK's drivers that are used here.
const DRIVERS: [&str; 3] = ["librte_bus_vdev", "librte_mempool_ring", "librte_net_af_xdp"];

/// The packages, unpacked or installed, and the memory that they use.
pub struct Peers {
    /// Where they are unpacked; programs that are not there are the system's.
    root: PathBuf,
    /// Unpacked libraries, if DPDK's are among them.
    libraries: Option<PathBuf>,
    /// Huge pages, reserved while this lives; none if the machine's memory is too fragmented to give any.
    huge_pages: Option<Tidy>,
}

impl Peers {
    /// The packages as `./dev bench` unpacks them in the folder `peers` beside the running program's.
    ///
    /// # Errors
    /// If they are neither there nor installed.
    pub fn find() -> Result<Peers, Error> {
        let root = binaries::peers();
        let libraries = subfolders(&root.join("usr/lib")).find(|folder| folder.join("dpdk").is_dir());
        let libraries = libraries.filter(|_| root != Path::new("/"));
        let peers = Peers { root, libraries, huge_pages: reserve_huge_pages()? };
        for program in ["dpdk-testpmd", "ovs-vswitchd-dpdk", "ovsdb-server"] {
            peers.program(program)?;
        }
        Ok(peers)
    }

    /// Where one of the programs is.
    pub fn program(&self, name: &str) -> Result<PathBuf, Error> {
        Ok(binaries::peer(name)?)
    }

    /// One of the programs, ready for arguments, with its files in `scratch`.
    pub fn command(&self, program: &str, scratch: &Scratch) -> Result<Command, Error> {
        Ok(self.dress(mortal(self.program(program)?), scratch))
    }

    /// `command`, which starts one of the programs, with what they need to find their own.
    pub fn dress(&self, mut command: Command, scratch: &Scratch) -> Command {
        if let Some(libraries) = &self.libraries {
            command.env("LD_LIBRARY_PATH", libraries).env("LIBXDP_OBJECT_PATH", libraries.join("bpf"));
        }
        for folder in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR", "RUNTIME_DIRECTORY"] {
            command.env(folder, scratch.path());
        }
        command.env("OVS_PKGDATADIR", self.ovs_schema().parent().expect("a schema is in a folder"));
        command
    }

    /// In the calling thread's mount namespace, hides drivers of an installed DPDK from the unpacked one, which would load
    /// both.
    pub fn hide_installed_drivers(&self) -> Result<(), Error> {
        let Some(libraries) = &self.libraries else { return Ok(()) };
        let installed = Path::new("/usr/lib").join(libraries.file_name().ok_or("a folder has a name")?).join("dpdk");
        if installed.is_dir() {
            mount(Some("tmpfs"), &installed, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        }
        Ok(())
    }

    /// Options of DPDK's environment layer that every program needs here.
    pub fn dpdk_options(&self) -> Vec<String> {
        let mut options = vec!["--no-pci".to_owned()];
        match &self.huge_pages {
            Some(_) => options.push("--in-memory".to_owned()),
            None => options.extend(["--no-huge".into(), "--no-shconf".into(), "-m".into(), ORDINARY_MIB.to_string()]),
        }
        // An installed DPDK knows where its drivers are.
        let Some(libraries) = &self.libraries else { return options };
        for driver in DRIVERS {
            // By name, as a linker finds it: DPDK takes no path below a folder that everybody can write to.
            let library = files(libraries).find(|name| name.starts_with(&format!("{driver}.so.")));
            options.extend(library.map(|name| ["-d".to_owned(), name]).into_iter().flatten());
        }
        options
    }

    /// Open vSwitch's database schema.
    pub fn ovs_schema(&self) -> PathBuf {
        let roots = [self.root.as_path(), Path::new("/")];
        let mut paths = roots.iter().map(|root| root.join("usr/share/openvswitch/vswitch.ovsschema"));
        paths.find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from("/usr/share/openvswitch/vswitch.ovsschema"))
    }

    /// Versions for the report.
    pub fn versions(&self) -> Result<Vec<(String, String)>, Error> {
        let scratch = Scratch::create("versions")?;
        let versions = [("Open vSwitch", "ovs-vsctl", "--version"), ("DPDK", "ovs-vswitchd-dpdk", "--version")];
        let said = |(name, program, word): (&str, &str, &str)| -> Result<_, Error> {
            let output = self.command(program, &scratch)?.arg(word).output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let line = text.lines().find(|line| line.contains(name)).unwrap_or("says nothing");
            Ok((name.to_owned(), line.to_owned()))
        };
        let memory =
            if self.huge_pages.is_some() { "huge pages" } else { "ordinary pages: the machine gives no huge ones" };
        let memory = ("DPDK's memory".to_owned(), memory.to_owned());
        versions.into_iter().map(said).chain([Ok(memory)]).collect()
    }

    /// Why a program ended, in its own words.
    pub fn last_words(program: &str, status: ExitStatus, log: &str) -> String {
        let reason = |line: &&str| {
            let line = line.to_lowercase();
            ["error", "fail", "cannot", "invalid"].iter().any(|word| line.contains(word))
        };
        let lines: Vec<_> = log.lines().filter(reason).take(3).collect();
        format!("{program} ended ({status}): {}", lines.join("; "))
    }
}

fn subfolders(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_dir())
}

fn files(folder: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Reserves huge pages until the result is dropped; none if there are not enough.
fn reserve_huge_pages() -> Result<Option<Tidy>, Error> {
    let read = || -> Result<u64, Error> { Ok(fs::read_to_string(HUGE_PAGES_SETTING)?.trim().parse()?) };
    let before = read()?;
    let tidy = Tidy::setting(Path::new(HUGE_PAGES_SETTING), &before.to_string());
    fs::write(HUGE_PAGES_SETTING, before.max(HUGE_PAGES).to_string())?;
    Ok((read()? >= HUGE_PAGES).then_some(tidy))
}
