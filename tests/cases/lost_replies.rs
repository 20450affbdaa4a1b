//! Tests a server that did what it was told, and whose answer is lost with the connection. The
//! service cannot know, and must do the right thing all the same.

use sluicegate_tests::{Event, Fields, Proxy, Scene, until};

fn until_lost(proxy: &Proxy) {
    until("the reply lost", || match proxy.lost() {
        1 => Ok(()),
        lost => Err(format!("{lost} lost")),
    });
}

fn send(scene: &Scene, count: usize) -> Vec<Event> {
    let events: Vec<Event> = (0..count).map(|_| Event::new()).collect();
    scene.stream.add_all(&events.iter().map(Event::data).collect::<Vec<Fields>>());
    events
}

/// The server has delivered the entries, and will not do so again by itself.
#[test]
fn entries_that_never_arrived_are_read_again() {
    let scene = Scene::new();
    let proxy = Proxy::start(scene.stream.url());
    proxy.lose_reply_to(b"\r\n>\r\n"); // the first XREADGROUP that asks for new entries
    let service = scene.service().set("REDIS_URL", proxy.url(scene.stream.url())).set("BLOCK", "1m").start();
    until("the service waiting for entries", || if proxy.is_armed() { Err("no".to_owned()) } else { Ok(()) });
    let events = send(&scene, 30);
    until_lost(&proxy);
    assert_eq!(scene.until_stored(30), events);
    scene.stream.until_drained();
    let ended = service.stop();
    assert!(ended.log.contains("reading failed; trying again"), "{}", ended.log);
    assert_eq!(ended.metrics().tally(), [30, 0, 0, 0, 0]);
}

#[test]
fn an_acknowledgement_without_an_answer_is_sent_again_and_counts_once() {
    let scene = Scene::new();
    let proxy = Proxy::start(scene.stream.url());
    let service = scene.service().set("REDIS_URL", proxy.url(scene.stream.url())).start();
    proxy.lose_reply_to(b"XACK");
    let events = send(&scene, 30);
    until_lost(&proxy);
    service.until_logged(&["acknowledging failed; trying again"]);
    assert_eq!(scene.until_stored(30), events);
    scene.stream.until_drained();
    assert_eq!(service.stop().metrics().tally(), [30, 0, 0, 0, 0]);
}

/// The rows are committed, so the second time they are duplicates.
#[test]
fn a_commit_without_an_answer_is_repeated() {
    let scene = Scene::new();
    let proxy = Proxy::start(&scene.database.url());
    let service = scene.service().set("POSTGRES_URL", proxy.url(&scene.database.url())).start();
    let mut events = send(&scene, 1);
    scene.until_stored(1);
    let marked = Event { user_id: "marked by the test".to_owned(), ..Event::new() };
    proxy.lose_reply_to(marked.user_id.as_bytes());
    scene.stream.add(&marked.data());
    events.push(marked);
    until_lost(&proxy);
    assert_eq!(scene.until_stored(2), events);
    scene.stream.until_drained();
    let ended = service.stop();
    assert!(ended.log.contains("writing to postgres failed; trying again"), "{}", ended.log);
    assert_eq!(ended.metrics().tally(), [1, 1, 0, 0, 0]);
}

/// Of BEGIN, the letters, the rows and COMMIT, whichever answer is lost, the letter is there once.
#[test]
fn a_transaction_without_an_answer_is_repeated() {
    for request in [b"BEGIN".as_slice(), b"marked letter", b"marked event", b"COMMIT"] {
        let scene = Scene::new();
        let proxy = Proxy::start(&scene.database.url());
        let service = scene.service().set("POSTGRES_URL", proxy.url(&scene.database.url())).start();
        let marked = Event { user_id: "marked event".to_owned(), ..Event::new() };
        let letter = sluicegate_tests::fields([("data", "marked letter")]);
        proxy.lose_reply_to(request);
        scene.stream.add_all(&[letter, marked.data()]);
        until_lost(&proxy);
        assert_eq!(scene.until_stored(1), [marked]);
        scene.stream.until_drained();
        assert_eq!(scene.database.letters().len(), 1);
        let [stored, duplicate, rejected, ..] = service.stop().metrics().tally();
        assert_eq!((stored + duplicate, rejected), (1, 1));
    }
}
