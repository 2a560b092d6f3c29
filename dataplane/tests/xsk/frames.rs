//! Frames in and out.

use std::time::Duration;

use shunt_dataplane::{
    io::{PacketIo, RX_HEADROOM},
    spec::PortRole,
    xsk::{Classifier, Interface, RING_SIZE, UplinkFilter, XdpMode},
};

use crate::{
    net::{Wire, experimental, new_namespace, veth},
    rig::{PATIENCE, Worker},
};

#[test]
fn receives_every_length_as_it_was_sent() {
    new_namespace();
    veth("port", "peer", 1);
    let mut worker = Worker::new(1024);
    let mut port = worker.port("port");
    assert_eq!(port.classifier.mode(), XdpMode::Native);
    assert!(!port.device.zero_copy(), "veth copies");
    let wire = Wire::on("peer");
    for len in 60..=1514 {
        let packet = experimental(len, len as u32);
        wire.send(&packet);
        let frames = worker.receive(&mut port.device, 1);
        assert_eq!(frames.len(), 1, "{len} bytes did not arrive");
        assert!(frames[0].bytes() == packet, "{len} bytes arrived changed");
        assert_eq!(frames[0].headroom(), RX_HEADROOM);
        worker.assert_conserved(1, &[&port.device]);
        worker.give(frames);
    }
    assert_eq!(port.device.missed(), 0);
    worker.close(port.device);
    worker.assert_all_free();
}

#[test]
fn sends_every_length_from_every_start() {
    new_namespace();
    veth("port", "peer", 1);
    let mut worker = Worker::new(512);
    let mut port = worker.port("port");
    let wire = Wire::on("peer");
    // As received, VXLAN put in front, VXLAN taken off, and starts that no descriptor was minted for.
    for start in [320, 270, 370, 0, 333, 500] {
        for len in 60..=1514 {
            let packet = experimental(len, (start * 2048 + len) as u32);
            let mut frames = vec![worker.frame(&packet, start)];
            port.device.tx_burst(&mut frames);
            assert!(frames.is_empty());
            port.device.kick();
            let arrived = wire.recv(PATIENCE);
            assert!(arrived.as_deref() == Some(&packet[..]), "{len} bytes from {start} arrived changed or not at all");
            port.device.reclaim(&mut worker.pool);
        }
        worker.assert_conserved(0, &[&port.device]);
    }
    assert_eq!(port.device.occupancy().transmit, 0, "veth sends before the call returns");
    worker.close(port.device);
    worker.assert_all_free();
}

#[test]
fn a_frame_goes_from_one_port_to_another_with_its_start_moved() {
    new_namespace();
    veth("in", "in-peer", 1);
    veth("out", "out-peer", 1);
    let mut worker = Worker::new(1024);
    let (mut inward, mut outward) = (worker.port("in"), worker.port("out"));
    let (source, sink) = (Wire::on("in-peer"), Wire::on("out-peer"));
    for (strip, prepend) in [(0, 0), (0, 50), (50, 0), (50, 50), (4, 0), (0, 20)] {
        let packet = experimental(900, 50);
        source.send(&packet);
        let mut frames = worker.receive(&mut inward.device, 1);
        assert!(frames[0].reframe(strip, prepend));
        let head: Vec<u8> = (0..prepend as u8).map(|b| b ^ 0xa5).collect();
        frames[0].bytes_mut()[..prepend].copy_from_slice(&head);
        outward.device.tx_burst(&mut frames);
        outward.device.kick();
        let arrived = sink.recv(PATIENCE).expect("forwarded");
        assert_eq!(arrived[..prepend], head);
        assert!(arrived[prepend..] == packet[strip..]);
        outward.device.reclaim(&mut worker.pool);
        worker.assert_conserved(0, &[&inward.device, &outward.device]);
    }
}

#[test]
fn what_finds_no_room_in_the_ring_stays_in_order_and_goes_later() {
    new_namespace();
    veth("port", "peer", 1);
    let mut worker = Worker::new(4096);
    let mut port = worker.port("port");
    let wire = Wire::on("peer");
    let count = RING_SIZE + 500;
    let mut frames: Vec<_> = (0..count).map(|i| worker.frame(&experimental(64, i), RX_HEADROOM)).collect();
    port.device.tx_burst(&mut frames);
    assert_eq!(frames.len(), 500);
    port.device.tx_burst(&mut frames);
    assert_eq!(frames.len(), 500, "nothing leaves before the kick");
    port.device.kick();
    port.device.reclaim(&mut worker.pool);
    worker.assert_conserved(500, &[&port.device]);
    port.device.tx_burst(&mut frames);
    port.device.kick();
    for i in 0..count {
        let arrived = wire.recv(PATIENCE).unwrap_or_else(|| panic!("frame {i} of {count} was lost"));
        assert!(arrived == experimental(64, i), "frame {i} is not the one that was sent");
    }
    port.device.reclaim(&mut worker.pool);
    worker.assert_conserved(0, &[&port.device]);
    worker.close(port.device);
    worker.assert_all_free();
}

