//! Instants to be told of.
//!
//! A binary heap, ordered by instant and then by age. Cancelling a timer frees its place in the table, whose
//! generation tells the entry that stays behind in the heap that it is stale; such an entry is dropped when it comes
//! to the top. When more than half of the heap is stale, and that is worth while, it is rebuilt without them: so the heap is at most
//! twice as large as the number of timers, and a cancellation costs a constant amount on average.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Names a timer. Once it has fired or was cancelled the key means nothing any more, even when its place is taken again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimerKey {
    place: u32,
    generation: u32,
}

/// In the heap; `age` tells those of one instant apart.
#[derive(Debug, Clone, Copy)]
struct Entry {
    at: u64,
    age: u64,
    key: TimerKey,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.age) == (other.at, other.age)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.age).cmp(&(other.at, other.age))
    }
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    what: Option<T>,
}

/// Below so many stale entries the heap is left alone.
const WORTH_WHILE: usize = 64;

/// Timers, each with something to be given back when its time has come. Instants are nanoseconds of whatever clock
/// the caller uses.
#[derive(Debug)]
pub struct Timers<T> {
    heap: BinaryHeap<Reverse<Entry>>,
    places: Vec<Place<T>>,
    free: Vec<u32>,
    next_age: u64,
    /// Entries of the heap whose timer was cancelled.
    stale: usize,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), places: Vec::new(), free: Vec::new(), next_age: 0, stale: 0 }
    }
}

impl<T> Timers<T> {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.heap.len() - self.stale
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A timer for the instant `at`. Those of one instant fire in the order in which they were made.
    ///
    /// # Panics
    ///
    /// If there are more than 2³² timers.
    pub fn insert(&mut self, at: u64, what: T) -> TimerKey {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { generation: 0, what: None });
            u32::try_from(self.places.len() - 1).expect("no more than 2^32 timers")
        });
        let slot = &mut self.places[place as usize];
        slot.what = Some(what);
        let key = TimerKey { place, generation: slot.generation };
        self.heap.push(Reverse(Entry { at, age: self.next_age, key }));
        self.next_age += 1;
        key
    }

    /// Forgets a timer, and gives back what it had; `None` if it has fired, or was cancelled.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let what = self.take(key)?;
        self.stale += 1;
        if self.stale > WORTH_WHILE && self.stale > self.heap.len() / 2 {
            self.compact();
        }
        Some(what)
    }

    /// Whether the timer has neither fired nor been cancelled.
    pub fn is_pending(&self, key: TimerKey) -> bool {
        self.place(key).is_some_and(|place| place.what.is_some())
    }

    /// When the next one fires.
    pub fn next_at(&mut self) -> Option<u64> {
        loop {
            let Reverse(first) = *self.heap.peek()?;
            if self.is_pending(first.key) {
                return Some(first.at);
            }
            self.heap.pop();
            self.stale -= 1;
        }
    }

    /// The next one whose time has come at `now`; it has fired then.
    pub fn pop_due(&mut self, now: u64) -> Option<T> {
        if self.next_at()? > now {
            return None;
        }
        let Reverse(first) = self.heap.pop()?;
        self.take(first.key)
    }

    fn place(&self, key: TimerKey) -> Option<&Place<T>> {
        self.places.get(key.place as usize).filter(|place| place.generation == key.generation)
    }

    fn take(&mut self, key: TimerKey) -> Option<T> {
        let place = self.places.get_mut(key.place as usize)?;
        if place.generation != key.generation {
            return None;
        }
        let what = place.what.take()?;
        // A place whose generations are used up is not used again: a key of old would fit.
        if let Some(next) = place.generation.checked_add(1) {
            place.generation = next;
            self.free.push(key.place);
        }
        Some(what)
    }

    fn compact(&mut self) {
        let mut entries = std::mem::take(&mut self.heap).into_vec();
        entries.retain(|Reverse(entry)| self.is_pending(entry.key));
        if entries.len() < entries.capacity() / 4 {
            entries.shrink_to(entries.len() * 2);
        }
        self.heap = entries.into();
        self.stale = 0;
    }

    /// Entries in the heap, stale ones among them.
    #[cfg(test)]
    fn entries(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Act {
        Insert(u64),
        /// One of the keys that there ever were.
        Cancel(prop::sample::Index),
        /// So far does time go on.
        Advance(u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            4 => (0..200u64).prop_map(Act::Insert),
            4 => any::<prop::sample::Index>().prop_map(Act::Cancel),
            1 => (0..40u64).prop_map(Act::Advance),
            // The machine was suspended for days, in nanoseconds.
            1 => (1..30u64).prop_map(|days| Act::Advance(days * 86_400_000_000_000)),
        ];
        prop::collection::vec(act, 0..600)
    }

    proptest! {
        #[test]
        fn as_a_sorted_list(acts in acts()) {
            let mut timers = Timers::new();
            // What should be there: instant, age; and all keys there ever were.
            let mut model: Vec<(u64, usize)> = Vec::new();
            let mut keys: Vec<(TimerKey, u64)> = Vec::new();
            let mut now = 0;
            for act in acts {
                match act {
                    Act::Insert(after) => {
                        let name = keys.len();
                        keys.push((timers.insert(now + after, name), now + after));
                        model.push((now + after, name));
                    }
                    Act::Cancel(index) => {
                        if keys.is_empty() {
                            continue;
                        }
                        let name = index.index(keys.len());
                        let known = model.iter().position(|&(_, other)| other == name);
                        prop_assert_eq!(timers.is_pending(keys[name].0), known.is_some());
                        prop_assert_eq!(timers.cancel(keys[name].0), known.map(|_| name));
                        if let Some(place) = known {
                            model.remove(place);
                        }
                    }
                    Act::Advance(by) => {
                        now += by;
                        model.sort_unstable();
                        let due = model.partition_point(|&(at, _)| at <= now);
                        for (_, name) in model.drain(..due) {
                            prop_assert_eq!(timers.pop_due(now), Some(name));
                        }
                        prop_assert_eq!(timers.pop_due(now), None);
                    }
                }
                prop_assert_eq!(timers.len(), model.len());
                prop_assert_eq!(timers.next_at(), model.iter().map(|&(at, _)| at).min());
                prop_assert!(timers.entries() <= 2 * model.len() + WORTH_WHILE + 1);
            }
        }
    }

    #[test]
    fn a_million_that_never_fire_leave_nothing() {
        let mut timers = Timers::new();
        // As timeouts do: made and cancelled one after the other, beside some that stay.
        for name in 0..1000_u64 {
            timers.insert(u64::MAX - name, name);
        }
        for name in 0..1_000_000_u64 {
            let key = timers.insert(name, name);
            assert_eq!(timers.cancel(key), Some(name));
        }
        assert!(timers.entries() <= 2002 + WORTH_WHILE, "{}", timers.entries());
        assert!(timers.places.len() <= 1001);
        assert_eq!(timers.pop_due(u64::MAX), Some(999));
    }

    #[test]
    fn a_key_of_old_means_nothing() {
        let mut timers = Timers::new();
        let old = timers.insert(1, 'a');
        assert_eq!(timers.pop_due(1), Some('a'));
        let new = timers.insert(1, 'b');
        assert_eq!((old.place, timers.cancel(old)), (new.place, None));
        assert_eq!(timers.cancel(new), Some('b'));
    }
}
