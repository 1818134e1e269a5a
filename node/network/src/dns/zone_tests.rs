//! What names get, as tables.

use super::*;

fn port(name: &str, port: u16) -> Port {
    Port { name: name.into(), protocol: "tcp".into(), port }
}

pub(in crate::dns) fn services() -> Services {
    let web = ServiceRecord {
        addresses: vec!["10.96.0.5".parse().unwrap()],
        ports: vec![port("http", 80), port("admin", 8080)],
        ..ServiceRecord::default()
    };
    let endpoint = |address: &str, host: &str| Endpoint {
        address: address.parse().unwrap(),
        host: host.into(),
        ports: vec![port("peer", 7000)],
    };
    let db = ServiceRecord {
        headless: true,
        ports: vec![port("peer", 7000)],
        endpoints: vec![endpoint("10.244.0.7", "db-0"), endpoint("10.244.0.8", "10-244-0-8")],
        ..ServiceRecord::default()
    };
    let empty = ServiceRecord { headless: true, ..ServiceRecord::default() };
    let external = |target: &str| ServiceRecord { external: Some(target.into()), ..ServiceRecord::default() };
    [
        ("shop/web", web),
        ("shop/db", db),
        ("shop/empty", empty),
        ("shop/out", external("example.org")),
        ("shop/in", external("web.shop.svc.cluster.local")),
        ("shop/loop", external("loop.shop.svc.cluster.local")),
    ]
    .map(|(key, record)| (key.to_owned(), record))
    .into()
}

pub(in crate::dns) fn zone() -> Zone {
    let reverse = vec!["10.96.0.0/16".parse().unwrap(), "10.244.0.0/16".parse().unwrap()];
    let mut zone = Zone::new(Name::from_utf8("cluster.local.").unwrap(), "192.168.0.1".parse().unwrap(), reverse);
    zone.apply(Update::Snapshot(services()));
    zone
}

/// `answers + extra`, or what happened instead.
fn ask(zone: &Zone, name: &str, kind: RecordType) -> String {
    let data =
        |records: &[Record]| records.iter().map(|record| record.data.to_string()).collect::<Vec<_>>().join(" | ");
    match zone.look_up(&Name::from_utf8(name).unwrap(), kind) {
        Outcome::Answer { answers, extra } if extra.is_empty() => data(&answers),
        Outcome::Answer { answers, extra } => format!("{} + {}", data(&answers), data(&extra)),
        Outcome::Alias { answers, target } => format!("{} then {target}", data(&answers)),
        Outcome::NoSuchName => "no such name".into(),
        Outcome::Elsewhere => "elsewhere".into(),
    }
}

#[test]
fn names() {
    use RecordType::{A, AAAA, CNAME, NS, PTR, SRV, TXT};
    let zone = zone();
    let cases: &[(&str, RecordType, &str)] = &[
        ("web.shop.svc.cluster.local.", A, "10.96.0.5"),
        ("WEB.Shop.svc.Cluster.Local.", A, "10.96.0.5"),
        ("web.shop.svc.cluster.local.", AAAA, ""),
        ("web.other.svc.cluster.local.", A, "no such name"),
        ("nothing.shop.svc.cluster.local.", A, "no such name"),
        ("_http._tcp.web.shop.svc.cluster.local.", SRV, "0 100 80 web.shop.svc.cluster.local. + 10.96.0.5"),
        ("_http._udp.web.shop.svc.cluster.local.", SRV, "no such name"),
        ("_http._tcp.web.shop.svc.cluster.local.", A, ""),
        ("_tcp.web.shop.svc.cluster.local.", A, ""),
        ("db.shop.svc.cluster.local.", A, "10.244.0.7 | 10.244.0.8"),
        ("db-0.db.shop.svc.cluster.local.", A, "10.244.0.7"),
        ("db-1.db.shop.svc.cluster.local.", A, "no such name"),
        ("10-244-0-8.db.shop.svc.cluster.local.", A, "10.244.0.8"),
        (
            "_peer._tcp.db.shop.svc.cluster.local.",
            SRV,
            "0 100 7000 db-0.db.shop.svc.cluster.local. | 0 100 7000 10-244-0-8.db.shop.svc.cluster.local. + 10.244.0.7 | 10.244.0.8",
        ),
        ("empty.shop.svc.cluster.local.", A, "no such name"),
        ("empty.shop.svc.cluster.local.", SRV, "no such name"),
        ("out.shop.svc.cluster.local.", A, "example.org. then example.org."),
        ("out.shop.svc.cluster.local.", CNAME, "example.org."),
        ("in.shop.svc.cluster.local.", A, "web.shop.svc.cluster.local. | 10.96.0.5"),
        ("10-244-1-9.shop.pod.cluster.local.", A, "10.244.1.9"),
        ("fd00--9.shop.pod.cluster.local.", AAAA, "fd00::9"),
        ("not-an-address.shop.pod.cluster.local.", A, "no such name"),
        ("5.0.96.10.in-addr.arpa.", PTR, "web.shop.svc.cluster.local."),
        ("7.0.244.10.in-addr.arpa.", PTR, "db-0.db.shop.svc.cluster.local."),
        ("99.0.244.10.in-addr.arpa.", PTR, "no such name"),
        ("1.1.168.192.in-addr.arpa.", PTR, "elsewhere"),
        ("cluster.local.", NS, "ns.dns.cluster.local. + 192.168.0.1"),
        ("cluster.local.", A, ""),
        ("svc.cluster.local.", A, ""),
        ("shop.svc.cluster.local.", A, ""),
        ("none.svc.cluster.local.", A, "no such name"),
        ("dns-version.cluster.local.", TXT, "1.1.0"),
        ("web.shop.svc.cluster.local.shop.svc.cluster.local.", A, "no such name"),
        ("example.org.", A, "elsewhere"),
        ("local.", A, "elsewhere"),
        (".", NS, "elsewhere"),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(ask(&zone, name, *kind), *expected, "{name} {kind}");
    }
    assert!(ask(&zone, "loop.shop.svc.cluster.local.", A).starts_with("loop."), "an endless alias ends");
}

#[test]
fn updates() {
    let mut zone = zone();
    let serial = zone.serial;
    let moved = ServiceRecord { addresses: vec!["10.96.0.6".parse().unwrap()], ..ServiceRecord::default() };
    zone.apply(Update::Delta([("shop/web".to_owned(), Some(moved)), ("shop/db".to_owned(), None)].into()));
    assert_ne!(zone.serial, serial);
    for (name, kind, expected) in [
        ("web.shop.svc.cluster.local.", RecordType::A, "10.96.0.6"),
        ("5.0.96.10.in-addr.arpa.", RecordType::PTR, "no such name"),
        ("6.0.96.10.in-addr.arpa.", RecordType::PTR, "web.shop.svc.cluster.local."),
        ("7.0.244.10.in-addr.arpa.", RecordType::PTR, "no such name"),
        ("db.shop.svc.cluster.local.", RecordType::A, "no such name"),
    ] {
        assert_eq!(ask(&zone, name, kind), expected, "{name}");
    }
    zone.apply(Update::Snapshot(Services::new()));
    assert!(zone.pointers.is_empty() && zone.namespaces.is_empty());
    let text = serde_json::to_string(&Update::Snapshot(services())).unwrap();
    assert_eq!(serde_json::from_str::<Update>(&text).unwrap(), Update::Snapshot(services()));
}
