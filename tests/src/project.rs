//! Makes a project of rules, whose tools need no server.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;

use crate::service::Launch;
use crate::tool::Told;

/// Runs `sluicegate rules` in a folder, with nothing of the test's own environment.
pub fn rules_in(folder: &Path, arguments: &[&str]) -> Told {
    crate::tool::rules(Launch::new(folder), arguments)
}

/// Holds the folder of a project: settings, a component, and what a test puts there.
pub struct Project(TempDir);

impl Project {
    /// Makes a project of this component, with these settings besides.
    pub fn new(component: &Path, settings: &str) -> Self {
        let project = Self(TempDir::with_prefix("sluicegate-test-").unwrap());
        fs::copy(component, project.folder().join("rules.wasm")).unwrap();
        project.write("sluicegate.toml", &format!("guest = \"rules.wasm\"\n{settings}"));
        project
    }

    pub fn folder(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, and makes its folder if that is missing.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.folder().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder().join(file)).unwrap()
    }

    /// Runs `sluicegate rules` in the folder, with nothing of the test's own environment.
    pub fn rules(&self, arguments: &[&str]) -> Told {
        self.rules_reading("", arguments)
    }

    /// Does the same for a user with this home.
    pub fn rules_at(&self, home: &Path, arguments: &[&str]) -> Told {
        crate::tool::rules(Launch::new(self.folder()).set("HOME", home.display()), arguments)
    }

    /// Does the same as [`rules`](Self::rules) with this text as standard input.
    pub fn rules_reading(&self, input: &str, arguments: &[&str]) -> Told {
        let mut command = Launch::new(self.folder()).tool(&[&["rules"], arguments].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut to_child = child.stdin.take().unwrap();
        let input = input.to_owned();
        // A program that has ended does not read to the end.
        let writing = std::thread::spawn(move || drop(to_child.write_all(input.as_bytes())));
        let output = child.wait_with_output().unwrap();
        writing.join().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Told { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}
