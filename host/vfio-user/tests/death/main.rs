//! A server dies at each of its steps, and others continue: the VMM notices nothing.

mod left;
mod script;
mod world;

use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::thread;

use manatee_vfio_user::{Server, Vectors};

use script::Script;
use world::{Device, Effect, Killed, World};

/// A VMM's view of a session, and the device's.
#[derive(Debug, PartialEq)]
struct Outcome {
    answers: Vec<Vec<u8>>,
    effects: Vec<Effect>,
    interrupts: u64,
}

/// A socket, and a VMM that is connected to it.
struct Place {
    _folder: tempfile::TempDir,
    listener: UnixListener,
    vmm: UnixStream,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vfio.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let vmm = UnixStream::connect(&path).unwrap();
        Self {
            _folder: folder,
            listener,
            vmm,
        }
    }
}

/// Serves until the session is over, or until the server dies.
fn serve(world: &Arc<World>, listener: &UnixListener, generation: u32) {
    let server = Server::adopt(listener.try_clone().unwrap().into()).unwrap();
    let server = server.with_journal(world.clone());
    world.set_stopper(server.stopper());
    let vectors = world.restored();
    let device = Device {
        world: world.clone(),
        vectors: vectors.clone(),
    };
    let served = catch_unwind(AssertUnwindSafe(|| match generation {
        0 => server.serve(&device, &vectors),
        _ => server.recover(world.lost(), &device, &vectors),
    }));
    drop(device);
    // The kernel takes its time for giving asynchronous I/O up.
    thread::spawn(move || drop(vectors));
    match served {
        Ok(served) => served.unwrap(),
        Err(payload) if payload.is::<Killed>() => {}
        Err(payload) => resume_unwind(payload),
    }
}

/// Runs a script with servers that each live for some steps. Returns how many there were.
fn run(world: &Arc<World>, in_step: bool, lives: impl Fn(u32) -> u64) -> (Outcome, u32) {
    let script = Script::new().with_long_packet();
    let Place {
        _folder,
        listener,
        vmm,
    } = Place::new();
    thread::scope(|scope| {
        let answers = scope.spawn(|| script.drive(vmm, in_step));
        let mut generation = 0;
        while world.closed() == 0 {
            world.dies_after(lives(generation));
            serve(world, &listener, generation);
            generation += 1;
        }
        let outcome = outcome(world, &script, answers.join().unwrap());
        (outcome, generation)
    })
}

fn outcome(world: &World, script: &Script, answers: Vec<Vec<u8>>) -> Outcome {
    let mut effects = world.effects();
    // It is repeated, and that changes nothing.
    effects.dedup_by(|a, b| *a == Effect::Reset && a == b);
    let interrupts = script.raised();
    assert_eq!(interrupts, script.interrupts);
    Outcome {
        answers,
        effects,
        interrupts,
    }
}

fn undisturbed(in_step: bool) -> (Outcome, u64) {
    let world = World::new();
    let (outcome, generations) = run(&world, in_step, |_| u64::MAX);
    assert_eq!(generations, 1);
    for (address, first) in [(0x1000, 11), (0x2000, 22), (0x3000, 44), (0x7000, 33)] {
        let map = Effect::Map(address, Some(first));
        assert!(outcome.effects.contains(&map), "{map:?}");
    }
    (outcome, world.steps())
}

/// Lets a server die at each step that it takes, and the next live.
fn die_everywhere(in_step: bool) {
    let (expected, steps) = undisturbed(in_step);
    assert!(steps > 200, "{steps}");
    for step in 1..steps {
        let world = World::new();
        let lives = |generation| if generation == 0 { step } else { u64::MAX };
        let (outcome, _) = run(&world, in_step, lives);
        assert!(outcome == expected, "died at step {step}: {outcome:?}");
    }
}

#[test]
fn vmm_that_waits_for_answers_notices_no_death_at_any_step() {
    die_everywhere(true);
}

#[test]
fn vmm_that_sends_ahead_notices_no_death_at_any_step() {
    die_everywhere(false);
}

#[test]
fn successor_that_dies_as_it_begins_leaves_the_same_to_its_own() {
    let (expected, steps) = undisturbed(true);
    for (step, again) in (1..steps).flat_map(|step| (1..=4).map(move |again| (step, again))) {
        let world = World::new();
        let lives = |generation| match generation {
            0 => step,
            1 => again,
            _ => u64::MAX,
        };
        let (outcome, _) = run(&world, true, lives);
        let died = format!("died at step {step}, and {again} later");
        assert!(outcome == expected, "{died}: {outcome:?}");
    }
}

#[test]
fn servers_that_die_one_after_the_other_get_there_in_the_end() {
    for in_step in [true, false] {
        let (expected, _) = undisturbed(in_step);
        for first in 1..40 {
            let world = World::new();
            // Each lives a little longer, so that even a step that is repeated ends.
            let lives = |generation| first + u64::from(generation);
            let (outcome, generations) = run(&world, in_step, lives);
            assert!(generations > 5);
            assert!(outcome == expected, "{generations} servers: {outcome:?}");
        }
    }
}

#[test]
fn journal_changes_nothing_but_the_longest_access() {
    let script = Script::new();
    let Place {
        _folder,
        listener,
        vmm,
    } = Place::new();
    let serve = |world: &Arc<World>, server: Server| {
        let vectors = Vectors::new(8);
        world.set_stopper(server.stopper());
        let world = world.clone();
        let device = Device {
            world,
            vectors: vectors.clone(),
        };
        server.serve(&device, &vectors).unwrap();
    };
    let world = World::new();
    let server = Server::adopt(listener.into()).unwrap();
    let without = thread::scope(|scope| {
        let answers = scope.spawn(|| script.drive(vmm, true));
        serve(&world, server);
        outcome(&world, &script, answers.join().unwrap())
    });
    let other = Place::new();
    let noted = World::new();
    let server = Server::adopt(other.listener.into()).unwrap();
    let server = server.with_journal(noted.clone());
    let with = thread::scope(|scope| {
        let answers = scope.spawn(|| script.drive(other.vmm, true));
        serve(&noted, server);
        outcome(&noted, &script, answers.join().unwrap())
    });
    let text = |answer: &[u8]| String::from_utf8_lossy(&answer[20..]).into_owned();
    assert!(text(&without.answers[0]).contains("1048576"));
    assert!(text(&with.answers[0]).contains("65504"));
    assert!(with.answers[1..] == without.answers[1..]);
    assert_eq!(with.effects, without.effects);
    assert_eq!(with.interrupts, without.interrupts);
    assert_eq!((noted.closed(), world.closed()), (1, 0));
}
