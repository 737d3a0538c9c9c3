//! The one place with `unsafe`: what neither the standard library nor rustix offers as a safe call.
//!
//! * a signalfd, so that signals and ends of children are read like any other input;
//! * what happens in a child between fork and exec.

#![expect(unsafe_code, reason = "signalfd, signal masks and pre_exec have no safe form; audited here")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Resource, Rlimit, Signal};

/// The signals that are read from the descriptor of [`take_signals`].
const TAKEN: [i32; 5] = [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];

/// Blocks the signals this program handles, in this thread and in every thread started later, and
/// gives a blocking descriptor to read them from with [`next_signal`].
///
/// # Errors
/// When the system has no room for one more descriptor.
pub fn take_signals() -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the whole set before anything reads it; sigaddset and signal get
    // valid signal numbers; pthread_sigmask reads the set only and the old mask is not asked for.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in TAKEN {
            libc::sigaddset(set.as_mut_ptr(), signal);
            // Whoever started this program may have ignored it; an ignored SIGCHLD would lose exit codes.
            libc::signal(signal, libc::SIG_DFL);
        }
        let set = set.assume_init();
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    };
    // SAFETY: the set is initialised; -1 asks for a new descriptor, which nobody else owns.
    unsafe {
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Waits for the next signal.
///
/// # Errors
/// When the descriptor is none of [`take_signals`].
pub fn next_signal(signals: &OwnedFd) -> io::Result<i32> {
    // The signal number is the first word of `struct signalfd_siginfo`.
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    let read = rustix::io::retry_on_intr(|| rustix::io::read(signals, &mut info))?;
    match info.first_chunk::<4>() {
        Some(number) if read == info.len() => Ok(i32::from_ne_bytes(*number)),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The standard signals (signal(7)).
const SIGNALS: libc::c_int = 31;

/// What a child does before it becomes its program.
#[derive(Debug, Default)]
pub struct Before {
    /// Text for `/proc/self/oom_score_adj`, so that the kernel's out-of-memory killer takes the task
    /// and not the runner.
    pub oom_score_adj: Option<String>,
    /// Signal to get when the parent's thread ends.
    pub death_signal: Option<Signal>,
    /// Limits to set.
    pub limits: Vec<(Resource, Rlimit)>,
}

/// Gives the child a session of its own, an empty signal mask, every signal's default action, and what
/// `before` asks for. A shell that starts an agent in the background ignores SIGINT for it, and what is
/// ignored is inherited: without this no task could be interrupted then.
pub fn prepare(command: &mut Command, before: Before) {
    // SAFETY: between fork and exec only async-signal-safe calls are made: plain system calls without
    // allocation, lock or panic (`signal`, `sigemptyset` and `pthread_sigmask` are on the list of
    // signal-safety(7)); everything they read was made before the fork and lives as long as the command.
    unsafe {
        command.pre_exec(move || {
            for signal in 1..=SIGNALS {
                // SIGKILL and SIGSTOP refuse.
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut set = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigemptyset(set.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, set.as_ptr(), std::ptr::null_mut());
            rustix::process::setsid()?;
            if before.death_signal.is_some() {
                rustix::process::set_parent_process_death_signal(before.death_signal)?;
            }
            if let Some(text) = &before.oom_score_adj {
                let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
                if let Ok(file) =
                    rustix::fs::open(c"/proc/self/oom_score_adj", flags, rustix::fs::Mode::empty())
                {
                    // Best effort: a container may forbid it.
                    let _unwritten = rustix::io::write(&file, text.as_bytes());
                }
            }
            for (resource, limit) in &before.limits {
                rustix::process::setrlimit(*resource, *limit)?;
            }
            Ok(())
        });
    }
}
