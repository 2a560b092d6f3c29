//! Methods of several trials.

use crate::{
    net::{new_namespace_alone, veth},
    tool::report,
};

#[test]
fn methods_come_to_their_findings_over_a_cable() {
    new_namespace_alone();
    veth("src", "in");
    let around = "--tx src --rx in --duration 500ms --warm-up 0s --settle 300ms";
    let search = report("search", "flood", &format!("{around} --rate 2kpps --loss 0 --trial 500ms --confirm 500ms"));
    assert_eq!(search.findings.len(), 1);
    assert_eq!((search.findings[0].name.as_str(), search.findings[0].value), ("NDR", Some(2000.0)), "{search:?}");
    let sweep = report("loss-sweep", "flood", &format!("{around} --rate 2kpps --all --step 50"));
    assert!(sweep.trials.len() >= 2 && sweep.trials.iter().all(|trial| trial.total.sent > 0));
    let latency = report("latency", "flood", &format!("{around} --rate 2kpps --at 50,100"));
    assert_eq!(latency.findings.len(), 4);
    assert!(latency.findings.iter().all(|finding| finding.value.is_some_and(|ns| ns > 0.0)));
    let bursts = report("back-to-back", "flood", &format!("{around} --most 64 --repeat 2"));
    assert_eq!((bursts.findings[0].unit.as_str(), bursts.findings[0].value), ("packets", Some(64.0)), "{bursts:?}");
}
