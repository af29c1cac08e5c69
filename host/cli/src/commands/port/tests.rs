//! Parsing of `--port`.

use super::open::{DEFAULT_MTU, LINK_SPEED_MBPS};
use super::*;
use crate::commands::serve::kept::Kept;

fn parse(text: &str) -> Result<PortArgument, InvalidPort> {
    text.parse()
}

#[test]
fn all_kinds_are_read() {
    let loopback = PortArgument {
        backend: Backend::Loopback,
        mac: None,
        mtu: None,
        speed: None,
        queues: None,
        rate: None,
        spoof_check: None,
        promiscuous: None,
        vlans: None,
    };
    assert_eq!(parse("loopback"), Ok(loopback));
    let tap = PortArgument {
        backend: Backend::Tap("tap0".to_owned()),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: Some(9000),
        speed: Some(25_000),
        queues: Some(4),
        rate: None,
        spoof_check: None,
        promiscuous: None,
        vlans: None,
    };
    assert_eq!(
        parse("tap=tap0,mac=02:00:00:00:00:01,mtu=9000,speed=25000,queues=4"),
        Ok(tap.clone())
    );
    assert_eq!(
        parse("tap=tap0,queues=4,speed=25000,mtu=9000,mac=02:00:00:00:00:01"),
        Ok(tap)
    );
    assert!(parse("null,mtu=68").is_ok());
}

#[test]
fn mistakes_are_named() {
    for text in ["", "eth0", "tun=x", "loopback=1", "tap0"] {
        assert_eq!(parse(text), Err(InvalidPort::Backend(text.to_owned())));
    }
    assert_eq!(parse("tap="), Err(InvalidPort::NoInterface));
    assert_eq!(parse("tap"), Err(InvalidPort::NoInterface));
    assert_eq!(parse("null,"), Err(InvalidPort::Setting(String::new())));
    assert_eq!(
        parse("null,rates=1"),
        Err(InvalidPort::Setting("rates=1".to_owned()))
    );
    // A word that begins no setting belongs to a list only after one.
    assert_eq!(
        parse("null,mtu=900,5-9"),
        Err(InvalidPort::Setting("5-9".to_owned()))
    );
    for wrong in [
        "rate=0",
        "rate=1000001",
        "rate=-1",
        "rate=off",
        "rate=",
        "vlans=",
        "vlans=4095",
        "vlans=9-5",
        "vlans=1,5-",
        "vlans=x",
        "spoof-check=yes",
        "spoof-check=",
        "promiscuous=1",
    ] {
        let error = parse(&format!("null,{wrong}")).unwrap_err().to_string();
        let out = ["use ", "leave ", "give "];
        assert!(
            out.iter().any(|way| error.contains(way)),
            "{wrong}: {error}"
        );
    }
    assert_eq!(
        parse("null,mtu=99,mtu=99"),
        Err(InvalidPort::Repeated("mtu"))
    );
    for mtu in ["67", "65522", "-1", "x", ""] {
        assert_eq!(
            parse(&format!("null,mtu={mtu}")),
            Err(InvalidPort::Mtu(mtu.to_owned()))
        );
    }
    for speed in ["0", "1000001", "-1", "fast", ""] {
        assert_eq!(
            parse(&format!("null,speed={speed}")),
            Err(InvalidPort::Speed(speed.to_owned()))
        );
    }
    for queues in ["0", "65", "-1", "many", ""] {
        assert_eq!(
            parse(&format!("tap=tap0,queues={queues}")),
            Err(InvalidPort::Queues(queues.to_owned()))
        );
    }
    assert!(matches!(
        parse("null,mac=01:00:00:00:00:00"),
        Err(InvalidPort::Mac(_))
    ));
}

