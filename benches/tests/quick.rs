//! The report's own test: a quick run measures every part with every contender, and what it lacks it says.

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use shunt_benches::{
    generators::LIVE,
    rows::{Part, Row},
    veth::CONTENDERS,
};
use tempfile::tempdir;

/// What a quick run may take.
const LIMIT: Duration = Duration::from_secs(180);

/// Where the kernel tells how many huge pages there are: DPDK reserves some.
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

/// Has the machine to itself: `./dev test` knows it by this module's name.
mod measuring {
    use super::*;

    #[test]
    fn a_quick_run_measures_every_part_and_leaves_nothing_behind() {
        let folder = tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        let pages = fs::read_to_string(HUGE_PAGES).unwrap();
        let start = Instant::now();
        let (output, pid) = bench(Command::new(env!("CARGO_BIN_EXE_bench")).arg("--quick"), folder.path());
        let taken = start.elapsed();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(taken < LIMIT, "a quick run took {taken:?}\n{said}");
        assert_eq!(left_behind(pid), [""; 0]);
        assert_eq!(fs::read_to_string(HUGE_PAGES).unwrap(), pages);

        let text = fs::read_to_string(file("rows.json")).unwrap();
        let rows: Vec<Row> = serde_json::from_str(&text).unwrap();
        for part in Part::ALL {
            assert!(rows.iter().any(|row| row.part == part && row.value.is_some()), "{} has no figure", part.name());
        }
        for contender in CONTENDERS {
            let of = |row: &&Row| row.part == Part::Veth && row.contender == contender.name;
            let none: Vec<_> = rows.iter().filter(of).filter_map(|row| row.reason.as_ref()).collect();
            assert!(none.is_empty(), "{} could not be measured: {none:?}", contender.name);
            let rate = |metric| rows.iter().filter(of).find(|row| row.metric == metric).and_then(|row| row.value);
            assert!(rate("forwarded when flooded") > Some(0.0), "{} forwards", contender.name);
            assert!(rate("no loss").is_some(), "{} has a rate", contender.name);
        }
        let rate = |generator: &str| {
            let of = |row: &&Row| row.part == Part::Generators && row.contender == generator && row.metric == "sent";
            rows.iter().find(of).and_then(|row| row.value).unwrap_or_else(|| panic!("{generator} has no rate"))
        };
        let fastest_other = rate("trafgen").max(rate("testpmd txonly, AF_XDP"));
        assert!(rate(LIVE) >= fastest_other, "{} against {fastest_other} packets per second", rate(LIVE));
        assert!(rate("pktgen, AF_XDP") > 0.0);
        let refused: BTreeSet<_> =
            rows.iter().filter(|row| row.value.is_none()).map(|row| &row.contender[..]).collect();
        assert_eq!(refused, BTreeSet::from(["Shunt", "VPP"]), "Shunt's policies, and VPP");

        let tables = fs::read_to_string(file("report.md")).unwrap();
        let page = fs::read_to_string(file("report.html")).unwrap();
        for row in &rows {
            assert!(tables.contains(&row.metric) && tables.contains(&row.contender), "{row:?} is in the tables");
            assert!(page.contains(&row.contender), "{row:?} is on the page");
        }
        assert!(!page.contains("http://") && !page.contains("https://"), "the page loads nothing");
    }
}

#[test]
fn without_root_it_says_what_is_missing() {
    let folder = tempdir().unwrap();
    // The program itself may lie where only root can look.
    let program = folder.path().join("bench");
    fs::copy(env!("CARGO_BIN_EXE_bench"), &program).unwrap();
    assert!(Command::new("chmod").args(["-R", "a+rx"]).arg(folder.path()).status().unwrap().success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program).arg("--quick");
    let (output, _) = bench(&mut command, folder.path());
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("run as root"), "{said}");
}

fn bench(command: &mut Command, folder: &Path) -> (Output, u32) {
    for (option, name) in [("--json", "rows.json"), ("--markdown", "report.md"), ("--html", "report.html")] {
        command.arg(option).arg(folder.join(name));
    }
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    (child.wait_with_output().unwrap(), pid)
}

/// Namespaces and directories that a run has made, by the names that it gives them.
fn left_behind(pid: u32) -> Vec<String> {
    let folders = [Path::new("/run/netns").to_owned(), env::temp_dir()];
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&format!("shuntlab-{pid}-"))).collect()
}
