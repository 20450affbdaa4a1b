//! Tests the files of components: they are read when they change, one after the other, reported
//! once, and tried again when there is a reason.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Signal, kill_process};
use sluicegate::batch::Digest;
use sluicegate_tests::{Fault, Proxy, Scene, Service, Tenants, guests, until};

/// Starts a service with a file of its own for the rules, which begins as the default rules.
fn started(scene: &Scene) -> (Service, PathBuf) {
    let file = scene.folder().join("guest.wasm");
    fs::write(&file, guests::DEFAULT).unwrap();
    (scene.service().set("GUEST", file.display()).start(), file)
}

/// Replaces the file at once, as `mv` does.
fn put(file: &Path, component: &[u8]) {
    let new = file.with_extension("new");
    fs::write(&new, component).unwrap();
    fs::rename(&new, file).unwrap();
}

/// Counts the lines with all of these parts.
fn count(log: &str, parts: &[&str]) -> usize {
    log.lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

fn until_counted(service: &Service, wanted: usize, parts: &[&str]) {
    until(&format!("{wanted} lines with {parts:?}"), || match count(&service.log(), parts) {
        found if found == wanted => Ok(()),
        found => Err(format!("{found} lines")),
    });
}

/// What was loaded is not in the file any more when the database is there to be told of it.
#[test]
fn a_file_that_is_replaced_while_a_start_waits_is_loaded_again() {
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.database.url());
    proxy.set(Fault::Cut);
    let file = scene.folder().join("guest.wasm");
    fs::write(&file, guests::DEFAULT).unwrap();
    let launch = scene.service().set("POSTGRES_URL", proxy.url(&scene.database.url()));
    let service = launch.set("GUEST", file.display()).start_unready();
    service.until_logged(&["waiting for postgres at"]);
    put(&file, guests::STRICT);
    proxy.set(Fault::None);
    let strict = Digest::new(guests::STRICT).to_string();
    service.until_logged(&["guest loaded", &strict]);
    service.until_logged(&["running"]);
    let log = service.stop().log;
    assert_eq!(count(&log, &["ERROR"]), 0, "{log}");
}

const REFUSED: &str = "new guest refused; the old one goes on";

#[test]
fn a_change_in_a_folder_has_no_file_read_that_did_not_change() {
    const MIB: usize = 1 << 20;
    let names: Vec<String> = (0..24).map(|i| format!("t{i}")).collect();
    let folder = tempfile::tempdir().unwrap();
    // One file of 48 MiB has many names. A custom section of zeros changes nothing of the rules.
    let file = folder.path().join("rules.wasm");
    fs::write(&file, guests::padded(guests::DEFAULT, 48 * MIB)).unwrap();
    let settings = |name: &String| {
        let link = folder.path().join(format!("{name}.wasm"));
        symlink(&file, &link).unwrap();
        format!("guest = {:?}", link.display().to_string())
    };
    let settings: Vec<String> = names.iter().map(settings).collect();
    let tenants: Vec<(&str, &str)> =
        names.iter().zip(&settings).map(|(name, settings)| (name.as_str(), settings.as_str())).collect();
    let tenants = Tenants::new(&tenants);
    let service = tenants.start(&tenants_names(&names));
    fs::write(folder.path().join("another"), b"").unwrap();
    // All have looked when the one that was told last has: its own file is another one now.
    let own = folder.path().join("t0.wasm");
    put(&own, guests::STRICT);
    service.until_logged(&["new guest loaded", &format!(" component={}", Digest::new(guests::STRICT))]);
    let peak = service.memory_peak_bytes();
    assert!(peak < u64::try_from(200 * MIB).unwrap(), "{} MiB", peak >> 20);
    service.stop();
}

fn tenants_names(names: &[String]) -> Vec<&str> {
    names.iter().map(String::as_str).collect()
}

#[test]
fn a_refused_version_is_told_once_and_tried_again_after_a_touch() {
    let scene = Scene::new();
    let (service, file) = started(&scene);
    put(&file, b"no rules");
    service.until_logged(&[REFUSED]);
    // Something else in the folder is no reason to look again.
    put(&file.with_file_name("other"), b"");
    fs::File::open(&file).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    until_counted(&service, 2, &[REFUSED]);
    put(&file, b"no rules");
    until_counted(&service, 3, &[REFUSED]);
    put(&file, guests::STRICT);
    service.until_logged(&["new guest loaded"]);
    service.stop();
}