#[test]
fn policies_are_read_and_a_network_is_not_for_everybody() {
    let policy = |text: &str| parse(text).unwrap().policy([2, 0, 0, 0, 0, 1]);
    for network in ["tap=t", "fd=7", "fds=7:8", "stream=/s", "fd=7,type=stream"] {
        assert!(!policy(network).promiscuous, "{network}");
        assert!(policy(network).restricts());
        let all = policy(&format!("{network},promiscuous=on"));
        assert!(!all.restricts(), "{network}: nothing is restricted");
    }
    assert!(!policy("loopback").restricts() && !policy("null").restricts());
    let strict = policy("tap=t,vlans=1,5-9,spoof-check=on,mtu=900");
    assert!(strict.spoof_check && !strict.promiscuous);
    assert_eq!(strict.vlans.unwrap().to_string(), "1,5-9");
    assert_eq!(parse("loopback,vlans=0,rate=10").unwrap().rate(), Some(10));
    assert_eq!(
        parse("null,vlans=1,vlans=2"),
        Err(InvalidPort::Repeated("vlans"))
    );
}

#[test]
fn two_ports_with_one_address_are_refused() {
    let same: PortArgument = "null,mac=02:00:00:00:00:01".parse().unwrap();
    let error = open_all(
        &[same.clone(), same],
        Some(Path::new("/s")),
        &mut Kept::default(),
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("02:00:00:00:00:01"), "{error}");
}

#[test]
fn without_a_path_an_address_has_to_be_given() {
    let error = open_all(&["null".parse().unwrap()], None, &mut Kept::default()).unwrap_err();
    assert!(error.to_string().contains("port 0 needs mac="), "{error}");
    let given = "null,mac=02:00:00:00:00:01".parse().unwrap();
    assert_eq!(
        open_all(&[given], None, &mut Kept::default())
            .unwrap()
            .ports
            .len(),
        1
    );
}

#[test]
fn mtu_is_what_was_given_or_1500() {
    let open = |text: &str| {
        let opened = open_all(
            &[text.parse().unwrap()],
            Some(Path::new("/s")),
            &mut Kept::default(),
        )
        .unwrap();
        (opened.ports[0].mtu, opened.ports[0].link_speed_mbps)
    };
    assert_eq!(open("null,mtu=9000"), (9000, LINK_SPEED_MBPS));
    assert_eq!(open("null,speed=10"), (DEFAULT_MTU, 10));
}

#[test]
fn streams_and_descriptors_are_read() {
    let backend = |text: &str| parse(text).map(|port| port.backend);
    assert_eq!(
        backend("stream=/tmp/a b"),
        Ok(Backend::Stream("/tmp/a b".into()))
    );
    assert_eq!(backend("fd=7"), Ok(Backend::Descriptors(vec![7])));
    assert_eq!(
        backend("fd=7,mtu=900,type=tap"),
        Ok(Backend::Descriptors(vec![7]))
    );
    assert_eq!(
        backend("fds=7:9:8"),
        Ok(Backend::Descriptors(vec![7, 9, 8]))
    );
    assert_eq!(
        backend("fd=7,type=stream"),
        Ok(Backend::StreamDescriptor(7))
    );
    assert_eq!(backend("stream="), Err(InvalidPort::NoPath));
    assert_eq!(backend("stream"), Err(InvalidPort::NoPath));
    for wrong in ["fd=", "fd=x", "fd=-1", "fds=", "fds=3:", "fds=3:4:3"] {
        let (_, text) = wrong.split_once('=').unwrap();
        assert_eq!(
            backend(wrong),
            Err(InvalidPort::Descriptors(text.to_owned()))
        );
    }
    let many: Vec<_> = (3..68).map(|fd| fd.to_string()).collect();
    assert!(backend(&format!("fds={}", many.join(":"))).is_err());
    assert!(backend("fd=3:4").is_err());
    for wrong in [
        "fd=7,type=dgram",
        "fds=7:8,type=stream",
        "tap=t,type=stream",
    ] {
        assert!(
            matches!(backend(wrong), Err(InvalidPort::Type(_))),
            "{wrong}"
        );
    }
    for wrong in [
        "fd=7,queues=1",
        "stream=/s,queues=1",
        "fd=7,type=stream,queues=2",
    ] {
        assert_eq!(backend(wrong), Err(InvalidPort::QueuesOfAnother), "{wrong}");
    }
}
