//! `shunt-cni install` and `uninstall`.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use serde_json::Value;

fn shunt_cni(arguments: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_shunt-cni")).args(arguments).output().expect("it runs");
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_is_installed_is_whole_and_goes_again() {
    let folder = tempfile::tempdir().expect("a directory");
    let (bin, conf) = (folder.path().join("bin"), folder.path().join("net.d"));
    let places = ["--bin-dir", bin.to_str().unwrap(), "--conf-dir", conf.to_str().unwrap()];
    let run = |command: &str, more: &[&str]| shunt_cni(&[&[command], &places[..], more].concat());
    // Also over what is there.
    for network in ["one", "two"] {
        assert_eq!(run("install", &["--network", network, "--socket", "/x/y.sock"]), (true, String::new()));
        let list: Value = serde_json::from_slice(&fs::read(conf.join("10-shunt.conflist")).unwrap()).unwrap();
        assert_eq!((&list["name"], &list["plugins"][0]["type"]), (&network.into(), &"shunt-cni".into()));
        assert_eq!(list["plugins"][0]["socket"], "/x/y.sock");
    }
    // What is written unless told otherwise.
    assert_eq!(run("install", &[]), (true, String::new()));
    let written = fs::read_to_string(conf.join("10-shunt.conflist")).unwrap();
    assert_eq!(written, include_str!("../../../../configs/10-shunt.conflist"));
    let program = bin.join("shunt-cni");
    assert_eq!(fs::metadata(&program).unwrap().permissions().mode() & 0o777, 0o755);
    let said = Command::new(&program).env("CNI_COMMAND", "VERSION").output().unwrap();
    assert!(String::from_utf8_lossy(&said.stdout).contains("supportedVersions"));
    let (succeeded, said) = run("install", &["--network", "a/b"]);
    assert!(!succeeded && said.contains("--network"), "{said}");
    for _ in 0..2 {
        assert_eq!(run("uninstall", &[]), (true, String::new()));
        assert_eq!(fs::read_dir(&bin).unwrap().count() + fs::read_dir(&conf).unwrap().count(), 0);
    }
}
