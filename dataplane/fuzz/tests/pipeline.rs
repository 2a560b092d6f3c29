//! The kept corpus, and three million mutated packets, through the pipeline.

use std::{
    collections::BTreeSet,
    fs, panic,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
};

use shunt_dataplane::verdict::{Answer, DropReason, Verdict};
use shunt_dataplane_fuzz::{
    input::{self, Step},
    mutate::Mutator,
    run, run_explained, seeds,
    world::End,
};

/// Seeds and corpus, by name.
fn scripts() -> Vec<(String, Vec<Step>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/pipeline");
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: &Path| (path.file_name().unwrap().display().to_string(), input::decode(&fs::read(path).unwrap()));
    let seeds = seeds::all().into_iter().map(|(name, steps)| (name.to_owned(), steps));
    seeds.chain(files.iter().map(|path| read(path))).collect()
}

/// The scripts of IPv4, and those with IPv6.
fn families(scripts: Vec<(String, Vec<Step>)>) -> [Vec<Vec<Step>>; 2] {
    let is_ipv6 = |step: &Step| matches!(step, Step::Packet { bytes, .. } if bytes.get(12..14) == Some(&[0x86, 0xdd]));
    let (ipv6, ipv4) =
        scripts.into_iter().map(|(_, steps)| steps).partition(|steps: &Vec<_>| steps.iter().any(is_ipv6));
    [ipv4, ipv6]
}

#[test]
fn the_corpus_runs_and_runs_the_same_again() {
    for (name, steps) in scripts() {
        let once = panic::catch_unwind(|| run(steps.clone())).unwrap_or_else(|_| panic!("in {name}"));
        assert_eq!(once, run(steps), "{name}");
    }
}

#[test]
fn the_corpus_reaches_every_fate() {
    all_fates(scripts().into_iter().flat_map(|(_, steps)| run(steps)));
}

/// Every fate that the corpus reaches is foreseen.
#[test]
fn what_is_explained_is_what_happens() {
    let explained =
        |name: &str, steps| panic::catch_unwind(|| run_explained(steps)).unwrap_or_else(|_| panic!("in {name}"));
    let scripts = scripts();
    all_fates(scripts.iter().flat_map(|(name, steps)| explained(name, steps.clone())));
    let families = families(scripts);
    let mut packets = 0;
    for seed in 0.. {
        packets += explained(&format!("seed {seed}"), Mutator::new(seed).script(&families)).len();
        if packets >= 20_000 {
            break;
        }
    }
}

/// Checks that every fate is among `ends`.
fn all_fates(ends: impl Iterator<Item = End>) {
    let reached: BTreeSet<_> = ends
        .map(|(verdict, _)| match verdict {
            Verdict::Drop(reason) => reason.name(),
            Verdict::Answer(answer, _) => answer.name(),
            Verdict::Tx(_) => "forwarded",
            Verdict::Pending | Verdict::Owed(_) | Verdict::Oversized | Verdict::Ipv6 => {
                unreachable!("the oracle refuses it")
            }
        })
        .collect();
    use DropReason::{ConntrackContended, EgressLimit, IngressLimit, NoFrame, NoHeadroom};
    // What takes two workers, a device with less headroom, fewer frames, or more bytes than a limit lets through in a time.
    let elsewhere = [ConntrackContended, NoHeadroom, NoFrame, EgressLimit, IngressLimit].map(DropReason::name);
    let fates = DropReason::ALL.map(DropReason::name).into_iter().chain(Answer::ALL.map(Answer::name));
    let missed = fates.filter(|fate| !reached.contains(fate) && !elsewhere.contains(fate));
    let missed: Vec<_> = missed.collect();
    assert!(missed.is_empty(), "no script reaches {missed:?}");
}

#[test]
fn translation_minds_every_checksum() {
    for datagrams in [seeds::every_checksum(), seeds::ipv6::every_checksum()] {
        let ends = run(datagrams);
        assert!(ends.iter().all(|(verdict, _)| matches!(verdict, Verdict::Tx(_))));
    }
}

#[test]
fn three_million_mutated_packets() {
    let families = families(scripts());
    let packets = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mutate = &|first: usize| {
        for seed in (first..).step_by(threads) {
            let script = Mutator::new(seed as u64).script(&families);
            let input = input::encode(&script);
            let ends = panic::catch_unwind(|| run(script)).unwrap_or_else(|_| panic!("seed {seed}: {input:02x?}"));
            if packets.fetch_add(ends.len(), Relaxed) + ends.len() >= 3_000_000 {
                break;
            }
        }
    };
    thread::scope(|scope| (0..threads).for_each(|first| drop(scope.spawn(move || mutate(first)))));
}
