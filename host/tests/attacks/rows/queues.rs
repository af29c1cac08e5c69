//! Queues that a port does not have, steering that is invalid, and floods.

use std::time::Duration;

use manatee::device::Limits;
use manatee::endpoint::{Endpoint, Loopback, Null};
use serde_json::{Value, json};

use super::{Row, row};
use crate::case::{Case, Victim};
use crate::hostile::{ANSWER, Hostile, OWN, rounds};

pub const ROWS: &[Row] = &[
    row("queues beyond the port's", beyond_the_port),
    row("features that were not agreed on", not_agreed),
    row("keys of another length", keys),
    row("tables of absurd lengths", tables),
    row("tables with queues that are not there", missing_queues),
    row("settings of ports that are not there", missing_ports),
    row("steering in a loop", steering_in_a_loop),
    row(
        "a flood on a queue that never posts",
        flood_on_the_only_queue,
    ),
    row("a flood on one queue of two", flood_on_one_of_two),
    row("rates of every size", rates),
    row("statistics that are to go nowhere", statistics_nowhere),
    row("settings that outlive an instance", settings_stay),
    row("interrupts that are to wait", waiting_interrupts),
    row("lists of interrupts that are to wait", lists_of_waiting),
];

/// The bits of `features` for steering, the hash, rates, statistics and moderation.
const FEATURES: u8 = 0b11_1110;

/// Bytes of a key.
const KEY: u32 = 40;
/// The address of tables, after the key.
const TABLE: u32 = OWN + 1024;

/// Returns a component that negotiated all features of queues.
fn agreed(case: &Case) -> Hostile {
    case.hostile().agrees(FEATURES)
}

/// Returns a call of `steer` with a key and a table of these lengths.
fn steer(port: u32, key: u32, table: u32, default: u32) -> String {
    format!(
        "i32.const {port} i32.const 63 i32.const {OWN} i32.const {key} i32.const {TABLE}
         i32.const {table} i32.const {default} call $steer"
    )
}

/// Makes a device of two queues whose component does this at each `write-register`, with a
/// deadline for busy machines.
fn poked(case: &Case, hostile: &Hostile, body: &str) -> Victim {
    let limits = Limits {
        deadline: Duration::from_secs(60),
        ..case.limits()
    };
    poked_within(case, hostile, body, limits)
}

fn poked_within(case: &Case, hostile: &Hostile, body: &str, limits: Limits) -> Victim {
    let hostile = hostile.clone().export(
        "write-register",
        format!("(local $round i32) {body} i32.const 0"),
    );
    let endpoint = Box::new(Loopback::with_queues(2));
    let victim = case.try_victim(&hostile, limits, endpoint);
    let victim = victim.expect("the component is accepted");
    victim.poke();
    victim
}

fn beyond_the_port(case: &Case) {
    let nothing = "i32.const 16384 i32.const 0 i32.const 16384 i32.const 0";
    let transmit = format!("{nothing} i32.const {ANSWER} call $transmit");
    let post = format!("{nothing} call $post-receive drop");
    // Revoking what was never given is no fault.
    let calls = [
        (&*transmit, true),
        (&post, true),
        ("call $cancel-receive", false),
        ("call $cancel-transmit", false),
    ];
    let endpoints: [fn() -> Box<dyn Endpoint>; 3] = [
        || Box::new(Null::new()),
        || Box::new(Loopback::with_queues(2)),
        || Box::new(Loopback::with_queues(64)),
    ];
    for (count, endpoint) in [1_u32, 2, 64].into_iter().zip(endpoints) {
        for (call, ends) in calls {
            for queue in [count, 65, 0x1_0000, 0x1_0000 + count - 1, u32::MAX] {
                let body = format!("i32.const 0 i32.const {queue} {call} i32.const 0");
                let hostile = case.hostile().export("write-register", body);
                let victim = case.try_victim(&hostile, case.limits(), endpoint());
                let victim = victim.expect("the component is accepted");
                victim.poke();
                if ends {
                    victim.is_ended(&["does not exist"]);
                } else {
                    victim.runs();
                }
            }
            // The last queue exists.
            let last = count - 1;
            let body = format!("i32.const 0 i32.const {last} {call} i32.const 0");
            let hostile = case.hostile().export("write-register", body);
            let victim = case.try_victim(&hostile, case.limits(), endpoint());
            let victim = victim.expect("the component is accepted");
            victim.poke();
            victim.runs();
        }
    }
}

fn not_agreed(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    let calls = [
        steer(0, KEY, 0, 0),
        "i32.const 0 i32.const 0 i32.const 0 call $limit-rate".to_owned(),
        format!("i32.const 0 i32.const {ANSWER} call $statistics"),
        raise_within(TABLE, 1),
    ];
    for call in calls {
        poked(case, &case.hostile(), &call).is_ended(&["agree"]);
        poked(case, &agreed(case), &call).runs();
    }
}

