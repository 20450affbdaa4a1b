//! What a version of the rules is: all that decides about an entry, in one canonical form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::batch::Digest;
use crate::config::{Grants, Statement, Tenant, TenantName};
use crate::sandbox::World;

/// The form of manifests that this program makes and reads.
const FORMAT: u32 = 1;

/// All that decides about an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The SHA-256 of the component in hexadecimal digits.
    pub component: String,
    pub format: u32,
    /// What the rules may do besides judging.
    pub grants: Grants,
    /// The limits by the names of their settings.
    pub limits: BTreeMap<String, serde_json::Value>,
    /// What the rules read by `wasi:config`.
    pub settings: BTreeMap<String, String>,
    /// The statements that are granted.
    pub statements: BTreeMap<String, Statement>,
    /// The world whose exports and imports the component has.
    pub world: World,
}

/// Why a manifest of the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "its manifest cannot be read by this program: {0}; run the program that made it, or deploy its component again"
    )]
    Unreadable(#[from] serde_json::Error),
    #[error(
        "its manifest has the format {0}, wanted {FORMAT}; run the program that made it, or deploy its component again"
    )]
    Format(u32),
    #[error("its manifest is not that of its digest: somebody has changed it in the table rules_versions")]
    Changed,
    #[error("its limits cannot be used: {0}")]
    Limits(#[from] crate::config::Error),
}

impl Manifest {
    /// Describes a component with the settings, grants and limits of this tenant.
    pub fn new(component: Digest, world: World, tenant: &Tenant) -> Self {
        Self {
            component: component.to_hex(),
            format: FORMAT,
            grants: grants_of(tenant),
            limits: tenant.guest_limits(),
            settings: tenant.guest_settings.clone(),
            statements: tenant.statements.clone(),
            world,
        }
    }

    /// Reads a manifest of the database, which must be the one of this digest.
    pub fn parse(text: &str, version: Digest) -> Result<Self, Error> {
        if Digest::new(text.as_bytes()) != version {
            return Err(Error::Changed);
        }
        #[derive(Deserialize)]
        struct Any {
            format: u32,
        }
        match serde_json::from_str::<Any>(text)?.format {
            FORMAT => Ok(serde_json::from_str(text)?),
            other => Err(Error::Format(other)),
        }
    }

    /// Returns the canonical form: JSON without white space, with the names of each object in order.
    pub fn canonical(&self) -> String {
        // Maps with text as keys, text, numbers and flags always become JSON. A value keeps its names in order.
        serde_json::to_value(self).map(|value| value.to_string()).unwrap_or_default()
    }

    /// Returns the SHA-256 of the canonical form, which names the version.
    pub fn digest(&self) -> Digest {
        Digest::new(self.canonical().as_bytes())
    }

    /// Returns the tenant with the settings, grants and limits of this version.
    pub fn apply(&self, tenant: &Tenant) -> Result<Tenant, Error> {
        let limited = tenant.with_guest_limits(&self.limits)?;
        Ok(Tenant {
            guest_settings: self.settings.clone(),
            grants: self.grants.clone(),
            statements: self.statements.clone(),
            ..limited
        })
    }

    /// Returns the same with the grants that the tenant has now.
    pub fn with_grants_of(self, tenant: &Tenant) -> Self {
        Self { grants: grants_of(tenant), statements: tenant.statements.clone(), ..self }
    }

    /// Returns the lines that the tenant's settings lack to grant what this version was made with, the same SQL included, or
    /// `None` if they lack nothing. A component that uses no capability lacks nothing.
    pub fn lacks(&self, tenant: &Tenant) -> Option<String> {
        if !self.world.imports_capabilities() {
            return None;
        }
        let Grants { stream, publish, statements, metrics } = &self.grants;
        let has = &tenant.grants;
        let mut lines = Vec::new();
        lines.extend((*stream && !has.stream).then(|| "stream = true".to_owned()));
        lines.extend((*metrics && !has.metrics).then(|| "metrics = true".to_owned()));
        let streams = publish.iter().filter(|(name, length)| has.publish.get(*name) != Some(*length));
        let streams: Vec<String> = streams.map(|(name, length)| format!("{name:?} = {length}")).collect();
        lines.extend((!streams.is_empty()).then(|| format!("publish = {{ {} }}", streams.join(", "))));
        let names: Vec<&String> = statements.iter().filter(|name| !has.statements.contains(name)).collect();
        lines.extend((!names.is_empty()).then(|| format!("statements = {names:?}")));
        let mut lacks: Vec<String> = lines.iter().map(|line| format!("`{line}`")).collect();
        if let Some(first) = lacks.first_mut() {
            let table = match tenant.name == TenantName::default() {
                true => "[grants]".to_owned(),
                false => format!("[tenants.{}.grants]", tenant.name),
            };
            *first = format!("under {table} {first}");
        }
        let is_same = |name: &&String| self.statements.get(*name) == tenant.statements.get(*name);
        let version = self.digest();
        let differ = statements.iter().filter(|name| !is_same(name));
        lacks.extend(differ.map(|name| {
            format!("[statements.{name}] as the manifest in `sluicegate rules show {version}` has it")
        }));
        (!lacks.is_empty()).then(|| lacks.join(", "))
    }

