//! Tests that no locked crate has a known hole that the service could meet.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use semver::{Version, VersionReq};
use serde::Deserialize;

/// Holds the file `advisories.toml`.
#[derive(Deserialize)]
struct Advisories {
    /// Says when the list was taken from the database.
    date: String,
    advisory: Vec<Advisory>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Advisory {
    id: String,
    #[serde(rename = "crate")]
    package: String,
    title: String,
    fixed: Vec<String>,
    #[serde(default)]
    unaffected: Vec<String>,
    /// Says why the hole cannot be met here, if a locked version is affected.
    mitigated: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
}

fn read<T: for<'de> Deserialize<'de>>(file: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl Advisory {
    fn affects(&self, version: &Version) -> bool {
        let matches = |versions: &String| {
            let wanted = VersionReq::parse(versions).unwrap_or_else(|error| panic!("{}: {error}", self.id));
            wanted.matches(version)
        };
        !self.fixed.iter().chain(&self.unaffected).any(matches)
    }
}

#[test]
fn no_locked_crate_has_a_hole_that_is_known() {
    let Advisories { date, advisory: advisories } = read("advisories.toml");
    let mut locked: BTreeMap<String, Vec<Version>> = BTreeMap::new();
    for Package { name, version } in read::<Lock>("Cargo.lock").package {
        locked.entry(name).or_default().push(Version::parse(&version).unwrap());
    }
    for advisory in &advisories {
        let Advisory { id, package, title, mitigated, .. } = advisory;
        let versions = locked.get(package).map(Vec::as_slice).unwrap_or_default();
        match versions.iter().find(|version| advisory.affects(version)) {
            Some(version) => assert!(
                mitigated.is_some(),
                "{package} {version} has {id} ({title}); wanted {:?}, or `mitigated` in advisories.toml (of {date})",
                advisory.fixed
            ),
            None => {
                assert!(mitigated.is_none(), "{id} does not affect {package} any more: delete `mitigated`")
            }
        }
    }
    assert!(advisories.iter().any(|advisory| advisory.affects(&Version::new(0, 0, 0))), "the test can fail");
}
