//! What is replayed keeps its pace.

use tempfile::TempDir;

use crate::{
    net::{new_namespace_alone, run, veth},
    replay::{captured, read, real_capture, replay, same},
};

#[test]
fn what_is_replayed_arrives_byte_for_byte_at_its_pace() {
    let folder = TempDir::new().expect("a directory");
    new_namespace_alone();
    let original = real_capture(folder.path());
    let real = read(&original);
    assert!(real.count() >= 20, "{real:?}");
    veth("src", "in");
    let arrived = folder.path().join("arrived.pcap");
    captured("in", &arrived, || replay(&original, ""));
    let found = read(&arrived);
    same(&found, &real, 1);
    let (took, wanted) = (found.length_ns() as f64, real.length_ns() as f64);
    assert!((took / wanted - 1.0).abs() < 0.05, "captured within {wanted} ns, replayed within {took} ns");
    // The same from the other format, four times as fast, twice.
    let pcapng = folder.path().join("real.pcapng");
    run(&format!("editcap -F pcapng {} {}", original.display(), pcapng.display()));
    let again = folder.path().join("again.pcap");
    captured("in", &again, || replay(&pcapng, "--pace 4x --rounds 2"));
    let found = read(&again);
    same(&found, &real, 2);
    let (took, wanted) = (found.length_ns() as f64, wanted / 2.0);
    assert!((took / wanted - 1.0).abs() < 0.2, "wanted within {wanted} ns, replayed within {took} ns");
}
