use super::*;

fn route(n: u16) -> Resource {
    let prefix = format!("10.{}.{}.0/24", n / 256, n % 256);
    Resource::Route(v1::Route { prefix, via: "192.168.50.7".into() }.try_into().unwrap())
}

/// The next version, with a route more.
fn add(state: &State, n: u16) -> (State, Change) {
    let mut state = state.clone();
    state.version += 1;
    let resource = Arc::new(route(n));
    state.resources.insert(resource.key(), resource.clone());
    let change = Change { version: state.version, upserts: vec![resource], deletes: vec![] };
    (state, change)
}

/// The next version, without a route.
fn remove(state: &State, n: u16) -> (State, Change) {
    let mut state = state.clone();
    state.version += 1;
    let key = route(n).key();
    state.resources.remove(&key).unwrap();
    let change = Change { version: state.version, upserts: vec![], deletes: vec![key] };
    (state, change)
}

fn reopen(dir: &Path) -> Result<State, String> {
    Journal::open(dir).map(|(_, state)| state).map_err(|e| e.to_string())
}

/// A journal of three changes, the states after each, and where each ends in the file.
fn three(dir: &Path) -> (Journal, Vec<State>, Vec<u64>) {
    let (mut journal, state) = Journal::open(dir).unwrap();
    assert_eq!(state, State::default());
    let (mut states, mut ends) = (vec![], vec![]);
    for n in 1..=3 {
        let (state, change) = add(states.last().unwrap_or(&state), n);
        journal.commit(&state, &change).unwrap();
        states.push(state);
        ends.push(journal.length);
    }
    (journal, states, ends)
}

#[test]
fn a_state_survives_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, states, _) = three(dir.path());
    let (state, change) = remove(&states[2], 2);
    journal.commit(&state, &change).unwrap();
    drop(journal);
    assert_eq!(reopen(dir.path()).unwrap(), state);

    // And goes on from there.
    let (mut journal, state) = Journal::open(dir.path()).unwrap();
    let (state, change) = add(&state, 9);
    journal.commit(&state, &change).unwrap();
    assert_eq!(reopen(dir.path()).unwrap(), state);
}

#[test]
fn a_whole_state_of_any_size_is_read_as_it_was_written() {
    for count in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK] {
        let dir = tempfile::tempdir().unwrap();
        let resources = (0..count as u16).map(route).map(|r| (r.key(), Arc::new(r))).collect();
        let state = State { version: 7, resources };
        let (file, length) = write_whole(dir.path(), &state).unwrap();
        assert_eq!(file.metadata().unwrap().len(), length);
        rename_synced(&dir.path().join(NEW_FILE), &dir.path().join(FILE), dir.path()).unwrap();
        assert_eq!(reopen(dir.path()).unwrap(), state, "{count}");
    }
}

#[test]
fn a_change_costs_what_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let (_, _, ends) = three(dir.path());
    assert_eq!(ends[2] - ends[1], ends[1] - ends[0]);
}

#[test]
fn a_crash_while_writing_leaves_the_former_state() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, states, ends) = three(dir.path());
    drop(journal);
    let whole = fs::read(dir.path().join(FILE)).unwrap();
    for length in ends[1] + 1..ends[2] {
        fs::write(dir.path().join(FILE), &whole[..length as usize]).unwrap();
        assert_eq!(reopen(dir.path()).unwrap(), states[1]);
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().len(), ends[1], "what is dropped is gone for good");
    }
    // As if it had stopped while it wrote the file anew.
    fs::write(dir.path().join(NEW_FILE), &whole[..9]).unwrap();
    assert_eq!(reopen(dir.path()).unwrap(), states[1]);
}

#[test]
fn a_damaged_file_is_refused_by_name_wherever_it_was_hit() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _, ends) = three(dir.path());
    drop(journal);
    let file = dir.path().join(FILE);
    let whole = fs::read(&file).unwrap();
    let refused = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        let message = reopen(dir.path()).expect_err("damaged");
        assert!(message.contains(file.to_str().unwrap()), "{message}");
        message
    };
    for length in 0..ends[0] {
        assert!(refused(&whole[..length as usize]).contains("damaged"), "the whole state is cut short");
    }
    for position in (0..whole.len()).filter(|&at| at != 7) {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x10;
        assert!(refused(&bytes).contains("damaged"), "{position}");
    }
    let [first, second] = [ends[0] as usize, ends[1] as usize];
    let without_one = [&whole[..first], &whole[second..]].concat();
    assert!(refused(&without_one).contains("version 3 follows version 1"));
}