fn keys(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    for length in [0, 1, 39, 41, 0x1_0000, 0x8000_0000, u32::MAX] {
        let victim = poked(case, &agreed(case), &steer(0, length, 0, 0));
        victim.is_ended(&["40", "beyond", "memory", "bounds", "key"]);
    }
}

fn tables(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    for length in [
        3,
        1023,
        1025,
        2048,
        0x1_0000,
        0x4000_0000,
        0x8000_0000,
        u32::MAX,
    ] {
        let victim = poked(case, &agreed(case), &steer(0, KEY, length, 0));
        victim.is_ended(&["1024", "beyond", "memory", "bounds", "list"]);
    }
    for length in [0, 1, 1024] {
        poked(case, &agreed(case), &steer(0, KEY, length, 1)).runs();
    }
}

fn missing_queues(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    for queue in ["02\\00", "40\\00", "00\\01", "ff\\ff"] {
        let hostile =
            agreed(case).fields(format!("(data (i32.const {}) \"\\{queue}\")", TABLE + 30));
        let victim = poked(case, &hostile, &steer(0, KEY, 16, 0));
        victim.is_ended(&["does not exist"]);
        // A number after the table's end is not checked.
        poked(case, &hostile, &steer(0, KEY, 8, 0)).runs();
    }
    for default in [2, 64, 0x1_0000, u32::MAX] {
        let victim = poked(case, &agreed(case), &steer(0, KEY, 0, default));
        victim.is_ended(&["does not exist"]);
    }
}

fn missing_ports(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    for port in [1, 255, u32::MAX] {
        let calls = [
            steer(port, KEY, 0, 0),
            format!("i32.const {port} i32.const 0 i32.const 0 call $limit-rate"),
            format!("i32.const {port} i32.const {ANSWER} call $statistics"),
        ];
        for call in calls {
            poked(case, &agreed(case), &call).is_ended(&["does not exist"]);
        }
    }
}

/// Changes the steering each time, the most expensive call here.
fn steering_in_a_loop(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    let turn = format!(
        "i32.const {TABLE} local.get $round i32.const 1 i32.and i32.store16 {}",
        steer(0, KEY, 1024, 0)
    );
    let body = rounds(1_000_000, &turn);
    let victim = poked_within(case, &agreed(case), &body, case.limits());
    victim.is_ended(&["interrupt"]);
    poked(case, &agreed(case), &rounds(100, &turn)).runs();
}

