//! Tests that what the documents say is so: commands and programs are run, links lead somewhere, and every error is explained.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use sluicegate_tests::book::{Page, Reader, repository};
use sluicegate_verdicts::Reason;

/// Names a test for each page with commands.
macro_rules! pages {
    ($($name:ident: $path:literal,)*) => {
        const PAGES: &[&str] = &[$($path),*];

        $(
            #[test]
            fn $name() {
                Reader::new().follow(&Page::read($path));
            }
        )*
    };
}

pages! {
    readme: "README.md",
    tutorial: "docs/tutorial.md",
    tutorial_javascript: "docs/tutorial-javascript.md",
    tutorial_python: "docs/tutorial-python.md",
    tutorial_without_code: "docs/tutorial-without-code.md",
    recipes: "docs/recipes.md",
    rules: "docs/rules.md",
    evolving_rules: "docs/evolving-rules.md",
    rules_without_code: "docs/rules-without-code.md",
    errors: "docs/errors.md",
    operations: "docs/operations.md",
}

#[test]
fn every_command_of_the_pages_is_run() {
    for page in Page::all() {
        let is_run = PAGES.contains(&page.path.as_str());
        for fence in page.fences.iter().filter(|fence| fence.is("sh") && !fence.has("ignore")) {
            assert!(
                is_run,
                "{}:{}: add the page to `pages!`, or mark the block `sh,ignore`",
                page.path, fence.line
            );
        }
        for fence in page.fences.iter().filter(|fence| fence.is("sh") || fence.is("text")) {
            let known = ["ignore", "fails", "background", "repeat", "output"];
            let word = fence.info.iter().skip(1).find(|word| !known.contains(&word.as_str()));
            assert_eq!(word, None, "{}:{}: wanted one of {known:?}", page.path, fence.line);
        }
        for fences in page.fences.windows(2) {
            let is_of_commands = fences[0].is("sh") || !fences[1].has("output");
            assert!(is_of_commands, "{}:{}: the output of what?", page.path, fences[1].line);
        }
    }
}

#[test]
fn every_link_leads_somewhere() {
    let pages: BTreeMap<String, Page> =
        Page::all().into_iter().map(|page| (page.path.clone(), page)).collect();
    for page in pages.values() {
        let folder = Path::new(&page.path).parent().unwrap();
        for link in page.links.iter().filter(|link| !link.to.contains("://")) {
            let place = format!("{}:{}: the link to {}", page.path, link.line, link.to);
            let (file, anchor) = link.to.split_once('#').unwrap_or((&link.to, ""));
            let path = match file {
                "" => page.path.clone(),
                file => {
                    in_the_repository(&folder.join(file)).unwrap_or_else(|| panic!("{place} leads nowhere"))
                }
            };
            let is_there = |page: &Page| anchor.is_empty() || page.anchors.contains(anchor);
            assert!(pages.get(&path).is_none_or(is_there), "{place} has no such heading");
        }
    }
}

/// Returns the path of a file from the root of the repository, if it is there.
fn in_the_repository(file: &Path) -> Option<String> {
    let found = repository().join(file).canonicalize().ok()?;
    Some(found.strip_prefix(repository()).ok()?.to_str()?.to_owned())
}

#[test]
fn every_page_is_in_the_book() {
    let summary = Page::read("docs/SUMMARY.md");
    let listed: BTreeSet<String> = summary.links.iter().map(|link| format!("docs/{}", link.to)).collect();
    let pages: BTreeSet<String> = Page::all().into_iter().map(|page| page.path).collect();
    for page in pages.iter().filter(|page| page.starts_with("docs/") && *page != "docs/SUMMARY.md") {
        assert!(listed.contains(page), "{page} is not in docs/SUMMARY.md");
    }
}

#[test]
fn the_contract_is_quoted_as_it_is() {
    let files = fs::read_dir(repository().join("wit")).unwrap().flatten();
    let files = files.map(|file| file.path()).filter(|path| path.is_file());
    let contract: String = files.map(|path| fs::read_to_string(path).unwrap()).collect();
    let lines: BTreeSet<&str> = contract.lines().map(str::trim).collect();
    for page in Page::all() {
        for fence in page.fences.iter().filter(|fence| fence.is("wit")) {
            for line in fence.text.lines().map(str::trim) {
                assert!(lines.contains(line), "{}:{}: `{line}` is not in wit/", page.path, fence.line);
            }
        }
    }
}

/// Pages of the book lead only to pages of the book, or to the web: nothing else is there when it is read as one.
#[test]
fn the_book_stands_alone() {
    for page in Page::all().iter().filter(|page| page.path.starts_with("docs/")) {
        let folder = Path::new(&page.path).parent().unwrap();
        for link in page
            .links
            .iter()
            .filter(|link| !link.to.contains("://") && !link.to.is_empty() && !link.to.starts_with('#'))
        {
            let file = link.to.split('#').next().unwrap_or_default();
            let to = in_the_repository(&folder.join(file)).unwrap_or_default();
            assert!(to.starts_with("docs/"), "{}:{}: {} is not in the book", page.path, link.line, link.to);
        }
    }
}

#[test]
fn every_reason_is_explained() {
    let page = Page::read("docs/errors.md");
    for reason in Reason::all().map(Reason::as_str) {
        assert!(page.anchors.contains(reason), "docs/errors.md has no heading `{reason}`");
    }
}

/// Each message begins in the page as it does in the source, up to the first value in it.
#[test]
fn every_fault_and_refusal_is_explained() {
    let page = fs::read_to_string(repository().join("docs/errors.md")).unwrap();
    for file in ["host/src/judge/fault.rs", "host/src/sandbox/load.rs", "host/src/rules/manifest.rs"] {
        let source = fs::read_to_string(repository().join(file)).unwrap();
        let messages = messages(&source);
        assert!(messages.len() > 3, "{file} has other messages than before: {messages:?}");
        for message in messages {
            assert!(page.contains(&message), "docs/errors.md does not explain {message:?} of {file}");
        }
    }
}

/// Returns the beginnings of the messages that `thiserror` makes.
fn messages(source: &str) -> Vec<String> {
    let after = source.split("#[error(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    let begun = after.filter_map(|text| text.split(['"', '{']).next());
    // A backslash at the end of a line goes on with the next one.
    let joined = begun.map(|text| text.split("\\\n").map(str::trim_start).collect::<String>());
    joined
        .map(|text| text.replace("\\\\", "\\").trim_end().to_owned())
        .filter(|text| !text.is_empty())
        .collect()
}

#[test]
fn every_limit_is_explained() {
    let limits = fs::read_to_string(repository().join("docs/limits.md")).unwrap();
    let settings = fs::read_to_string(repository().join("docs/settings.md")).unwrap();
    let names = settings.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut count = 0;
    for name in names.filter(|name| name.starts_with("GUEST_") || name.starts_with("MAX_")) {
        assert!(limits.contains(&format!("`{name}`")), "docs/limits.md does not have {name}");
        count += 1;
    }
    assert!(count > 20, "docs/settings.md has {count} limits");
}
