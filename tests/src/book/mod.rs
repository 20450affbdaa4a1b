//! Reads the pages of `docs/`, and runs what they tell their readers to.

mod page;
mod reader;
mod shown;

pub use page::{Fence, Link, Page, repository};
pub use reader::Reader;
