//! Tests that the rules change while events flow, and that bad rules do not come into force.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use sluicegate::batch::Digest;
use sluicegate_tests::{Event, Metrics, Producer, Scene, Sent, Service, guests, until};
use uuid::Uuid;

/// Makes a folder in the scene with a component in it.
fn guest_file(scene: &Scene, component: &[u8]) -> PathBuf {
    let folder = scene.folder().join("rules");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("guest.wasm");
    fs::write(&file, component).unwrap();
    file
}

/// Replaces the file as `mv` and most editors do.
fn replace_by_rename(file: &Path, component: &[u8]) {
    let other = file.with_extension("new");
    fs::write(&other, component).unwrap();
    fs::rename(&other, file).unwrap();
}

/// Replaces the file as `cp` over a slow network does.
fn replace_in_place(file: &Path, component: &[u8]) {
    let mut file = fs::File::create(file).unwrap();
    for part in component.chunks(component.len() / 5) {
        file.write_all(part).unwrap();
        file.sync_all().unwrap();
        sleep(Duration::from_millis(40)); // part of what is simulated
    }
}

/// Makes events that both versions store, and events that only the default rules store.
fn mixed_events() -> impl FnMut() -> Event {
    let mut types = ["page_view", "heartbeat", "purchase"].into_iter().cycle();
    move || Event::of_type(types.next().unwrap())
}

fn until_swapped(service: &Service, from: &[u8], to: &[u8]) {
    let (from, to) = (Digest::new(from), Digest::new(to));
    service.until_logged(&["rules swapped", &format!("from_component={from}"), &format!(" component={to}")]);
}

/// Checks that each entry ended once, and by the rules that were in force when its turn came.
fn check_one_swap(
    scene: &Scene,
    sent: &[Sent],
    log: &str,
    sent_before_swap: usize,
    sent_after_swap: &HashSet<Uuid>,
) {
    let stored: HashSet<Uuid> = scene.database.events().iter().map(|event| event.event_id).collect();
    let letters = scene.database.letters();
    let rejected: HashSet<&str> = letters.iter().map(|letter| letter.entry_id.as_str()).collect();
    assert_eq!(rejected.len(), letters.len(), "no entry has two letters");
    for letter in &letters {
        assert_eq!((letter.reason.as_str(), letter.codes()), ("rejected", vec!["missing"]));
        assert_eq!(letter.component, Digest::new(guests::STRICT).as_bytes(), "the version that rejected it");
    }

    let mut strict_since = None;
    let mut discarded = 0;
    for (i, Sent { id, event }) in sent.iter().enumerate() {
        let is_stored = stored.contains(&event.event_id);
        let is_rejected = rejected.contains(id.as_str());
        assert!(!(is_stored && is_rejected), "{id} ended in two ways");
        if event.event_type == "page_view" {
            assert!(is_stored, "{id}, which is in order for both versions");
            continue;
        }
        if is_stored {
            assert_eq!(strict_since, None, "{id} was judged by the old version after the new one");
            assert!(
                !sent_after_swap.contains(&event.event_id),
                "{id} was judged by the old version after the swap"
            );
        } else {
            assert!(i >= sent_before_swap, "{id} was judged by the new version before it was there");
            strict_since = strict_since.or(Some(id));
            assert_eq!(is_rejected, event.event_type == "purchase", "{id}, a {}", event.event_type);
            discarded += u64::from(event.event_type == "heartbeat");
        }
    }
    assert!(strict_since.is_some(), "the new rules were applied");
    assert_eq!(stored.len() + rejected.len() + usize::try_from(discarded).unwrap(), sent.len());
    let tally = Metrics::last(log).expect("a metrics line").tally();
    let [stored, rejected] = [stored.len(), rejected.len()].map(|count| u64::try_from(count).unwrap());
    assert_eq!(tally, [stored, 0, rejected, discarded, 0]);
    assert!(!log.contains(" breaches="), "no batch fails for a swap");
    assert!(!log.contains("trying again"), "no batch waits for a swap");
}