/// Returns 64 packets without a hash, all at the same address in guest memory.
fn packets() -> String {
    let mut text = String::new();
    for packet in 0..64 {
        text.push_str(&format!(
            "(data (i32.const {}) \"\\{packet:02x}\\00\\00\\00\\01\\00\")
             (data (i32.const {}) \"\\00\\10\\00\\00\\00\\00\\00\\00\\40\\00\\00\\00\")",
            OWN + 8192 + 16 * packet,
            OWN + 12288 + 16 * packet
        ));
    }
    text
}

/// Returns calls that send them many times.
fn flood(queue: u32) -> String {
    let call = format!(
        "i32.const 0 i32.const {queue} i32.const {} i32.const 64 i32.const {} i32.const 64
         i32.const {ANSWER} call $transmit",
        OWN + 8192,
        OWN + 12288
    );
    rounds(100, &call)
}

fn queue(victim: &Victim, index: usize) -> Value {
    victim.device.inspect()["ports"]["0"]["queues"][index].clone()
}

/// All packets go to a queue without buffers: the host's backlog is bounded.
fn flood_on_the_only_queue(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    let hostile = agreed(case).fields(packets());
    let body = format!("{} {}", steer(0, KEY, 0, 1), flood(0));
    let victim = poked(case, &hostile, &body);
    for _ in 0..20 {
        victim.poke();
    }
    victim.runs();
    let sender = queue(&victim, 0);
    assert_eq!(sender["pending_transmits"], 1024, "{sender:#}");
    let dropped = sender["counters"]["transmit"]["dropped_busy"].as_u64();
    assert!(dropped > Some(100_000), "{sender:#}");
    // A reset discards all of it.
    victim.device.reset();
    let sender = queue(&victim, 0);
    assert_eq!(sender["pending_transmits"], 0, "{sender:#}");
}

/// Packets go to two queues, one of which has no buffers: it does not delay the other.
fn flood_on_one_of_two(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    let hostile = agreed(case)
        .fields(packets())
        .fields(format!("(data (i32.const {TABLE}) \"\\00\\00\\01\\00\")"));
    let body = format!("{} {}", steer(0, KEY, 2, 1), flood(0));
    let victim = poked(case, &hostile, &body);
    for _ in 0..20 {
        victim.poke();
    }
    victim.runs();
    let sender = queue(&victim, 0);
    assert_eq!(sender["pending_transmits"], 0, "{sender:#}");
    let counters = &sender["counters"];
    assert!(
        counters["receive"]["dropped"].as_u64() > Some(100_000),
        "{sender:#}"
    );
    assert_eq!(counters["transmit"]["dropped_busy"], 0, "{sender:#}");
}

fn rates(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    for rate in [0, 1, 100, 0x7fff_ffff, u32::MAX] {
        let hostile = agreed(case).fields(packets());
        let limit = format!("i32.const 0 i32.const 1 i32.const {rate} call $limit-rate");
        let none = "i32.const 0 i32.const 0 i32.const 0 call $limit-rate";
        let post_nothing = flood(1);
        let victim = poked(case, &hostile, &format!("{limit} {post_nothing} {limit}"));
        victim.poke();
        victim.runs();
        assert_eq!(
            victim.device.inspect()["ports"]["0"]["rate_limit_mbps"],
            rate
        );
        let held = queue(&victim, 1)["pending_transmits"].as_u64();
        assert!(held <= Some(2 * 1024), "{held:?} packets wait");
        let body = rounds(10_000, &format!("{limit} {none}"));
        poked(case, &hostile, &body).runs();
    }
}

fn statistics_nowhere(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    const END: u32 = 16 << 16;
    for to in [END - 40, END - 8, END, OWN + 4, 0xffff_fff8] {
        let call = format!("i32.const 0 i32.const {to} call $statistics");
        poked(case, &agreed(case), &call).is_ended(&[]);
    }
    let call = format!("i32.const 0 i32.const {} call $statistics", END - 48);
    poked(case, &agreed(case), &call).runs();
}

/// The host keeps a component's settings: they apply to every later instance that
/// negotiated the feature.
fn settings_stay(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    let hostile = agreed(case).fields(format!("(data (i32.const {TABLE}) \"\\01\\00\")"));
    let set = format!(
        "{} i32.const 0 i32.const 1 i32.const 1000 call $limit-rate",
        steer(0, KEY, 2, 1)
    );
    let victim = poked(case, &hostile, &set);
    let settings = |victim: &Victim| {
        let port = victim.device.inspect()["ports"]["0"].clone();
        let steering = &port["steering"];
        let queues = (steering["table"].clone(), steering["default_queue"].clone());
        (queues, port["rate_limit_mbps"].clone())
    };
    let expected = ((json!([1, 0]), json!(1)), json!(1000));
    assert_eq!(settings(&victim), expected);
    let state = victim.device.save().expect("it can be saved");
    victim.device.reset();
    assert_eq!(settings(&victim), ((Value::Null, Value::Null), Value::Null));

    // An instance that negotiated the feature has the setting, another has not.
    for (hostile, has) in [(&hostile, true), (&case.hostile(), false)] {
        let endpoint = Box::new(Loopback::with_queues(2));
        let victim = case.try_victim(hostile, case.limits(), endpoint);
        let victim = victim.expect("the component is accepted");
        victim
            .device
            .restore(&state)
            .expect("the state is accepted");
        assert_eq!(settings(&victim) == expected, has);
        victim.runs();
    }
    // A port with fewer queues can't apply it.
    let victim = case.victim(&hostile);
    assert!(victim.device.restore(&state).is_err());
}

/// Returns a call of `raise-within` with this many vectors.
fn raise_within(at: u32, count: u32) -> String {
    format!(
        "i32.const {at} i32.const {} call $raise-within",
        count as i32
    )
}

/// However often a component has vectors raised later, and however much later, each waits once,
/// and those that do not exist are ignored.
fn waiting_interrupts(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    // The last vector, at once; the first, in more than an hour; two that do not exist.
    let hostile = agreed(case).fields(format!(
        "(data (i32.const {TABLE}) \"\\40\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\ff\\ff\\ff\\ff\
         \\41\\00\\00\\00\\01\\00\\00\\00\\ff\\ff\\00\\00\\00\\00\\00\\00\")"
    ));
    let body = rounds(10_000, &raise_within(TABLE, 4));
    let victim = poked(case, &hostile, &body);
    victim.runs();
    victim.device.reset();
    victim.device.config_write(4, &[6, 0]);
    victim.poke();
    victim.runs();
}

fn lists_of_waiting(case: &Case) {
    if !case.version.has_arenas {
        return;
    }
    const END: u32 = 16 << 16;
    for (at, count) in [
        (END, 1),
        (END - 8, 2),
        (OWN + 513, 1),
        (TABLE, 66),
        (0, 1 << 29),
        (0, u32::MAX),
    ] {
        poked(case, &agreed(case), &raise_within(at, count)).is_ended(&[]);
    }
    for (at, count) in [(TABLE, 0), (TABLE, 65), (END - 8, 1)] {
        poked(case, &agreed(case), &raise_within(at, count)).runs();
    }
}
