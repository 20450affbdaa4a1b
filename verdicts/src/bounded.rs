//! Lists that are read from a stranger's bytes: a list of a million empty strings is a megabyte there, and many in memory.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error as _, SeqAccess, Visitor};

thread_local! {
    /// What the lists of the message that is being read may still take.
    static LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Reads a message whose lists may take so many bytes of memory, beside the text in them.
pub fn within<T>(bytes: usize, read: impl FnOnce() -> T) -> T {
    LEFT.set(bytes);
    let read = read();
    LEFT.set(usize::MAX);
    read
}

/// For `#[serde(deserialize_with)]` at each list of such a message.
pub fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(list: D) -> Result<Vec<T>, D::Error> {
    struct List<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a list that is no longer than it may be")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(item) = items.next_element()? {
                let left = LEFT.get().checked_sub(size_of::<T>());
                LEFT.set(left.ok_or_else(|| A::Error::custom("its lists take too much memory"))?);
                list.push(item);
            }
            Ok(list)
        }
    }

    list.deserialize_seq(List(PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize)]
    struct Message(#[serde(deserialize_with = "list")] Vec<String>);

    #[test]
    fn lists_are_counted_as_they_are_in_memory() {
        let empty = vec![String::new(); 100];
        let bytes = postcard::to_stdvec(&empty).expect("a message");
        let read = |most| within(most, || postcard::from_bytes::<Message>(&bytes));
        assert_eq!(read(100 * size_of::<String>()).expect("it fits").0, empty);
        assert!(read(100 * size_of::<String>() - 1).is_err());
        assert!(postcard::from_bytes::<Message>(&bytes).is_ok(), "no bound is left behind");
    }
}
