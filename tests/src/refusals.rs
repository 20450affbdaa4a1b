//! Starts the service with components that it must refuse.

use std::fs;

use crate::scene::Scene;
use crate::service::Launch;

/// Sets this component as the guest.
pub fn with_guest(scene: &Scene, component: &[u8]) -> Launch {
    let file = scene.folder().join("handmade.wasm");
    fs::write(&file, component).unwrap();
    scene.service().set("GUEST", file.display())
}

/// Starts the service with a component that it must refuse with these words.
pub fn refused(component: &[u8], set: impl Fn(Launch) -> Launch, parts: &[&str]) {
    let scene = Scene::new();
    let ended = set(with_guest(&scene, component)).run_to_end();
    assert_eq!(ended.code, Some(1), "wanted {parts:?}; the log:\n{}", ended.log);
    let last = ended.log.lines().last().unwrap_or_default();
    assert!(!ended.log.contains(['\r', '\u{202e}']), "as the component has it:\n{}", ended.log);
    for part in parts {
        assert!(last.contains(part), "{part:?} is not in:\n{}", ended.log);
    }
}
