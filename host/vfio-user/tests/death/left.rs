//! What a server leaves between two steps of its own, where only the kernel knows how far it
//! came; what no server leaves; and sessions that do without a journal.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use manatee_vfio_user::{NoSession, Progress, ServeError, Server, Suspended, Vectors};
use rustix::net::{RecvFlags, recv};

use crate::script::{BAR, CONFIG, NO_REPLY, Script, answer, read, write};
use crate::world::{Device, Effect, World};
use crate::{Place, outcome, serve};

/// Peeks and consumes as a server does, whose connection this is.
struct Dead {
    vmm: UnixStream,
    ours: UnixStream,
    world: Arc<World>,
}

impl Dead {
    /// Leaves a connection with `sent` on it, all of which was peeked at.
    fn new(sent: &[u8]) -> Self {
        let (vmm, ours) = UnixStream::pair().unwrap();
        set_peek_offset(&ours);
        (&vmm).write_all(sent).unwrap();
        let peek = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let mut room = vec![0; sent.len()];
        let (_, peeked) = recv(&ours, &mut room[..], peek).unwrap();
        assert_eq!(peeked, sent.len());
        Self {
            vmm,
            ours,
            world: World::new(),
        }
    }

    fn consume(&self, bytes: usize) {
        let mut room = vec![0; bytes];
        let (_, consumed) = recv(&self.ours, &mut room[..], RecvFlags::empty()).unwrap();
        assert_eq!(consumed, bytes);
    }

    fn put_into_pipe(&self, bytes: &[u8]) {
        use manatee_vfio_user::Journal;
        let (_, into) = self.world.pipe();
        assert_eq!(rustix::io::write(into, bytes).unwrap(), bytes.len());
    }

    /// Recovers the session until the VMM goes, which is when this is done with it.
    fn recover(self, progress: Progress, noted: &[u8], vmm: impl FnOnce(&UnixStream) + Send) {
        let Self {
            vmm: client,
            ours,
            world,
        } = self;
        world.leave(&ours, progress, noted);
        drop(ours);
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("vfio.sock")).unwrap();
        thread::scope(|scope| {
            scope.spawn(move || {
                client
                    .set_read_timeout(Some(Duration::from_secs(60)))
                    .unwrap();
                vmm(&client);
            });
            serve(&world, &listener, 1);
        });
        assert_eq!(world.closed(), 1);
    }
}

fn set_peek_offset(socket: &UnixStream) {
    use std::os::fd::AsRawFd;
    let offset = 0_i32;
    // SAFETY: `setsockopt` reads the four bytes of the offset, which lives through the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEEK_OFF,
            (&raw const offset).cast(),
            4,
        )
    };
    assert_eq!(set, 0);
}

/// Returns the answer to the read of a register that nobody has written.
fn read_answer(id: u16, offset: u64, count: usize) -> Vec<u8> {
    let mut body = read(id, BAR, offset, count)[16..].to_vec();
    body.resize(body.len() + count, 0x5a);
    let mut answer = crate::script::message(id, 9, 1, &body);
    answer[8] = 1;
    answer
}

#[test]
fn answer_that_was_put_into_the_pipe_in_part_is_sent_once() {
    let request = read(1, BAR, 0, 5000);
    let length = request.len() as u32;
    let whole = read_answer(1, 0, 5000);
    for in_pipe in [0, 1, 16, 4096, whole.len()] {
        let dead = Dead::new(&request);
        dead.put_into_pipe(&whole[..in_pipe]);
        let world = dead.world.clone();
        dead.recover(Progress::Executed { done: 0, length }, &whole, |vmm| {
            assert!(answer(vmm) == whole, "{in_pipe}");
            let mut next = vmm;
            next.write_all(&read(2, BAR, 0, 8)).unwrap();
            assert_eq!(answer(vmm), read_answer(2, 0, 8));
        });
        assert_eq!(world.effects(), []);
    }
}

#[test]
fn answer_that_has_left_in_part_is_continued() {
    let request = write(1, 0, BAR, 8, &[7; 4]);
    let length = request.len() as u32;
    let mut whole = crate::script::message(1, 10, 1, &request[16..32]);
    whole[8] = 1;
    for left in [0, 1, 20, whole.len()] {
        let dead = Dead::new(&request);
        let world = dead.world.clone();
        dead.put_into_pipe(&whole[whole.len() - left..]);
        dead.recover(
            Progress::Answering { done: 0, length },
            &whole,
            |mut vmm| {
                let mut rest = vec![0; left];
                vmm.read_exact(&mut rest).unwrap();
                assert_eq!(rest, whole[whole.len() - left..]);
                vmm.write_all(&read(2, CONFIG, 0, 4)).unwrap();
                assert_eq!(answer(vmm)[..2], [2, 0]);
            },
        );
        // It was answered before it was carried out.
        assert_eq!(world.effects(), [Effect::Bar(8, vec![7; 4])]);
    }
}

#[test]
fn bytes_that_were_consumed_in_part_are_consumed_to_the_end() {
    let done = write(1, NO_REPLY, CONFIG, 0, &[1; 8]);
    let begun = read(2, BAR, 0, 8);
    for consumed in [0, 1, done.len() - 1, done.len()] {
        let dead = Dead::new(&[&done[..], &begun[..10]].concat());
        let world = dead.world.clone();
        if consumed > 0 {
            dead.consume(consumed);
        }
        let progress = Progress::Consuming {
            done: done.len() as u32,
            peeked: done.len() as u32 + 10,
        };
        dead.recover(progress, &[], |mut vmm| {
            vmm.write_all(&begun[10..]).unwrap();
            assert_eq!(answer(vmm), read_answer(2, 0, 8));
        });
        assert_eq!(world.effects(), [], "it was carried out before");
    }
}

