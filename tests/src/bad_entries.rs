//! Sends bad entries between good ones, and returns what becomes of each.

use std::collections::BTreeMap;
use std::fs;

use crate::database::Letter;
use crate::events::{Event, Fields};
use crate::guests;
use crate::scene::Scene;
use crate::service::{Ended, Launch};

/// Returns the names of the files in a folder of guests that end so, sorted and without the end.
pub fn files_of(folder: &str, end: &str) -> Vec<String> {
    let folder = format!("{}/guests/{folder}", env!("CARGO_MANIFEST_DIR"));
    let names = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let mut found: Vec<String> = names.filter_map(|name| Some(name.strip_suffix(end)?.to_owned())).collect();
    found.sort();
    found
}

/// Sets a hostile guest, with time enough for whatever ends by itself, on a busy machine too.
pub fn hostile(scene: &Scene, name: &str) -> Launch {
    scene.service().set("GUEST", guests::hostile(name).display()).set("GUEST_TIME_LIMIT", "20s")
}

/// Sends the bad entries, each between good ones, in one batch. Returns their dead letters in the
/// order of the entries. Everything else must be stored.
pub fn letters_of(scene: &Scene, launch: Launch, bad: &[Fields]) -> (Vec<Letter>, Ended) {
    let mut good = vec![Event::new()];
    let mut entries = vec![good[0].data()];
    for bad in bad {
        let event = Event::new();
        entries.extend([bad.clone(), event.data()]);
        good.push(event);
    }
    let ids = scene.stream.add_all(&entries);
    let service = launch.set("BATCH_SIZE", entries.len()).start();
    assert_eq!(scene.until_stored(good.len()), good);
    scene.stream.until_drained();

    let mut letters: BTreeMap<String, Letter> =
        scene.database.letters().into_iter().map(|letter| (letter.entry_id.clone(), letter)).collect();
    assert_eq!(letters.len(), bad.len());
    let in_order = ids.iter().zip(&entries).skip(1).step_by(2).map(|(id, fields)| {
        let letter = letters.remove(id).unwrap_or_else(|| panic!("no letter for {id}"));
        assert_eq!(letter.fields.as_ref(), Some(fields), "the entry is kept as it came");
        letter
    });
    let in_order = in_order.collect();
    // The service still works.
    scene.stream.add(&Event::new().data());
    scene.until_stored(good.len() + 1);
    (in_order, service.stop())
}

pub fn reasons(letters: &[Letter]) -> Vec<&str> {
    letters.iter().map(|letter| letter.reason.as_str()).collect()
}

pub fn message(letter: &Letter) -> &str {
    letter.violations[0]["message"].as_str().unwrap()
}
