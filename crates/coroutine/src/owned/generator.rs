//! Coroutines as iterators.

use std::iter::FusedIterator;

use super::{Coroutine, CoroutineResult};

/// An iterator over what a closure yields. Made by [`Scope::generator`](super::Scope::generator).
///
/// # Examples
///
/// ```
/// use weft_coroutine::owned;
///
/// let lines = "one two\nthree";
/// let words: Vec<&str> = owned::scope(|scope| {
///     let words = scope.generator(|yielder| {
///         for line in lines.lines() {
///             line.split(' ').for_each(|word| yielder.yield_(word));
///         }
///     })?;
///     Ok::<_, owned::Error>(words.collect())
/// })?;
/// assert_eq!(words, ["one", "two", "three"]);
/// # Ok::<(), owned::Error>(())
/// ```
#[derive(Debug)]
pub struct Generator<'scope, Item> {
    coroutine: Coroutine<'scope, (), Item, ()>,
}

impl<'scope, Item> Generator<'scope, Item> {
    pub(super) fn new(coroutine: Coroutine<'scope, (), Item, ()>) -> Self {
        Self { coroutine }
    }
}

impl<'scope, Item: 'scope> Iterator for Generator<'scope, Item> {
    type Item = Item;

    /// Runs the closure until it yields the next item.
    ///
    /// # Panics
    ///
    /// With the payload of a panic in the closure; the iterator is at its end then.
    #[inline]
    fn next(&mut self) -> Option<Item> {
        match self.coroutine.try_resume(()) {
            Ok(CoroutineResult::Yield(item)) => Some(item),
            Ok(CoroutineResult::Return(())) | Err(_) => None,
        }
    }
}

impl<'scope, Item: 'scope> FusedIterator for Generator<'scope, Item> {}