#[test]
fn connection_that_is_not_as_noted_is_closed() {
    let request = read(1, BAR, 0, 8);
    let length = request.len() as u32;
    let peeked = length;
    for progress in [
        Progress::Consuming {
            done: 0,
            peeked: 16,
        },
        Progress::Consuming {
            done: 8,
            peeked: peeked + 9,
        },
        Progress::Idle { done: length + 1 },
        Progress::Executing {
            done: 0,
            length: length - 1,
        },
        Progress::Executing {
            done: 0,
            length: length + 1,
        },
        Progress::Executing {
            done: length,
            length,
        },
        Progress::Answering { done: 1, length },
        Progress::Posted { done: 0, length },
    ] {
        let dead = Dead::new(&request);
        let world = dead.world.clone();
        dead.recover(progress, &[], |mut vmm| {
            let mut rest = Vec::new();
            // It may be reset, since there is something that nobody received.
            let _ = vmm.read_to_end(&mut rest);
            assert!(rest.is_empty(), "{progress:?}");
        });
        assert_eq!(world.effects(), []);
    }
}

#[test]
fn what_no_server_notes_is_an_error_and_closed_in_the_journal() {
    let (done, length) = (0, 16);
    let dead = Dead::new(&read(1, BAR, 0, 8));
    let progress = Progress::Executed { done, length };
    dead.world.leave(&dead.ours, progress, &[0; 15]);
    let folder = tempfile::tempdir().unwrap();
    let server = Server::bind(&folder.path().join("vfio.sock")).unwrap();
    let server = server.with_journal(dead.world.clone());
    let vectors = Vectors::new(8);
    let device = Device {
        world: dead.world.clone(),
        vectors: vectors.clone(),
    };
    let refused = server.recover(dead.world.lost(), &device, &vectors);
    assert!(matches!(
        refused,
        Err(ServeError::Session(NoSession::Answer(15)))
    ));
    assert_eq!(dead.world.closed(), 1);
}

/// Serves a script whole with a journal that fails.
fn serve_without(world: &Arc<World>) {
    let script = Script::new();
    let Place {
        _folder,
        listener,
        vmm,
    } = Place::new();
    thread::scope(|scope| {
        let answers = scope.spawn(|| script.drive(vmm, false));
        serve(world, &listener, 0);
        let answers = answers.join().unwrap();
        assert_eq!(answers.len(), script.answers());
        outcome(world, &script, answers);
    });
    assert_eq!(world.closed(), 1);
}

#[test]
fn session_that_can_not_be_kept_is_served_all_the_same() {
    let world = World::new();
    world.refuse_connection();
    serve_without(&world);
    let world = World::new();
    world.refuse_vectors();
    serve_without(&world);
}

#[test]
fn longer_access_than_was_announced_is_refused() {
    let most = (1 << 16) - 32;
    let request = read(1, BAR, 0, 8);
    let length = request.len() as u32;
    let dead = Dead::new(&request);
    dead.recover(Progress::Executing { done: 0, length }, &[], |mut vmm| {
        assert_eq!(answer(vmm), read_answer(1, 0, 8));
        vmm.write_all(&read(2, BAR, 0, most + 1)).unwrap();
        let refused = answer(vmm);
        // An error, and which: EINVAL.
        assert_eq!((refused[8] & 0x20, refused[12]), (0x20, 22));
        vmm.write_all(&read(3, BAR, 0, most)).unwrap();
        assert!(answer(vmm) == read_answer(3, 0, most));
        let long = write(4, 0, BAR, 0, &vec![1; most + 1]);
        vmm.write_all(&long[..16]).unwrap();
        assert_eq!(vmm.read(&mut [0]).unwrap_or(0), 0, "it is the end");
    });
}

#[test]
fn session_that_is_handed_over_has_nothing_received_and_is_noted_by_the_successor() {
    let first = World::new();
    let Place {
        _folder,
        listener,
        vmm,
    } = Place::new();
    let vectors = Vectors::new(8);
    let device = |world: &Arc<World>| Device {
        world: world.clone(),
        vectors: vectors.clone(),
    };
    let server = Server::adopt(listener.into()).unwrap();
    let server = server.with_journal(first.clone());
    let stopper = server.stopper();
    let half = read(2, BAR, 0, 8);
    let handed_over = thread::scope(|scope| {
        scope.spawn(|| {
            let device = device(&first);
            server.serve(&device, &vectors).unwrap();
        });
        let sent = [&read(1, BAR, 0, 8)[..], &half[..20]].concat();
        (&vmm).write_all(&sent).unwrap();
        assert_eq!(answer(&vmm), read_answer(1, 0, 8));
        stopper.hand_over(Duration::from_secs(60)).unwrap()
    });
    assert_eq!(first.closed(), 0, "that is up to whoever hands it over");
    let session: Suspended = handed_over.session.unwrap();
    assert!(session.attached);
    assert_eq!((session.received.len(), session.descriptors.len()), (0, 0));
    let second = World::new();
    let server = Server::adopt(handed_over.listener).unwrap();
    let server = server.with_journal(second.clone());
    second.set_stopper(server.stopper());
    thread::scope(|scope| {
        scope.spawn(move || {
            (&vmm).write_all(&half[20..]).unwrap();
            assert_eq!(answer(&vmm), read_answer(2, 0, 8));
        });
        let device = device(&second);
        server.resume(session, &device, &vectors).unwrap();
    });
    assert_eq!(second.closed(), 1);
    // What was noted of it: the connection, the vectors, that it was used.
    assert!(second.steps() > 10);
}
