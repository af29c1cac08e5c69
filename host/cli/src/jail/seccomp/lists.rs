//! The lists of system calls.

use libc::c_long;

use super::allow::{Allow, List, Role};
use Allow::{Any, Bits, Own, Value};

const WRITE: u64 = libc::PROT_WRITE as u64;
const EXEC: u64 = libc::PROT_EXEC as u64;
const NEVER_BOTH: &[Allow] = &[Bits(2, WRITE, 0), Bits(2, EXEC, 0)];
/// The flags for a thread, not a process or a namespace.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM) as u64;
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;
const NO_PATH: u64 = libc::AT_EMPTY_PATH as u64;

/// Returns the lists whose union a role may call.
pub fn of(role: Role) -> &'static [List] {
    match role {
        Role::Server => &[COMMON, CODE, SERVER],
        Role::Broker => &[COMMON, CODE, CHECK, BROKER, PROGRAM],
        Role::Compile => &[COMMON, DATA],
        Role::Check => &[COMMON, CODE, CHECK],
    }
}

/// The calls of every process: memory, threads, clocks and open files.
const COMMON: List = &[
    // Open files. No paths: calls that may take one are restricted to descriptors.
    (libc::SYS_read, &[Any]),
    (libc::SYS_write, &[Any]),
    (libc::SYS_readv, &[Any]),
    (libc::SYS_writev, &[Any]),
    (libc::SYS_pread64, &[Any]),
    (libc::SYS_pwrite64, &[Any]),
    (libc::SYS_lseek, &[Any]),
    (libc::SYS_close, &[Any]),
    (libc::SYS_fstat, &[Any]),
    (libc::SYS_statx, &[Bits(2, NO_PATH, NO_PATH)]),
    (libc::SYS_newfstatat, &[Bits(3, NO_PATH, NO_PATH)]),
    (libc::SYS_ppoll, &[Any]),
    (
        libc::SYS_fcntl,
        &[
            Value(1, libc::F_DUPFD_CLOEXEC as u32),
            Value(1, libc::F_GETFD as u32),
            Value(1, libc::F_SETFD as u32),
            Value(1, libc::F_GETFL as u32),
            Value(1, libc::F_SETFL as u32),
            Value(1, libc::F_GET_SEALS as u32),
            Value(1, libc::F_ADD_SEALS as u32),
        ],
    ),
    // Memory; `mmap` and `mprotect` are in the next lists.
    (libc::SYS_munmap, &[Any]),
    (libc::SYS_mremap, &[Any]),
    (libc::SYS_madvise, &[Any]),
    (libc::SYS_brk, &[Any]),
    (libc::SYS_membarrier, &[Any]),
    // Threads.
    (libc::SYS_clone, &[Bits(0, THREAD | NAMESPACES, THREAD)]),
    // Another filter makes it fail with ENOSYS.
    (libc::SYS_clone3, &[Any]),
    (libc::SYS_futex, &[Any]),
    (libc::SYS_set_robust_list, &[Any]),
    (libc::SYS_rseq, &[Any]),
    (libc::SYS_gettid, &[Any]),
    (libc::SYS_sched_yield, &[Any]),
    (libc::SYS_sched_getaffinity, &[Any]),
    (libc::SYS_prctl, &[Value(0, libc::PR_SET_NAME as u32)]),
    (libc::SYS_exit, &[Any]),
    (libc::SYS_exit_group, &[Any]),
    // Signals: to this process only, as when it aborts.
    (libc::SYS_rt_sigaction, &[Any]),
    (libc::SYS_rt_sigprocmask, &[Any]),
    (libc::SYS_rt_sigreturn, &[Any]),
    (libc::SYS_sigaltstack, &[Any]),
    (libc::SYS_tgkill, &[Own(0)]),
    (libc::SYS_restart_syscall, &[Any]),
    // Time and randomness.
    (libc::SYS_clock_gettime, &[Any]),
    (libc::SYS_clock_getres, &[Any]),
    (libc::SYS_gettimeofday, &[Any]),
    (libc::SYS_nanosleep, &[Any]),
    (libc::SYS_clock_nanosleep, &[Any]),
    (libc::SYS_getrandom, &[Any]),
    // Identity and limits, which are read, not set.
    (libc::SYS_getpid, &[Any]),
    (libc::SYS_getuid, &[Any]),
    (libc::SYS_geteuid, &[Any]),
    (libc::SYS_getgid, &[Any]),
    (libc::SYS_getegid, &[Any]),
    (libc::SYS_uname, &[Any]),
    (libc::SYS_sysinfo, &[Any]),
    (libc::SYS_prlimit64, &[Bits(2, u64::MAX, 0)]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, &[Any]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_getrlimit, &[Any]),
];

/// Memory that is never executable.
const DATA: List = &[
    (libc::SYS_mmap, &[Bits(2, EXEC, 0)]),
    (libc::SYS_mprotect, &[Bits(2, EXEC, 0)]),
];

/// Memory that is mapped as data, and may become code when it is no longer writable: wasmtime
/// loads a component like this.
const CODE: List = &[
    (libc::SYS_mmap, &[Bits(2, EXEC, 0)]),
    (libc::SYS_mprotect, NEVER_BOTH),
];

