//! Both sides of this module against each other, over a wire in memory that may lose frames. Against other people's stacks:
//! `tests/connections.rs`.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use shunt_dataplane::net::MacAddr;

use super::*;
use crate::{engine::Station, progress::Progress, report::model::Connections};

type Frames = Arc<Mutex<VecDeque<Vec<u8>>>>;

/// One end of a wire that loses every so many frames sent from here; 0: none.
struct End {
    out: Frames,
    back: Frames,
    lose_every: u64,
    sent: u64,
}

impl Station for End {
    fn push(&mut self, len: usize, write: &mut dyn FnMut(&mut [u8])) -> bool {
        let mut frame = vec![0; len];
        write(&mut frame);
        self.sent += 1;
        if self.lose_every == 0 || !self.sent.is_multiple_of(self.lose_every) {
            self.out.lock().unwrap().push_back(frame);
        }
        true
    }

    fn flush(&mut self) {}

    fn receive(&mut self, take: &mut dyn FnMut(&[u8])) -> usize {
        let frames = std::mem::take(&mut *self.back.lock().unwrap());
        frames.iter().for_each(|frame| take(frame));
        frames.len()
    }

    fn missed(&self) -> u64 {
        0
    }
}

fn profile(section: &str) -> Profile {
    let text = format!(
        "name = \"test\"\nduration = \"400ms\"\n[connections]\nfrom = \"10.0.0.10-10.0.0.12\"\nto = \"10.0.0.1\"\nto_port = 80\n{section}"
    );
    Profile::parse(&text).unwrap()
}

/// Runs a client and a server, each losing one of so many frames it sends.
fn run(profile: &Profile, lose_every: u64) -> (Connections, Connections) {
    let (there, back) = (Frames::default(), Frames::default());
    let end = |out: &Frames, back: &Frames| {
        let (out, back) = (out.clone(), back.clone());
        Link::new(Box::new(End { out, back, lose_every, sent: 0 }), 1500)
    };
    let (client, server) = (end(&there, &back), end(&back, &there));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let serving =
            scope.spawn(|| serve(profile, server, MacAddr([2, 0, 0, 0, 0, 2]), None, &stop, &mut Progress::nothing()));
        let going = AtomicBool::new(false);
        let made = connect(profile, client, MacAddr([2, 0, 0, 0, 0, 1]), &going, &mut Progress::nothing()).unwrap();
        // The last acknowledgement is on its way.
        thread::sleep(Duration::from_millis(50));
        stop.store(true, Ordering::Relaxed);
        let served = serving.join().unwrap();
        (made.trial.connections.unwrap(), served.trial.connections.unwrap())
    })
}

#[test]
fn what_one_side_makes_the_other_serves() {
    let profile = profile("rate = 500\nconcurrent = 100\nrequest = \"ask\"\nanswer = 3000");
    let (made, served) = run(&profile, 0);
    assert!(made.opened > 100, "{made:?}");
    for count in [made.established, made.answered, made.closed, served.opened, served.answered, served.closed] {
        assert_eq!(count, made.opened, "{made:?}\n{served:?}");
    }
    assert_eq!((made.reset, made.timed_out, made.handshake.unwrap().count), (0, 0, made.opened));
    assert_eq!(made.request.unwrap().count, made.opened);
}

#[test]
fn losses_are_made_up_for() {
    let profile = profile("rate = 200\nconcurrent = 100\nrequest = \"ask\"\nanswer = 20000\ntimeout = \"20s\"");
    let (made, served) = run(&profile, 13);
    assert!(made.opened > 40, "{made:?}");
    assert_eq!((made.answered, made.closed), (made.opened, made.opened), "{made:?}");
    assert_eq!(served.answered, made.answered, "{served:?}");
}

#[test]
fn no_more_are_open_than_may_be() {
    let profile = profile("concurrent = 7\nrequest = \"ask\"\nanswer = 10\nhold = \"20ms\"");
    let (made, _) = run(&profile, 0);
    assert_eq!(made.peak, 7);
    // Seven at a time, each for 20 ms and a little.
    let most = 7 * 400 / 20 + 7;
    assert!(made.opened > most / 4 && made.opened <= most, "{made:?}");
    assert_eq!(made.closed, made.opened);
}

#[test]
fn http_is_understood() {
    let profile = profile(
        "rate = 100\nconcurrent = 50\nrequest = \"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n\"\nanswer = \"http\"\nbody = 40000",
    );
    let (made, served) = run(&profile, 0);
    assert!(made.answered > 20 && made.answered == made.opened, "{made:?}");
    assert_eq!(served.answered, made.answered);
}

#[test]
fn a_peer_that_never_answers_is_given_up() {
    let profile = profile("rate = 100\nconcurrent = 500\nrequest = \"ask\"\nanswer = 10\ntimeout = \"200ms\"");
    let (there, back) = (Frames::default(), Frames::default());
    let link = Link::new(Box::new(End { out: there.clone(), back: back.clone(), lose_every: 0, sent: 0 }), 1500);
    // Answers ARP, and nothing else.
    let stop = AtomicBool::new(false);
    let made = thread::scope(|scope| {
        scope.spawn(|| {
            let mut link = Link::new(Box::new(End { out: back, back: there, lose_every: 0, sent: 0 }), 1500);
            let mut neighbours = arp::Neighbours::new(MacAddr([2, 0, 0, 0, 0, 2]));
            let mut inbox = link::Inbox::default();
            while !stop.load(Ordering::Relaxed) {
                link.receive(&mut inbox);
                for frame in inbox.frames() {
                    neighbours.take(&mut link, frame, |_| true);
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        let going = AtomicBool::new(false);
        let made = connect(&profile, link, MacAddr([2, 0, 0, 0, 0, 1]), &going, &mut Progress::nothing()).unwrap();
        stop.store(true, Ordering::Relaxed);
        made.trial.connections.unwrap()
    });
    assert!(made.opened > 20 && made.timed_out == made.opened, "{made:?}");
    assert_eq!((made.established, made.handshake), (0, None));
}

#[test]
fn nobody_there_is_said_by_address() {
    let profile = profile("concurrent = 5\nrequest = \"ask\"\nanswer = 10\ngateway = \"10.0.0.99\"");
    let link =
        Link::new(Box::new(End { out: Frames::default(), back: Frames::default(), lose_every: 0, sent: 0 }), 1500);
    let going = AtomicBool::new(false);
    let error = connect(&profile, link, MacAddr([2, 0, 0, 0, 0, 1]), &going, &mut Progress::nothing()).err().unwrap();
    assert!(error.to_string().starts_with("10.0.0.99 does not answer ARP"), "{error}");
}
