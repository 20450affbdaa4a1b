//! Takes a page apart: its fences, its links, and the places that a link can lead to.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// Opens a comment with commands that a page needs and does not show: `<!-- sh`, or `<!-- sh,repeat`.
const HIDDEN: &str = "<!-- sh";

/// Returns the folder of the whole repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository is there")
}

/// Holds what a test looks at of a page.
pub struct Page {
    /// Where it is in the repository.
    pub path: String,
    /// In their order, with the comments that hold commands.
    pub fences: Vec<Fence>,
    pub links: Vec<Link>,
    /// What may stand after the `#` of a link to this page.
    pub anchors: BTreeSet<String>,
}

/// Holds a block of code.
#[derive(Clone, Debug)]
pub struct Fence {
    /// The number of its first line in the page.
    pub line: usize,
    /// Its language, and the words after it: `sh,repeat`.
    pub info: Vec<String>,
    pub text: String,
}

/// Holds where a link leads.
pub struct Link {
    /// The number of its line in the page.
    pub line: usize,
    pub to: String,
}

impl Fence {
    /// Returns whether it is in this language.
    pub fn is(&self, language: &str) -> bool {
        self.info.first().is_some_and(|first| first == language)
    }

    /// Returns whether the word stands after its language.
    pub fn has(&self, word: &str) -> bool {
        self.info.iter().skip(1).any(|found| found == word)
    }

    /// Returns the name of the file that its reader writes it to.
    pub fn file(&self) -> Option<&str> {
        self.info.iter().find_map(|word| word.strip_prefix("file="))
    }
}

impl Page {
    /// Reads a page of the repository.
    pub fn read(path: &str) -> Self {
        let text = fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let mut page =
            Self { path: path.to_owned(), fences: Vec::new(), links: Vec::new(), anchors: BTreeSet::new() };
        page.take_apart(&text);
        page
    }

    /// Returns all pages of the book, and those beside it that link to them.
    pub fn all() -> Vec<Self> {
        let mut paths =
            vec!["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
                .into_iter()
                .map(str::to_owned)
                .collect::<Vec<_>>();
        for folder in ["docs", "docs/decisions"] {
            let files = fs::read_dir(repository().join(folder)).expect("the folder is there").flatten();
            let names = files.filter_map(|file| file.file_name().into_string().ok());
            paths.extend(names.filter(|name| name.ends_with(".md")).map(|name| format!("{folder}/{name}")));
        }
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn take_apart(&mut self, text: &str) {
        let line_at = |at: usize| 1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
        let (mut fence, mut heading, mut html): (Option<Fence>, Option<String>, Option<Fence>) =
            (None, None, None);
        for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
            let line = line_at(range.start);
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info_string))) => {
                    fence = Some(Fence { line: line + 1, info: info(&info_string), text: String::new() });
                }
                Event::End(TagEnd::CodeBlock) => self.fences.extend(fence.take()),
                Event::Start(Tag::HtmlBlock) => {
                    html = Some(Fence { line: line + 1, info: Vec::new(), text: String::new() });
                }
                Event::Html(part) => html.iter_mut().for_each(|html| html.text.push_str(&part)),
                Event::End(TagEnd::HtmlBlock) => self.fences.extend(html.take().and_then(hidden)),
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => self.add_anchor(&heading.take().unwrap_or_default()),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    self.links.push(Link { line, to: dest_url.into_string() });
                }
                Event::Text(part) | Event::Code(part) => {
                    let texts = [fence.as_mut().map(|fence| &mut fence.text), heading.as_mut()];
                    texts.into_iter().flatten().for_each(|text| text.push_str(&part));
                }
                _ => {}
            }
        }
    }

    /// Names the anchor of a heading as mdBook and GitHub do.
    fn add_anchor(&mut self, heading: &str) {
        let kept = |char: char| match char {
            ' ' => Some('-'),
            '-' | '_' => Some(char),
            _ => char.is_alphanumeric().then(|| char.to_ascii_lowercase()),
        };
        let name: String = heading.trim().chars().filter_map(kept).collect();
        let again = (1..).map(|count| format!("{name}-{count}"));
        let anchor = std::iter::once(name.clone()).chain(again).find(|name| !self.anchors.contains(name));
        self.anchors.extend(anchor);
    }
}

/// Returns the commands in a comment, if it holds any.
fn hidden(html: Fence) -> Option<Fence> {
    let (words, commands) = html.text.strip_prefix(HIDDEN)?.split_once('\n')?;
    let text = commands.trim_end().strip_suffix("-->")?.to_owned();
    Some(Fence { info: info(&format!("sh{words}")), text, ..html })
}

fn info(words: &str) -> Vec<String> {
    words.split(',').map(|word| word.trim().to_owned()).collect()
}