/// The calls of serving a device. No socket is created; connections are accepted.
const SERVER: List = &[
    (libc::SYS_recvmsg, &[Any]),
    (libc::SYS_recvfrom, &[Any]),
    (libc::SYS_sendmsg, &[Any]),
    // Without an address: to the connected peer.
    (libc::SYS_sendto, &[Bits(4, u64::MAX, 0)]),
    (libc::SYS_accept4, &[Any]),
    (libc::SYS_shutdown, &[Any]),
    (libc::SYS_getsockopt, &[Any]),
    (libc::SYS_epoll_create1, &[Any]),
    (libc::SYS_epoll_ctl, &[Any]),
    (libc::SYS_epoll_pwait, &[Any]),
    (libc::SYS_epoll_pwait2, &[Any]),
    (libc::SYS_eventfd2, &[Any]),
    (libc::SYS_memfd_create, &[Any]),
    (libc::SYS_ftruncate, &[Any]),
    (libc::SYS_fstatfs, &[Any]),
    // The rings were created and restricted before.
    (libc::SYS_io_uring_enter, &[Any]),
    (
        libc::SYS_ioctl,
        &[
            Value(1, libc::FIONBIO as u32),
            Value(1, libc::FIONREAD as u32),
            Value(1, libc::TCGETS as u32),
        ],
    ),
    // Interrupts: eventfds are signalled by asynchronous I/O, which can do no more to
    // open files than `read` and `write`.
    (libc::SYS_pipe2, &[Any]),
    // Answers to a VMM, from a pipe that outlives the process.
    (libc::SYS_splice, &[Any]),
    (libc::SYS_setsockopt, &[Value(2, libc::SO_PEEK_OFF as u32)]),
    (
        libc::SYS_fcntl,
        &[
            Value(1, libc::F_SETPIPE_SZ as u32),
            Value(1, libc::F_GETPIPE_SZ as u32),
        ],
    ),
    (libc::SYS_io_setup, &[Any]),
    (libc::SYS_io_submit, &[Any]),
    (libc::SYS_io_getevents, &[Any]),
    (libc::SYS_io_destroy, &[Any]),
    // The broker.
    (libc::SYS_wait4, &[Any]),
    (libc::SYS_waitid, &[Any]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, &[Any]),
];

/// The additional calls of the conformance suite's runtime.
const CHECK: List = &[
    (libc::SYS_epoll_create1, &[Any]),
    (libc::SYS_epoll_ctl, &[Any]),
    (libc::SYS_epoll_pwait, &[Any]),
    (libc::SYS_eventfd2, &[Any]),
    // The initial contents of linear memories.
    (libc::SYS_memfd_create, &[Any]),
    (libc::SYS_ftruncate, &[Any]),
    // A pair of sockets, connected only to each other.
    (libc::SYS_socketpair, &[Value(0, libc::AF_UNIX as u32)]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, &[Any]),
];

/// The calls of the broker itself.
const BROKER: List = &[
    (libc::SYS_recvmsg, &[Any]),
    (libc::SYS_sendmsg, &[Any]),
    (libc::SYS_memfd_create, &[Any]),
    (libc::SYS_ftruncate, &[Any]),
    // To the peers of streams, on this machine.
    (libc::SYS_socket, &[Value(0, libc::AF_UNIX as u32)]),
    (libc::SYS_connect, &[Any]),
    // In folders that landlock allows.
    (libc::SYS_unlinkat, &[Value(2, 0)]),
    (libc::SYS_statx, &[Any]),
    (libc::SYS_newfstatat, &[Any]),
    // A process without new namespaces.
    (libc::SYS_clone, &[Bits(0, NAMESPACES, 0)]),
    (libc::SYS_execve, &[Any]),
    (libc::SYS_dup3, &[Any]),
    (libc::SYS_pipe2, &[Any]),
    (libc::SYS_wait4, &[Any]),
    (libc::SYS_waitid, &[Any]),
    (libc::SYS_pidfd_open, &[Any]),
    (libc::SYS_pidfd_send_signal, &[Any]),
    (libc::SYS_kill, &[Value(1, libc::SIGKILL as u32)]),
];

/// The calls of a child from its start until it has its own jail.
const PROGRAM: List = &[
    // The loader maps libraries: landlock allows no others.
    (libc::SYS_mmap, NEVER_BOTH),
    (
        libc::SYS_openat,
        &[Bits(2, (libc::O_ACCMODE | libc::O_CREAT) as u64, 0)],
    ),
    (libc::SYS_faccessat, &[Any]),
    (libc::SYS_faccessat2, &[Any]),
    (libc::SYS_readlinkat, &[Any]),
    (libc::SYS_getdents64, &[Any]),
    (libc::SYS_set_tid_address, &[Any]),
    (libc::SYS_getppid, &[Any]),
    (libc::SYS_getgroups, &[Any]),
    // The jail.
    (libc::SYS_prctl, &[Any]),
    (libc::SYS_prlimit64, &[Any]),
    (libc::SYS_setpriority, &[Any]),
    (libc::SYS_sched_setscheduler, &[Any]),
    (libc::SYS_capget, &[Any]),
    (libc::SYS_capset, &[Any]),
    (libc::SYS_landlock_create_ruleset, &[Any]),
    (libc::SYS_landlock_restrict_self, &[Any]),
    (libc::SYS_seccomp, &[Any]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_arch_prctl, &[Any]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_access, &[Any]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_readlink, &[Any]),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_dup2, &[Any]),
];

/// Calls that this program never makes, but an attacker in it would.
pub const DEADLY: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_open_by_handle_at,
];

/// [`DEADLY`], and executing programs.
pub const DEADLY_AND_EXECUTION: &[c_long] = &{
    let mut all = [0; DEADLY.len() + 2];
    let mut index = 0;
    while index < DEADLY.len() {
        all[index] = DEADLY[index];
        index += 1;
    }
    all[index] = libc::SYS_execve;
    all[index + 1] = libc::SYS_execveat;
    all
};
