use super::*;

const STREAM: &str = r#"
name = "s"
protocol = "udp"
from = "10.0.0.1-10.0.0.100"
to = "10.1.0.1"
from_port = 1024
to_port = 9
"#;

fn profile(head: &str, stream: &str) -> Result<Profile, String> {
    Profile::parse(&format!("name = \"test\"\n{head}\n[[stream]]\n{STREAM}\n{stream}"))
}

#[test]
fn the_least_profile_has_the_defaults_the_manual_names() {
    let profile = profile("rate = \"1Mpps\"", "").unwrap();
    assert_eq!((profile.seed, profile.burst, profile.line), (1, 1, 10e9));
    assert_eq!(profile.duration, Duration::from_secs(10));
    assert_eq!(profile.pps(), Some(1e6));
    let stream = &profile.streams[0];
    assert_eq!(stream.sizes, [Size { bytes: 64, weight: 1 }]);
    assert_eq!((stream.flows, stream.ttl, stream.share), (1, 64, 1.0));
}

#[test]
fn nonsense_is_refused_with_the_path_of_the_key() {
    for (head, stream, problem) in [
        ("rate = \"0pps\"", "", "rate: '0pps' would send nothing"),
        ("rate = \"fast\"", "", "rate: 'fast' is not a rate"),
        ("rate = \"1kpps\"\nburst = 0", "", "burst: 0 packets"),
        ("rate = \"1kpps\"\nduration = \"0s\"", "", "duration: a trial of no length"),
        ("rate = \"1kpps\"\nduration = \"long\"", "", "duration: 'long' is not a length of time"),
        ("rate = \"1kpps\"\ncolour = 1", "", "colour: unknown field `colour`"),
        ("rate = \"1kpps\"", "frame = 63", "stream[0].frame: 63 bytes are under 64"),
        ("rate = \"1kpps\"", "frame = 9000", "stream[0].frame: 9000 bytes are over"),
        ("rate = \"1kpps\"", "frame = \"xmix\"", "stream[0].frame: there is no mix 'xmix'"),
        ("rate = \"1kpps\"", "frame = []", "stream[0].frame: there is no size"),
        ("rate = \"1kpps\"", "frame = true", "stream[0].frame: a frame size in bytes"),
        ("rate = \"1kpps\"", "speed = 1", "stream[0].speed: unknown field `speed`"),
        ("rate = \"1kpps\"", "rate = \"1pps\"", "stream[0].rate: the profile has a rate"),
        ("", "", "stream[0].rate: missing"),
        ("", "rate = \"max\"", "stream[0].rate: max is for a whole profile"),
        ("rate = \"1kpps\"", "weight = 0", "stream[0].weight: a stream of weight 0"),
        ("rate = \"1kpps\"", "copies = 0", "stream[0].copies: 0 copies"),
        ("rate = \"1kpps\"", "ttl = 0", "stream[0].ttl: "),
        ("rate = \"1kpps\"", "dscp = 64", "stream[0].dscp: 64 does not fit"),
        ("rate = \"1kpps\"", "flows.count = 101", "stream[0].flows.count: 101 flows are wanted"),
        ("rate = \"1kpps\"", "flows.count = 0", "stream[0].flows.count: 0 flows"),
        ("rate = \"1kpps\"", "flows.exponent = 1.1", "stream[0].flows.exponent: only a Zipf"),
        ("rate = \"1kpps\"", "ethernet.to = \"x\"", "stream[0].ethernet.to: 'x' is not a MAC"),
        ("rate = \"1kpps\"", "vxlan = { from = \"1.2.3.4\", to = \"1.2.3\" }", "stream[0].vxlan.to: '1.2.3'"),
        ("rate = \"1kpps\"\nmemory.pods = [\"x\"]", "", "memory.pods[0]: 'x' is not an IPv4 prefix"),
    ] {
        let error = profile(head, stream).expect_err(problem);
        assert!(error.contains(problem), "{head} {stream}: expected {problem}, got {error}");
    }
    let tcp = profile("rate = \"1kpps\"", "").map(|_| STREAM.replace("udp", "tcp")).unwrap();
    let error = Profile::parse(&format!("name = \"t\"\nrate = \"1pps\"\n[[stream]]\n{tcp}")).unwrap_err();
    assert!(error.contains("stream[0].frame: 64 bytes are too few") && error.contains("take 76"), "{error}");
}

#[test]
fn rates_of_streams_add_up_and_share() {
    let text =
        format!("name = \"t\"\n[[stream]]\nrate = \"30kpps\"{STREAM}[[stream]]\nrate = \"5kpps\"\ncopies = 2{STREAM}")
            .replacen("name = \"s\"", "name = \"other\"", 1);
    let profile = Profile::parse(&text).unwrap();
    assert_eq!(profile.pps(), Some(40_000.0));
    let shares: Vec<_> = profile.streams.iter().map(|s| (s.name.as_str(), s.share)).collect();
    assert_eq!(shares, [("other", 0.75), ("s-1", 0.125), ("s-2", 0.125)]);
    assert_eq!(profile.streams[2].first_flow, 1);
}

#[test]
fn imix_has_its_mean() {
    let profile = profile("rate = \"100%\"", "frame = \"imix\"").unwrap();
    let mean = (28.0 * 64.0 + 16.0 * 570.0 + 4.0 * 1518.0) / 48.0;
    assert!((profile.mean_size() - mean).abs() < 1e-9);
    assert!(profile.fits("eth9", 1500).is_ok());
    let error = profile.fits("eth9", 1400).unwrap_err();
    assert!(error.contains("stream[0].frame: frames of 1518 bytes do not fit eth9"), "{error}");
}
