//! Floods of forged requests beside a genuine sender.

use std::net::IpAddr;
use std::time::Duration;

use super::flood::{Flood, Forgery, Plan};
use super::process::{mebibytes, raise_descriptors};
use super::wire::loopback;
use super::{Genuine, Rig, memory_max};
use crate::support::{proved, rounds};

/// The genuine sender's baseline, then the same beside the flood.
fn beside(name: &str, rig: &Rig, genuine: &Genuine, plan: Plan) {
    raise_descriptors();
    let quiet = genuine.send(Duration::from_millis(rounds(500, 10_000) as u64));
    rig.gateway.forget_peak();
    let most = memory_max(plan.connections);
    let flood = Flood::start(rig.listen(), plan);
    let seen = genuine.send(Duration::from_millis(rounds(1500, 60_000) as u64));
    let tally = flood.stop();
    let peak = rig.gateway.peak();
    let result = format!(
        "quiet: {quiet}; flooded: {seen}; {tally}; peak {}",
        mebibytes(peak)
    );
    eprintln!("{name}: {result}");
    rig.assert_kept(&[&quiet, &seen]);
    assert!(tally.count() > 0);
    assert!(!tally.answers.contains_key("200"), "{name}: {tally}");
    seen.assert_prompt(name);
    assert!(peak < most, "{name}: {}", mebibytes(peak));
    proved(&format!("flood {name}"), result);
}

const FORGER: usize = 1;

fn one_address(forgeries: Vec<Forgery>) -> Plan {
    Plan {
        forgeries,
        connections: 128,
        requests_per_connection: usize::MAX,
        sources: vec![loopback(FORGER)],
        forwarded_for: Vec::new(),
    }
}

#[test]
fn from_one_address() {
    let rig = Rig::start("");
    let genuine = rig.genuine().from(loopback(2));
    beside("from one address", &rig, &genuine, one_address(Forgery::small()));
}

#[test]
fn from_the_genuine_senders_own_address() {
    let rig = Rig::start("");
    let genuine = rig.genuine().from(loopback(FORGER));
    beside(
        "from the same address",
        &rig,
        &genuine,
        one_address(Forgery::small()),
    );
}

#[test]
fn with_more_connections_than_one_address_may_have() {
    let rig = Rig::start("");
    let genuine = rig.genuine().from(loopback(FORGER));
    let plan = Plan {
        connections: 600,
        ..one_address(Forgery::small())
    };
    beside("600 connections from the same address", &rig, &genuine, plan);
}

#[test]
fn with_a_new_connection_for_each_request() {
    let rig = Rig::start("");
    let genuine = rig.genuine().from(loopback(FORGER));
    let plan = Plan {
        requests_per_connection: 1,
        ..one_address(Forgery::small())
    };
    beside("a connection each, same address", &rig, &genuine, plan);
}

#[test]
fn from_5000_addresses() {
    let rig = Rig::start("");
    let genuine = rig.genuine().from(loopback(6000));
    let plan = Plan {
        connections: 512,
        requests_per_connection: 10,
        sources: (0..5000).map(loopback).collect(),
        ..one_address(Forgery::small())
    };
    beside("from 5000 addresses", &rig, &genuine, plan);
}

#[test]
fn with_bodies_of_100_kib() {
    let rig = Rig::start("");
    let genuine = rig.genuine().from(loopback(FORGER));
    beside(
        "100 KiB, same address",
        &rig,
        &genuine,
        one_address(vec![Forgery::wrong(100 << 10), Forgery::chunked(100 << 10)]),
    );
}

#[test]
fn with_bodies_of_1_mib() {
    let rig = Rig::start("");
    let genuine = rig.genuine().from(loopback(FORGER));
    beside(
        "1 MiB, same address",
        &rig,
        &genuine,
        one_address(vec![Forgery::wrong(1 << 20), Forgery::chunked(1 << 20)]),
    );
}

#[test]
fn with_bodies_of_1_mib_from_5000_addresses() {
    let rig = Rig::start("");
    let genuine = rig.genuine().from(loopback(6000));
    let plan = Plan {
        connections: 512,
        requests_per_connection: 4,
        sources: (0..5000).map(loopback).collect(),
        ..one_address(vec![Forgery::wrong(1 << 20), Forgery::chunked(1 << 20)])
    };
    beside("1 MiB from 5000 addresses", &rig, &genuine, plan);
}

/// The balancer's connections are everybody's.
fn balanced(clients: Vec<IpAddr>) -> Plan {
    Plan {
        sources: Vec::new(),
        forwarded_for: clients,
        connections: 400,
        ..one_address(Forgery::small())
    }
}

#[test]
fn through_a_balancer_from_the_genuine_senders_own_address() {
    let rig = Rig::start("trusted_proxies = [\"127.0.0.1\"]");
    let client = IpAddr::from([192, 0, 2, 1]);
    let genuine = rig.genuine().forwarded_for(client).kept_alive();
    beside(
        "through a balancer, same address",
        &rig,
        &genuine,
        balanced(vec![client]),
    );
}

#[test]
fn through_a_balancer_from_5000_addresses() {
    let rig = Rig::start("trusted_proxies = [\"127.0.0.1\"]");
    let genuine = rig
        .genuine()
        .forwarded_for(IpAddr::from([192, 0, 2, 1]))
        .kept_alive();
    let clients = (0..5000u32)
        .map(|n| IpAddr::from((0xc633_6400 + n).to_be_bytes()))
        .collect();
    beside(
        "through a balancer, 5000 addresses",
        &rig,
        &genuine,
        balanced(clients),
    );
}