    /// Returns whether both judge alike but for their limits. Raising one may be what a dead letter needs.
    pub fn judges_like(&self, other: &Self) -> bool {
        let without = |manifest: &Self| Self { limits: BTreeMap::new(), ..manifest.clone() };
        without(self) == without(other)
    }
}

/// Returns the tenant's grants. The order in which they were written down decides nothing.
fn grants_of(tenant: &Tenant) -> Grants {
    let mut grants = tenant.grants.clone();
    grants.statements.sort_unstable();
    grants.statements.dedup();
    grants
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(tenant: &Tenant) -> Manifest {
        Manifest::new(Digest::new(b""), World::Validator, tenant)
    }

    #[test]
    fn whatever_decides_makes_another_version() {
        let tenant = Tenant::default();
        let set = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into();
        let names =
            |names: [&str; 2]| Grants { statements: names.map(str::to_owned).into(), ..Grants::default() };
        let same = |other: &Tenant| manifest(&tenant).digest() == manifest(other).digest();
        assert!(same(&Tenant { batch_size: 7, ..tenant.clone() }));
        assert!(!same(&Tenant { guest_time_limit: crate::config::Time::millis(70), ..tenant.clone() }));
        assert!(!same(&Tenant { guest_settings: set("key", "pepper"), ..tenant.clone() }));
        assert!(!same(&Tenant { grants: Grants { stream: true, ..Grants::default() }, ..tenant.clone() }));
        let granted = |order| manifest(&Tenant { grants: names(order), ..tenant.clone() }).digest();
        assert_eq!(granted(["a", "b"]), granted(["b", "a"]));
        for world in [World::Pipeline, World::BytesValidator] {
            assert_ne!(Manifest::new(Digest::new(b""), world, &tenant).digest(), manifest(&tenant).digest());
        }
    }

    #[test]
    fn a_manifest_comes_back_as_it_was_and_applies_what_it_says() {
        let strict = Tenant {
            guest_time_limit: crate::config::Time::millis(70),
            guest_fuel: 5,
            guest_settings: [("a".to_owned(), "b".to_owned())].into(),
            ..Tenant::default()
        };
        let made = manifest(&strict);
        let read = Manifest::parse(&made.canonical(), made.digest()).expect("what was written reads");
        assert_eq!(read, made);
        let applied = read.apply(&Tenant { batch_size: 7, ..Tenant::default() }).expect("they can be used");
        assert_eq!((applied.batch_size, applied.guest_fuel), (7, 5), "only what the version says");
        assert_eq!(manifest(&applied), made);
    }

    #[test]
    fn what_is_granted_no_more_is_named() {
        let granted = |sql: &str| {
            let statement = crate::config::Statement {
                sql: sql.to_owned(),
                parameters: Vec::new(),
                timeout: crate::config::Time::millis(1),
                rows: 1,
            };
            let grants = Grants {
                publish: [("out".to_owned(), 7)].into(),
                statements: vec!["a".to_owned()],
                ..Grants::default()
            };
            Tenant { grants, statements: [("a".to_owned(), statement)].into(), ..Tenant::default() }
        };
        let made = Manifest::new(Digest::new(b""), World::Pipeline, &granted("SELECT 1"));
        assert_eq!(made.lacks(&granted("SELECT 1")), None);
        let statement =
            format!("[statements.a] as the manifest in `sluicegate rules show {}` has it", made.digest());
        assert_eq!(made.lacks(&granted("SELECT 2")), Some(statement.clone()));
        let all = format!("[grants] `publish = {{ \"out\" = 7 }}`, `statements = [\"a\"]`, {statement}");
        assert_eq!(made.lacks(&Tenant::default()), Some(format!("under {all}")));
        let acme = Tenant { name: TenantName::new("acme").expect("a name"), ..Tenant::default() };
        assert_eq!(made.lacks(&acme), Some(format!("under {}", all.replace("[g", "[tenants.acme.g"))));
        let ungranted = Manifest::new(Digest::new(b""), World::Pipeline, &Tenant::default());
        assert_eq!(ungranted.lacks(&granted("SELECT 1")), None);
        let without_capabilities = manifest(&granted("SELECT 1"));
        assert_eq!(without_capabilities.lacks(&Tenant::default()), None);
    }

    #[test]
    fn a_manifest_that_was_changed_is_no_manifest() {
        let made = manifest(&Tenant::default());
        let text = made.canonical().replace("validator", "pipeline");
        assert!(matches!(Manifest::parse(&text, made.digest()), Err(Error::Changed)));
        let later = made.canonical().replace("\"format\":1", "\"format\":2");
        let found = Manifest::parse(&later, Digest::new(later.as_bytes()));
        assert!(matches!(found, Err(Error::Format(2))));
    }

    #[test]
    fn the_canonical_form_has_its_names_in_order() {
        let text = manifest(&Tenant::default()).canonical();
        let grants = r#""format":1,"grants":{"metrics":false,"publish":{},"statements":[],"stream":false},"limits":{"guest_fuel":0,"#;
        assert!(text.contains(grants) && !text.contains(' '), "{text}");
    }
}
