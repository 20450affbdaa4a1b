//! Lets a guest end, hang or take over its worker, as a hole in wasmtime would let it. This is only in the program that
//! the tests make fail: what ships has no such interface.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Signal, getppid, kill_process};
use wasmtime::component::{HasSelf, Linker};

use super::instance::State;
use super::{Channel, Connection};
use crate::capabilities::{Effects, Lost, Measured, Publication};
use crate::judge::Fault;
use crate::sandbox::channel::{FromWorker, Loaded, Returned, Verdicts};
use crate::sandbox::print_log::Printed;
use crate::sandbox::{LoadError, World};
use crate::stack_samples::StackSamples;
use sluicegate_verdicts::{Verdict, Violation};

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
                refuses-at-length: func();
                trickles: func();
                returns-many-verdicts: func();
                claims-all-time: func();
                claims-a-lost-transaction: func();
                publishes-ungranted: func();
                sends-samples: func();
                computes-uncalled: func();
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

/// Does what a guest may do that has broken out of wasmtime.
#[derive(Default)]
pub(super) struct Faults;

/// Reports what came of an act at which the walls should have ended the process, and ends it now.
fn escaped<T, E: std::fmt::Debug>(done: Result<T, E>) {
    let done = done.map(|_| "done");
    let _ = writeln!(std::io::stderr(), "the walls let it happen: {done:?}");
    std::process::exit(9)
}

fn write(bytes: &[u8]) {
    let _ = Channel(std::io::stdin()).write_all(bytes);
}

fn send(message: &FromWorker) {
    let _ = Connection::new().send(message);
}

/// Returns an answer with one verdict, as if the call had ended.
fn forged() -> Returned {
    let violation = Violation { path: String::new(), code: "forged".to_owned(), message: String::new() };
    Returned {
        verdicts: Ok(Verdicts(vec![Verdict::Reject(vec![violation])])),
        effects: Effects::default(),
        printed: Printed::default(),
        measured: Box::default(),
    }
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
        let loaded = Loaded { world: World::Pipeline, missing_walls: Vec::new() };
        send(&FromWorker::Loaded(Ok(loaded)));
        self.falls_silent();
    }

    fn refuses_at_length(&mut self) {
        send(&FromWorker::Loaded(Err(LoadError::Imports("long ".repeat(100_000)))));
        self.falls_silent();
    }

    fn trickles(&mut self) {
        write(&[1, 0, 0, 0, 0xff, 0xff, 0, 0]);
        loop {
            write(&[0]);
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn returns_many_verdicts(&mut self) {
        // Each verdict is two bytes in the frame, and more than a hundred in memory. Before them come a header, the
        // variant, its first field, and the number of verdicts, in the encoding of postcard.
        let verdicts = [3, 0].repeat(16 << 20);
        let start = [3, 0, 0x80, 0x80, 0x80, 0x08];
        let length = u32::try_from(start.len() + verdicts.len()).unwrap_or(u32::MAX);
        write(&[1, 0, 0, 0]);
        write(&length.to_le_bytes());
        write(&start);
        write(&verdicts);
        self.falls_silent();
    }

    fn claims_all_time(&mut self) {
        send(&FromWorker::Returned(Returned {
            measured: Box::new(Measured { time: Duration::MAX, ..Measured::default() }),
            ..forged()
        }));
        self.exits();
    }

    fn claims_a_lost_transaction(&mut self) {
        send(&FromWorker::Returned(Returned { verdicts: Err(Fault::Lost(Lost)), ..forged() }));
        self.falls_silent();
    }

    fn publishes_ungranted(&mut self) {
        let publications = vec![Publication { stream: "ungranted".to_owned(), fields: Vec::new() }];
        let effects = Effects { publications, ..Effects::default() };
        send(&FromWorker::Returned(Returned { effects, ..forged() }));
        self.falls_silent();
    }

    fn sends_samples(&mut self) {
        let measured = Measured { samples: vec![StackSamples::default()], ..Measured::default() };
        send(&FromWorker::Returned(Returned { measured: Box::new(measured), ..forged() }));
        self.falls_silent();
    }

    fn computes_uncalled(&mut self) {
        send(&FromWorker::Returned(forged()));
        self.computes();
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
