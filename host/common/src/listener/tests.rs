//! Paths that are taken, and descriptors that are adopted.

use std::os::unix::net::{UnixListener, UnixStream};

use rustix::thread::UnshareFlags;

use super::*;

#[test]
fn file_goes_with_its_listener() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let bound = Listener::bind(&path, Access::default()).unwrap();
    assert_eq!(path.symlink_metadata().unwrap().mode() & 0o777, 0o600);
    UnixStream::connect(&path).unwrap();
    drop(bound);
    assert!(!path.exists());
}

/// Runs in a thread whose umask is its own.
fn with_umask(umask: u32, test: impl FnOnce() + Send) {
    let own = || {
        // The deprecated function is the safe one; what makes its successor unsafe is
        // another flag.
        #[expect(deprecated)]
        rustix::thread::unshare(UnshareFlags::FS).unwrap();
        rustix::process::umask(Mode::from_raw_mode(umask));
        test();
    };
    let outcome = std::thread::scope(|scope| scope.spawn(own).join());
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn access_is_what_was_asked_for_whatever_the_umask() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let own = rustix::process::getegid().as_raw();
    for umask in [0, 0o022, 0o777] {
        for (mode, group) in [(0o600, None), (0o660, Some(own)), (0o666, None), (0, None)] {
            with_umask(umask, || {
                let access = Access { mode, group };
                let bound = Listener::bind(&path, access).unwrap();
                let file = path.symlink_metadata().unwrap();
                let found = (file.mode() & 0o7777, file.gid());
                assert_eq!(found, (mode, group.unwrap_or(own)), "umask {umask:04o}");
                drop(bound);
            });
        }
    }
}

#[test]
fn access_that_cannot_be_given_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mode = 0o1666;
    let refused = Listener::bind(&path, Access { mode, group: None }).unwrap_err();
    assert!(refused.to_string().contains("1666"), "{refused}");
    assert!(!path.exists());
}

#[test]
fn live_socket_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _bound = Listener::bind(&path, Access::default()).unwrap();
    let error = Listener::bind(&path, Access::default()).unwrap_err();
    assert!(matches!(error, BindError::InUse(_)));
    assert!(
        error.to_string().contains(path.to_str().unwrap()),
        "{error}"
    );
    UnixStream::connect(&path).unwrap();
}

#[test]
fn full_backlog_is_no_reason_to_hang() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _bound = Listener::bind(&path, Access::default()).unwrap();
    let address = SocketAddrUnix::new(&path).unwrap();
    let fill = || {
        let socket = stream_socket(SocketFlags::NONBLOCK).unwrap();
        rustix::net::connect(&socket, &address)
            .is_ok()
            .then_some(socket)
    };
    let _waiting: Vec<_> = std::iter::from_fn(fill).take(100).collect();
    assert!(matches!(
        Listener::bind(&path, Access::default()),
        Err(BindError::InUse(_))
    ));
}

#[test]
fn stale_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let _bound = Listener::bind(&path, Access::default()).unwrap();
    UnixStream::connect(&path).unwrap();
}

#[test]
fn other_files_are_never_touched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(
        Listener::bind(&path, Access::default()),
        Err(BindError::NotASocket(_))
    ));
    assert!(matches!(
        Listener::bind(dir.path(), Access::default()),
        Err(BindError::NotASocket(_))
    ));
    let link = dir.path().join("l");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(
        Listener::bind(&link, Access::default()),
        Err(BindError::NotASocket(_))
    ));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");

    let gone = dir.path().join("missing/s");
    assert!(matches!(
        Listener::bind(&gone, Access::default()),
        Err(BindError::NoDirectory(..))
    ));
    let long = dir.path().join("x".repeat(120));
    assert!(matches!(
        Listener::bind(&long, Access::default()),
        Err(BindError::TooLong(_))
    ));
}

#[test]
fn file_that_took_our_place_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let bound = Listener::bind(&path, Access::default()).unwrap();
    std::fs::rename(&path, dir.path().join("moved")).unwrap();
    std::fs::write(&path, "other").unwrap();
    drop(bound);
    assert_eq!(std::fs::read(&path).unwrap(), b"other");
}

#[test]
fn adopted_socket_stays_its_owners() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let theirs = UnixListener::bind(&path).unwrap();
    let adopted = Listener::adopt(theirs.try_clone().unwrap().into()).unwrap();
    assert_eq!((adopted.path(), adopted.address()), (None, Some(&*path)));
    adopted.unlink();
    drop(adopted);
    let _client = UnixStream::connect(&path).unwrap();
    theirs.accept().unwrap();
}

#[test]
fn only_listening_unix_streams_are_adopted() {
    let adopt = |fd: OwnedFd| Listener::adopt(fd).unwrap_err();
    assert_eq!(
        adopt(tempfile::tempfile().unwrap().into()),
        AdoptError::NoSocket
    );
    let (one, _other) = UnixStream::pair().unwrap();
    assert_eq!(adopt(one.into()), AdoptError::NotListening);
    let (one, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
    assert_eq!(adopt(one.into()), AdoptError::OtherKind);
    let inet = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    assert_eq!(adopt(inet), AdoptError::OtherKind);
    let unbound = stream_socket(SocketFlags::empty()).unwrap();
    assert_eq!(adopt(unbound), AdoptError::NotListening);
}
