//! Who waits, and who may run.
//!
//! A waiter is a place in a table with a *generation*, which rises each time the place is left. So a key is good for one
//! wait: whatever wakes with an old key (a timer that was not unlinked, another thread that was late) finds another
//! generation and does nothing. Nobody has to be unlinked from anything for correctness' sake.
//!
//! ```text
//!          park                wake              next
//!  free ─────────► parked ───────────► ready ───────────► free
//!                     └──────── withdraw ───────┘
//! ```
//!
//! Ready ones stand in one queue, in the order in which they were woken. One that is withdrawn from it leaves its key
//! behind, which is stale.

use std::collections::VecDeque;

/// Names one wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WaiterKey {
    place: u32,
    generation: u32,
}

impl WaiterKey {
    /// A key that is nobody's, ever.
    pub const NOBODY: Self = Self { place: u32::MAX, generation: u32::MAX };
}

#[derive(Debug)]
enum State<T> {
    Free,
    Parked(T),
    Ready(T),
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    state: State<T>,
}

/// Waiters of type `T` and the queue of those that are ready.
#[derive(Debug)]
pub struct Waiters<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    ready: VecDeque<WaiterKey>,
    /// Those in the queue that were not withdrawn.
    ready_count: usize,
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), ready: VecDeque::new(), ready_count: 0 }
    }
}

impl<T> Waiters<T> {
    #[inline]
    fn enter(&mut self, state: State<T>) -> WaiterKey {
        if let Some(place) = self.free.pop() {
            let slot = &mut self.places[place as usize];
            slot.state = state;
            return WaiterKey { place, generation: slot.generation };
        }
        let place = u32::try_from(self.places.len()).expect("fewer than 2^32 coroutines wait at once");
        self.places.push(Place { generation: 0, state });
        WaiterKey { place, generation: 0 }
    }

    #[inline]
    fn leave(&mut self, key: WaiterKey) -> State<T> {
        let Some(slot) = self.places.get_mut(key.place as usize) else { return State::Free };
        if slot.generation != key.generation {
            return State::Free;
        }
        let state = std::mem::replace(&mut slot.state, State::Free);
        if !matches!(state, State::Free) {
            // A place whose generations are used up is not used again: a key of old would fit.
            slot.generation = slot.generation.wrapping_add(1);
            if slot.generation != u32::MAX {
                self.free.push(key.place);
            }
        }
        state
    }

    /// One that waits to be woken.
    #[inline]
    pub fn park(&mut self, who: T) -> WaiterKey {
        self.enter(State::Parked(who))
    }

    /// One that is ready at once, behind all that are.
    #[inline]
    pub fn post(&mut self, who: T) -> WaiterKey {
        let key = self.enter(State::Ready(who));
        self.ready.push_back(key);
        self.ready_count += 1;
        key
    }

    /// One that is ready at once, before all that are.
    #[inline]
    pub fn post_first(&mut self, who: T) -> WaiterKey {
        let key = self.enter(State::Ready(who));
        self.ready.push_front(key);
        self.ready_count += 1;
        key
    }

    /// Makes one that is parked ready. False, and nothing, if that wait is over or it is ready already.
    #[inline]
    pub fn wake(&mut self, key: WaiterKey) -> bool {
        let Some(slot) = self.places.get_mut(key.place as usize) else { return false };
        if slot.generation != key.generation {
            return false;
        }
        match std::mem::replace(&mut slot.state, State::Free) {
            State::Parked(who) => {
                slot.state = State::Ready(who);
                self.ready.push_back(key);
                self.ready_count += 1;
                true
            }
            other => {
                slot.state = other;
                false
            }
        }
    }

    /// Ends a wait from the waiter's own side; gives back who waited, unless it is over.
    #[inline]
    pub fn withdraw(&mut self, key: WaiterKey) -> Option<T> {
        match self.leave(key) {
            State::Free => None,
            State::Parked(who) => Some(who),
            State::Ready(who) => {
                self.ready_count -= 1;
                if self.ready_count == 0 {
                    self.ready.clear();
                }
                Some(who)
            }
        }
    }

    /// Whether that wait is not over: it is parked, or ready and was not run.
    #[inline]
    pub fn is_waiting(&self, key: WaiterKey) -> bool {
        self.places.get(key.place as usize).is_some_and(|slot| slot.generation == key.generation)
    }

    /// Who waits with that key.
    pub fn get(&self, key: WaiterKey) -> Option<&T> {
        let slot = self.places.get(key.place as usize).filter(|slot| slot.generation == key.generation)?;
        match &slot.state {
            State::Parked(who) | State::Ready(who) => Some(who),
            State::Free => None,
        }
    }