#[test]
fn a_file_that_is_gone_is_told_and_so_is_its_return() {
    let scene = Scene::new();
    let (service, file) = started(&scene);
    fs::remove_file(&file).unwrap();
    service.until_logged(&["WARN", "the guest's file is gone; the version in force goes on"]);
    put(&file, guests::DEFAULT);
    service.until_logged(&["INFO", "the guest's file is there again"]);
    let log = service.stop().log;
    assert_eq!(count(&log, &["the guest's file is gone"]), 1, "{log}");
    assert_eq!(count(&log, &["new guest loaded"]), 0, "the same version\n{log}");
}

#[test]
fn a_slow_copy_is_waited_for() {
    let scene = Scene::new();
    let (service, file) = started(&scene);
    let mut copy = fs::File::create(&file).unwrap();
    for part in guests::STRICT.chunks(guests::STRICT.len() / 8) {
        copy.write_all(part).unwrap();
        sleep(Duration::from_millis(500)); // what is simulated: longer than a folder must be quiet
    }
    service.until_logged(&["new guest loaded", &format!(" component={}", Digest::new(guests::STRICT))]);
    let log = service.stop().log;
    assert_eq!(count(&log, &["ERROR"]), 0, "{log}");
}

/// Rules that compile for long wait in a queue of their own.
#[test]
fn tenants_whose_rules_compile_for_long_hold_up_no_swap_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let (slow, file) = (folder.path().join("slow.wasm"), folder.path().join("guest.wasm"));
    let sum = "local.get 0 i32.const 1 i32.add local.set 0 ".repeat(40_000);
    let functions = format!("(func (local i32) {sum})").repeat(80);
    let component = guests::handmade_of(&format!("{functions} (func $provoked (param i32))"));
    fs::write(&slow, &component).unwrap();
    fs::write(&file, guests::DEFAULT).unwrap();
    // Compiled code depends on this setting, so each tenant compiles it for itself.
    let slow = |stack: u32| format!("guest = {:?}\nguest_stack = \"{stack}B\"", slow.display().to_string());
    let tenants = Tenants::new(&[
        ("one", &slow(300_000)),
        ("two", &slow(400_000)),
        ("three", &slow(500_000)),
        ("quick", &format!("guest = {:?}", file.display().to_string())),
    ]);
    let service = tenants.start(&["quick"]);
    service.until_compiler_works();
    put(&file, guests::STRICT);
    service.until_logged(&["new guest loaded", &format!(" component={}", Digest::new(guests::STRICT))]);
    let log = service.log();
    let is_loaded = |name: &str| count(&log, &["guest loaded", &format!("tenant={name}}}")]) > 0;
    assert!(!["one", "two", "three"].into_iter().any(is_loaded), "it waited for one of the others:\n{log}");
    service.stop();
}

/// A touch has the version tried again. Where memory is short, the kernel would choose it, too.
#[test]
fn a_compiler_that_is_killed_refuses_nothing_for_good() {
    let scene = Scene::new();
    let (service, file) = started(&scene);
    let sum = "local.get 0 i32.const 1 i32.add local.set 0 ".repeat(400_000);
    let slow = guests::handmade_of(&format!("(func (local i32) {sum}) (func $provoked (param i32))"));
    put(&file, &slow);
    let compiler = service.until_compiler_works();
    let score = format!("/proc/{}/oom_score_adj", compiler.as_raw_nonzero());
    until("the compiler to be the kernel's first victim", || {
        match fs::read_to_string(&score).unwrap().trim() {
            "1000" => Ok(()),
            found => Err(found.to_owned()),
        }
    });
    kill_process(compiler, Signal::KILL).unwrap();
    service.until_logged(&[REFUSED, "the process that compiles was killed", "again_in_s=60"]);
    fs::File::open(&file).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    service.until_logged(&["new guest loaded", &format!(" component={}", Digest::new(&slow))]);
    service.stop();
}