#[test]
fn a_file_of_another_format_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), b"SHUNTDS\x01 and so on").unwrap();
    let message = reopen(dir.path()).unwrap_err();
    assert!(message.contains("has format 1") && message.contains("apply the cluster again"), "{message}");
}

#[test]
fn what_cannot_be_appended_leaves_the_former_state() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, states, ends) = three(dir.path());
    // A file that takes no more: every write to it fails.
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let good = journal.file.replace(full);
    let (state, change) = add(&states[2], 4);
    assert!(journal.commit(&state, &change).unwrap_err().to_string().contains("desired-state"));
    assert_eq!((journal.length, reopen(dir.path()).unwrap()), (ends[2], states[2].clone()));
    drop(good);
    // It could not be truncated either, so it is written anew.
    assert!(journal.file.is_none());
    journal.commit(&state, &change).unwrap();
    assert_eq!(reopen(dir.path()).unwrap(), state);
}

#[test]
fn what_counts_is_known_through_changes_of_all_kinds() {
    // A thousand resources of 100 bytes, each of which changes three times.
    let mut live = Live::default();
    live.follow(100_000, 1000, 0, 1000);
    (0..3000).for_each(|_| live.follow(100, 1, 0, 1000));
    assert_eq!(live, Live { bytes: 100_000, resources: 1000 });
    // Some that come and go, time and again.
    for _ in 0..10_000 {
        live.follow(300, 1, 0, 1001);
        live.follow(40, 0, 1, 1000);
    }
    assert!((100_000..310_000).contains(&live.bytes), "{} bytes", live.bytes);
    // One takes the place of another.
    live.follow(340, 1, 1, 1000);
    assert_eq!(live.resources, 1000);
    live.follow(40_000, 0, 1000, 0);
    assert_eq!(live, Live::default());
}

#[test]
fn a_state_that_is_all_new_is_not_written_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, states, _) = three(dir.path());
    let slice = |n: u32| v1::EndpointSlice {
        namespace: "default".into(),
        service: format!("service-{n}"),
        name: "all".into(),
        ports: vec![v1::EndpointPort { name: String::new(), port: 8080 }],
        endpoints: (0..250).map(|i| v1::Endpoint { address: format!("10.244.2.{i}"), ..Default::default() }).collect(),
    };
    let mut state = states[2].clone();
    state.version += 1;
    let upserts: Vec<_> = (0..2000).map(|n| Arc::new(Resource::EndpointSlice(slice(n).try_into().unwrap()))).collect();
    state.resources.extend(upserts.iter().map(|resource| (resource.key(), resource.clone())));
    journal.commit(&state, &Change { version: state.version, upserts, deletes: vec![] }).unwrap();
    assert!(journal.length > LEAST_TO_REWRITE + LEAST_TO_REWRITE / 2 && journal.rewrite.is_none());
    let live = journal.live;
    drop(journal);
    let (journal, kept) = Journal::open(dir.path()).unwrap();
    assert!(kept == state && journal.live.bytes.abs_diff(live.bytes) < 1000, "{:?} {live:?}", journal.live);
}

#[test]
fn it_is_written_anew_once_the_changes_are_longer_than_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, states, ends) = three(dir.path());
    // As if it had grown by that much already.
    let grown = LEAST_TO_REWRITE + 1;
    journal.length += grown;
    let (state, change) = add(&states[2], 4);
    // Hides the growth again: it is only in our books.
    journal.commit(&state, &change).unwrap();
    assert!(journal.rewrite.is_some());
    let (state, change) = add(&state, 5);
    journal.commit(&state, &change).unwrap();
    while journal.rewrite.as_ref().is_some_and(|rewrite| !rewrite.thread.is_finished()) {
        thread::yield_now();
    }
    let (state, change) = add(&state, 6);
    journal.commit(&state, &change).unwrap();
    assert!(journal.rewrite.is_none());
    assert!(journal.length < ends[2] * 3, "{} bytes", journal.length);
    assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().len(), journal.length);
    drop(journal);
    assert_eq!(reopen(dir.path()).unwrap(), state);
    assert!(!dir.path().join(NEW_FILE).exists());
}