fn swap_under_load(replace: fn(&Path, &[u8])) {
    let scene = Scene::new();
    let file = guest_file(&scene, guests::DEFAULT);
    let service = scene.service().set("GUEST", file.display()).set("BATCH_SIZE", 20).start();
    let producer = Producer::start(&scene.stream, mixed_events());
    producer.until_sent(300);
    let sent_before_swap = producer.count();
    replace(&file, guests::STRICT);
    until_swapped(&service, guests::DEFAULT, guests::STRICT);
    let after = producer.count() + 10; // a portion may be on its way
    producer.until_sent(300);
    let sent = producer.stop();
    scene.stream.until_drained();

    let after_swap = sent.iter().skip(after).map(|sent| sent.event.event_id).collect();
    check_one_swap(&scene, &sent, &service.stop().log, sent_before_swap, &after_swap);
}

#[test]
fn a_renamed_file_is_swapped_in_under_load() {
    swap_under_load(replace_by_rename);
}

#[test]
fn a_file_copied_in_place_is_swapped_in_under_load() {
    swap_under_load(replace_in_place);
}

/// Waits until the rules `to` are loaded, and sends an event that brings them into force.
fn send_until_swapped(scene: &Scene, service: &Service, from: &[u8], to: &[u8]) {
    let (from, to) = (Digest::new(from), Digest::new(to));
    service.until_logged(&[
        "new guest loaded",
        &format!("from_component={from}"),
        &format!(" component={to}"),
    ]);
    scene.stream.add(&Event::new().data());
    service.until_logged(&["rules swapped", &format!(" component={to}")]);
}

/// Kubernetes mounts `guest.wasm -> ..data/guest.wasm`, `..data -> ..2026_01`, and
/// renames another link over `..data`.
#[test]
fn a_config_map_is_swapped_in() {
    let scene = Scene::new();
    let mount = scene.folder().join("mount");
    let version = |name: &str, component: &[u8]| {
        fs::create_dir_all(mount.join(name)).unwrap();
        fs::write(mount.join(name).join("guest.wasm"), component).unwrap();
    };
    version("..2026_01", guests::DEFAULT);
    symlink("..2026_01", mount.join("..data")).unwrap();
    symlink("..data/guest.wasm", mount.join("guest.wasm")).unwrap();
    let service = scene.service().set("GUEST", mount.join("guest.wasm").display()).start();

    version("..2026_02", guests::STRICT);
    symlink("..2026_02", mount.join("..data_tmp")).unwrap();
    fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    fs::remove_dir_all(mount.join("..2026_01")).unwrap();
    send_until_swapped(&scene, &service, guests::DEFAULT, guests::STRICT);
}

/// No event of the watched folder tells of the swap: only looking from time to time finds it.
#[test]
fn a_link_to_another_folder_is_swapped_in() {
    let scene = Scene::new();
    let folder = scene.folder().join("releases");
    for (name, component) in [("1", guests::DEFAULT), ("2", guests::STRICT)] {
        fs::create_dir_all(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("guest.wasm"), component).unwrap();
    }
    let link = scene.folder().join("current");
    symlink(folder.join("1"), &link).unwrap();
    let service = scene.service().set("GUEST", link.join("guest.wasm").display()).start();
    symlink(folder.join("2"), scene.folder().join("next")).unwrap();
    fs::rename(scene.folder().join("next"), &link).unwrap();
    send_until_swapped(&scene, &service, guests::DEFAULT, guests::STRICT);
}