    /// The first of the queue, which has to be run now.
    #[inline]
    pub fn next_ready(&mut self) -> Option<T> {
        while let Some(key) = self.ready.pop_front() {
            if let State::Ready(who) = self.leave(key) {
                self.ready_count -= 1;
                return Some(who);
            }
        }
        None
    }

    /// The first of the queue.
    #[inline]
    pub fn peek_ready(&mut self) -> Option<&T> {
        loop {
            let key = *self.ready.front()?;
            // Twice, because a borrow that is returned from a loop lasts over all of it.
            if self.is_waiting(key) {
                return self.get(key);
            }
            self.ready.pop_front();
        }
    }

    /// Who stands so far behind the first of the queue, if it was not withdrawn.
    #[inline]
    pub fn coming(&self, ahead: usize) -> Option<&T> {
        self.ready.get(ahead).and_then(|&key| self.get(key))
    }

    /// How many are ready.
    #[inline]
    pub const fn ready_len(&self) -> usize {
        self.ready_count
    }

    /// How many wait, ready ones among them.
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// All that wait, ready ones among them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().filter_map(|slot| match &slot.state {
            State::Parked(who) | State::Ready(who) => Some(who),
            State::Free => None,
        })
    }

    /// Takes out everybody, for a host that ends.
    pub fn drain(&mut self) -> Vec<T> {
        self.ready.clear();
        self.ready_count = 0;
        let keys: Vec<_> = (0..self.places.len())
            .map(|place| WaiterKey { place: place as u32, generation: self.places[place].generation })
            .collect();
        keys.into_iter()
            .filter_map(|key| match self.leave(key) {
                State::Free => None,
                State::Parked(who) | State::Ready(who) => Some(who),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Act {
        Park,
        Post,
        PostFirst,
        Wake(prop::sample::Index),
        Withdraw(prop::sample::Index),
        Next,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let index = any::<prop::sample::Index>;
        let act = prop_oneof![
            3 => Just(Act::Park),
            2 => Just(Act::Post),
            1 => Just(Act::PostFirst),
            4 => index().prop_map(Act::Wake),
            2 => index().prop_map(Act::Withdraw),
            3 => Just(Act::Next),
        ];
        prop::collection::vec(act, 0..400)
    }

    proptest! {
        #[test]
        fn as_a_list_of_parked_and_a_queue(acts in acts()) {
            let mut waiters = Waiters::default();
            let mut keys = Vec::new();
            let (mut parked, mut ready): (Vec<usize>, Vec<usize>) = Default::default();
            for act in acts {
                match act {
                    Act::Park => {
                        parked.push(keys.len());
                        keys.push(waiters.park(keys.len()));
                    }
                    Act::Post => {
                        ready.push(keys.len());
                        keys.push(waiters.post(keys.len()));
                    }
                    Act::PostFirst => {
                        ready.insert(0, keys.len());
                        keys.push(waiters.post_first(keys.len()));
                    }
                    Act::Wake(index) if !keys.is_empty() => {
                        let name = index.index(keys.len());
                        let known = parked.iter().position(|&other| other == name);
                        prop_assert_eq!(waiters.wake(keys[name]), known.is_some());
                        if let Some(place) = known {
                            ready.push(parked.remove(place));
                        }
                    }
                    Act::Withdraw(index) if !keys.is_empty() => {
                        let name = index.index(keys.len());
                        let known = parked.contains(&name) || ready.contains(&name);
                        prop_assert_eq!(waiters.is_waiting(keys[name]), known);
                        prop_assert_eq!(waiters.withdraw(keys[name]), known.then_some(name));
                        parked.retain(|&other| other != name);
                        ready.retain(|&other| other != name);
                    }
                    Act::Next => {
                        prop_assert_eq!(waiters.peek_ready().copied(), ready.first().copied());
                        prop_assert_eq!(waiters.coming(0).copied(), ready.first().copied());
                        let expected = (!ready.is_empty()).then(|| ready.remove(0));
                        prop_assert_eq!(waiters.next_ready(), expected);
                    }
                    _ => {}
                }
                prop_assert_eq!(waiters.ready_len(), ready.len());
                prop_assert_eq!(waiters.len(), ready.len() + parked.len());
            }
            prop_assert_eq!(waiters.drain().len(), ready.len() + parked.len());
            prop_assert!(waiters.is_empty() && waiters.next_ready().is_none());
        }
    }
}
