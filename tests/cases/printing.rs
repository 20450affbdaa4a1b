//! What a guest prints becomes lines of the log, as many as the log can bear and no more harmful than others.

use sluicegate::batch::Digest;
use sluicegate_tests::{Scene, guests};

use crate::misbehaving::{hostile, told};

#[test]
fn a_guest_may_print_as_much_as_it_likes() {
    let scene = Scene::new();
    let service = hostile(&scene).start();
    let prints: Vec<_> = (0..50).map(|_| told("print", &[("count", "1000000")])).collect();
    scene.stream.add_all(&prints);
    scene.until_stored(50);
    scene.stream.until_drained();
    let log = service.stop().log;
    let lines = log.matches("guest printed guest=").count();
    assert!((1..1_000).contains(&lines), "4096 bytes of a batch are 64 lines: {lines} of 780,000");
    assert!(log.contains("guest printed more than is logged"), "{log}");
}

#[test]
fn a_flood_of_lines_is_cut_and_counted() {
    let scene = Scene::new();
    let service = hostile(&scene).set("BATCH_SIZE", 1).set("GUEST_LOG_BYTES", 1 << 20).start();
    let text = "flood\n".repeat(5_000);
    scene.stream.add_all(&(0..20).map(|_| told("say", &[("text", &text)])).collect::<Vec<_>>());
    scene.until_stored(20);
    scene.stream.until_drained();
    let log = service.stop().log;
    let lines = log.matches("line=\"flood\"").count();
    let suppressed: usize = log
        .lines()
        .filter_map(|line| line.split_once("guest printed more than is logged")?.1.split_once(" lines="))
        .filter_map(|(_, rest)| rest.split(' ').next()?.parse::<usize>().ok())
        .sum();
    // println! adds a line to the text.
    let empty = log.matches("line=\"\"").count();
    assert_eq!(lines + empty + suppressed, 20 * 2 * 5_001, "every line is logged or counted");
    assert!(lines < 20_000, "{lines} lines");
}

#[test]
fn a_line_says_whose_it_is_and_cannot_forge_another() {
    let scene = Scene::new();
    let service = hostile(&scene).start();
    let text = "first\nWARN \x1b[2J forged tenant=other\u{202e}\r";
    scene.stream.add(&told("say", &[("text", text)]));
    scene.until_stored(1);
    let guest = format!("guest={}", Digest::of(&std::fs::read(guests::hostile()).unwrap()));
    service.until_logged(&["INFO", "guest printed guest=", "line=\"first\"", &guest]);
    service.until_logged(&["WARN", "guest printed to standard error", "line=\"first\"", &guest]);
    let line = service.until_logged(&["INFO", "forged"]);
    assert!(line.contains("line=\"WARN ") && line.contains(&guest), "{line}");
    let log = service.stop().log;
    assert!(!log.contains(['\x1b', '\r', '\u{202e}']), "control characters are escaped: {log:?}");

    let silent = hostile(&scene).set("GUEST_LOG_BYTES", 0).start();
    scene.stream.add(&told("say", &[("text", "hush")]));
    scene.until_stored(2);
    let log = silent.stop().log;
    assert!(!log.contains("hush"), "{log}");
}