#[test]
fn a_component_that_cannot_be_used_is_refused_and_the_old_one_goes_on() {
    let scene = Scene::new();
    let file = guest_file(&scene, guests::DEFAULT);
    let service = scene.service().set("GUEST", file.display()).start();
    let too_large = vec![0; (64 << 20) + 1];
    let half = &guests::STRICT[..guests::STRICT.len() / 2];
    let refusals: [(&[u8], &str); 7] = [
        (b"rules: none", "no WebAssembly component: found `rules: n`"),
        (b"", "no WebAssembly component"),
        (half, "it does not compile: "),
        (guests::CORE_MODULE, "a core module, not a component"),
        (&guests::command(), "of no world of `sluicegate:guest@0.1.0`: "),
        (&guests::handmade("greedy"), "imports that are not granted: "),
        (&too_large, "more than 67108864 bytes (GUEST_COMPONENT)"),
    ];
    let mut count = 0;
    for (component, reason) in refusals {
        replace_by_rename(&file, component);
        let digest = format!("guest={}", Digest::new(component));
        service.until_logged(&["new guest refused; the old one goes on", &digest, reason]);
        count += 1;
        scene.stream.add(&Event::of_type("heartbeat").data());
        scene.until_stored(count); // by the default rules
    }
    service.until_logged(&["sluicegate:test/secrets"]);
    assert!(!service.log().contains("rules swapped"));

    replace_by_rename(&file, guests::STRICT);
    send_until_swapped(&scene, &service, guests::DEFAULT, guests::STRICT);
}

#[test]
fn the_file_may_be_away_for_a_while() {
    let scene = Scene::new();
    let file = guest_file(&scene, guests::DEFAULT);
    let service = scene.service().set("GUEST", file.display()).start();
    fs::remove_file(&file).unwrap();
    scene.stream.add(&Event::new().data());
    scene.until_stored(1);
    fs::write(&file, guests::STRICT).unwrap();
    send_until_swapped(&scene, &service, guests::DEFAULT, guests::STRICT);
}

/// Nobody would ever write into the pipe, and the watch must not wait for that.
#[test]
fn a_pipe_in_the_place_of_the_file_is_told_and_ends_no_watch() {
    let scene = Scene::new();
    let file = guest_file(&scene, guests::DEFAULT);
    let service = scene.service().set("GUEST", file.display()).start();
    let pipe = file.with_extension("new");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    fs::rename(&pipe, &file).unwrap();
    service.until_logged(&[
        "the guest cannot be read; the old one goes on",
        "found a pipe; wanted a regular file",
    ]);
    replace_by_rename(&file, guests::STRICT);
    send_until_swapped(&scene, &service, guests::DEFAULT, guests::STRICT);
    service.stop();
}

/// Another tenant's component is replaced again and again, in the same folder.
#[test]
fn a_folder_that_never_rests_holds_up_no_swap() {
    let scene = Scene::new();
    let file = guest_file(&scene, guests::DEFAULT);
    let service = scene.service().set("GUEST", file.display()).start();
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                replace_by_rename(&file.with_file_name("other.wasm"), guests::STRICT);
                sleep(Duration::from_millis(20)); // what is simulated
            }
        });
        replace_by_rename(&file, guests::STRICT);
        service.until_logged(&["new guest loaded", &format!(" component={}", Digest::new(guests::STRICT))]);
        ended.store(true, Ordering::Relaxed);
    });
    service.stop();
}

#[test]
fn many_swaps_in_a_row_lose_nothing() {
    let scene = Scene::new();
    let file = guest_file(&scene, guests::DEFAULT);
    let service = scene.service().set("GUEST", file.display()).start();
    let producer = Producer::start(&scene.stream, Event::new);
    let mut last = guests::DEFAULT.to_vec();
    for label in 0..5 {
        let next = guests::relabelled(guests::DEFAULT, label);
        replace_by_rename(&file, &next);
        until_swapped(&service, &last, &next);
        last = next;
    }
    let sent = producer.stop();
    scene.stream.until_drained();
    let metrics = service.stop().metrics();
    assert_eq!(metrics.get("stored"), u64::try_from(sent.len()).unwrap());
    assert_eq!(metrics.get("processed"), metrics.get("stored"));
    until("every event in the table once", || match scene.database.events().len() {
        found if found == sent.len() => Ok(()),
        found => Err(format!("{found} of {}", sent.len())),
    });
}