#[test]
fn frames_the_kernel_would_never_give_back_are_not_sent() {
    new_namespace();
    veth("port", "peer", 1);
    let mut worker = Worker::new(256);
    let mut port = worker.port("port");
    let wire = Wire::on("peer");
    let mut runt = worker.frame(&experimental(60, 1), RX_HEADROOM);
    assert!(runt.set_len(13));
    let mut overlong = worker.frame(&experimental(60, 2), 100);
    assert!(overlong.set_len(1900));
    let good = worker.frame(&experimental(60, 3), RX_HEADROOM);
    let mut frames = vec![runt, good, overlong];
    port.device.tx_burst(&mut frames);
    port.device.kick();
    assert_eq!(frames.iter().map(|f| f.len()).collect::<Vec<_>>(), [13, 1900]);
    assert!(wire.recv(PATIENCE) == Some(experimental(60, 3)));
    assert_eq!(wire.recv(Duration::from_millis(50)), None);
    worker.give(frames);
    port.device.reclaim(&mut worker.pool);
    worker.close(port.device);
    worker.assert_all_free();
}

#[test]
fn frames_that_find_no_buffer_are_counted_as_missed() {
    new_namespace();
    veth("port", "peer", 1);
    let mut worker = Worker::new(1024);
    let mut port = worker.port("port");
    let wire = Wire::on("peer");
    let buffers = port.device.receive_share() as usize;
    let sent = buffers + 100;
    for i in 0..sent {
        wire.send(&experimental(60, i as u32));
        // The veth queues 256 frames and drops beyond, before the socket could count them.
        if i % 64 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(port.device.missed(), 100);
    let frames = worker.receive(&mut port.device, buffers);
    assert_eq!(frames.len(), buffers);
    worker.assert_conserved(buffers, &[&port.device]);
    worker.give(frames);
    worker.close(port.device);
    worker.assert_all_free();
}

#[test]
fn each_queue_has_its_own_socket_and_may_belong_to_another_worker() {
    new_namespace();
    veth("port", "peer", 2);
    let mut workers = [Worker::new(512), Worker::new(512)];
    let facts = Interface::query("port").unwrap();
    assert_eq!(facts.queues, 2);
    let mut classifier = Classifier::attach(&facts, PortRole::Pod, XdpMode::Native, &UplinkFilter::default()).unwrap();
    let mut devices: Vec<_> = workers
        .iter_mut()
        .zip(0..)
        .map(|(worker, queue)| {
            let mut device = worker.open("port", queue).unwrap();
            device.reclaim(&mut worker.pool);
            classifier.register(queue, &device).unwrap();
            device
        })
        .collect();
    // What a socket on the peer's queue sends arrives on the port's queue of the same number.
    let mut sender = Worker::new(512);
    for queue in [1, 0, 1] {
        let mut far = Box::new(sender.open("peer", queue).unwrap());
        let packet = experimental(200, queue);
        let mut frames = vec![sender.frame(&packet, RX_HEADROOM)];
        far.tx_burst(&mut frames);
        far.kick();
        let queue = queue as usize;
        let arrived = workers[queue].receive(&mut devices[queue], 1);
        assert!(arrived.len() == 1 && arrived[0].bytes() == packet);
        workers[queue].give(arrived);
        let other = 1 - queue;
        assert_eq!(devices[other].rx_burst(&mut workers[other].pool, &mut Vec::new(), 64), 0);
        sender.close(far);
    }
    for (worker, device) in workers.iter_mut().zip(devices) {
        worker.close(Box::new(device));
        worker.assert_all_free();
    }
}

#[test]
fn a_sleeping_worker_is_woken_by_a_frame() {
    new_namespace();
    veth("port", "peer", 1);
    let mut worker = Worker::new(256);
    let mut port = worker.port("port");
    let wire = Wire::on("peer");
    let mut poll = mio::Poll::new().unwrap();
    let fd = port.device.wait_fd().expect("a socket can be waited for");
    let mut source = mio::unix::SourceFd(&fd);
    poll.registry().register(&mut source, mio::Token(7), mio::Interest::READABLE).unwrap();
    let mut events = mio::Events::with_capacity(4);
    for i in 0..3 {
        poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
        assert!(events.is_empty(), "woken without a frame");
        wire.send(&experimental(60, i));
        poll.poll(&mut events, Some(PATIENCE)).unwrap();
        assert!(events.iter().any(|e| e.token() == mio::Token(7) && e.is_readable()));
        let frames = worker.receive(&mut port.device, 1);
        assert_eq!(frames.len(), 1);
        worker.give(frames);
    }
}
