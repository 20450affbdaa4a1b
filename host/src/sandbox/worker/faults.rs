//! Ways for a guest to end, hang or take over its worker, as a hole in wasmtime would let it. Only in the program that
//! the tests make fail: what ships has no such interface.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;

use rustix::process::{Signal, getppid, kill_process};
use wasmtime::component::{HasSelf, Linker};

use super::instance::State;
use super::{Channel, Connection};

use bindings::sluicegate::test::faults;

mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package sluicegate:test@0.1.0;
            interface faults {
                aborts: func();
                exits: func();
                exhausts-memory: func();
                falls-silent: func();
                computes: func();
                writes-nonsense: func();
                writes-a-long-frame: func();
                answers-another-question: func();
                reads-a-file: func();
                writes-a-file: func();
                connects: func();
                listens: func();
                starts-a-program: func();
                starts-a-thread: func();
                becomes-a-program: func();
                kills-the-service: func();
            }
            world hole { import faults; }
        ",
        world: "hole",
    });
}

pub(super) const INTERFACE: &str = "sluicegate:test/faults@0.1.0";

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    faults::add_to_linker::<_, HasSelf<_>>(linker, |state: &mut State| &mut state.faults)
}

/// What a guest does that has broken out of wasmtime.
#[derive(Default)]
pub(super) struct Faults;

/// What could not be done is a defect of the test, unless the walls have ended the process.
fn escaped<T, E: std::fmt::Debug>(done: Result<T, E>) {
    let done = done.map(|_| "done");
    let _ = writeln!(std::io::stderr(), "the walls let it happen: {done:?}");
    std::process::exit(9)
}

fn write(bytes: &[u8]) {
    let _ = Channel(std::io::stdin()).write_all(bytes);
}

impl faults::Host for Faults {
    fn aborts(&mut self) {
        let _ = writeln!(std::io::stderr(), "these are the last words");
        std::process::abort()
    }

    fn exits(&mut self) {
        std::process::exit(3)
    }

    fn exhausts_memory(&mut self) {
        let mut all = Vec::new();
        loop {
            all.push(vec![1_u8; 16 << 20]);
        }
    }

    fn falls_silent(&mut self) {
        loop {
            thread::park();
        }
    }

    fn computes(&mut self) {
        loop {
            std::hint::spin_loop();
        }
    }

    fn writes_nonsense(&mut self) {
        write(&[0xff, 0, 0, 0, 0, 0, 0, 0]);
        self.falls_silent();
    }

    fn writes_a_long_frame(&mut self) {
        write(&[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        self.falls_silent();
    }

    fn answers_another_question(&mut self) {
        let loaded = super::Loaded { imports_capabilities: true, missing_walls: Vec::new() };
        let _ = Connection::new().send(&super::FromWorker::Loaded(Ok(loaded)));
        self.falls_silent();
    }

    fn reads_a_file(&mut self) {
        escaped(fs::read("/proc/self/environ"))
    }

    fn writes_a_file(&mut self) {
        escaped(fs::write("/tmp/sluicegate-escaped", "escaped"))
    }

    fn connects(&mut self) {
        escaped(TcpStream::connect("127.0.0.1:6379"))
    }

    fn listens(&mut self) {
        escaped(TcpListener::bind("127.0.0.1:0"))
    }

    fn starts_a_program(&mut self) {
        escaped(Command::new("/bin/true").spawn())
    }

    fn starts_a_thread(&mut self) {
        escaped(thread::Builder::new().spawn(|| {}))
    }

    fn becomes_a_program(&mut self) {
        escaped(Err::<(), _>(Command::new("/bin/true").exec()))
    }

    fn kills_the_service(&mut self) {
        escaped(getppid().map_or(Ok(()), |parent| kill_process(parent, Signal::KILL)))
    }
}
