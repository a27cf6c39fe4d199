//! The extent that coroutines live in.
//!
//! The registry is a list through the coroutines' own records. At the end of the scope it is emptied in
//! two steps: first every coroutine that is left is unwound, newest first, while all records stay valid,
//! because frames that are unwound later may hold the handles of those unwound before; then the stacks
//! are given back.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use super::cancel::{self, Payload};
use super::core::{self, Core, State};
use super::{Coroutine, Error, Generator, Group, StackConfig, StackPool, Yielder};

/// The coroutines of a scope that are not released yet.
pub(super) struct Registry {
    pool: NonNull<StackPool>,
    /// Those that may have frames or a closure.
    live: Cell<*const Core>,
    /// At the end of the scope: those whose records may still be reached from a handle.
    unwound: Cell<*const Core>,
}

impl Registry {
    #[inline]
    pub(super) fn pool(&self) -> &StackPool {
        // SAFETY: the pool is borrowed by `StackPool::scope`, whose frame outlives the registry.
        unsafe { self.pool.as_ref() }
    }

    /// Adds a coroutine.
    pub(super) fn link(&self, core: &Core) {
        Self::push(&self.live, core);
    }

    fn push(head: &Cell<*const Core>, core: &Core) {
        let next = head.replace(core);
        core.next.set(next);
        core.pointed_by.set(head);
        if !next.is_null() {
            // SAFETY: whatever is in the list has a valid record.
            unsafe { (*next).pointed_by.set(&raw const core.next) };
        }
    }

    /// Removes a coroutine from the list that it is in.
    pub(super) fn unlink(core: &Core) {
        // SAFETY: neighbours and heads are valid as long as they are linked.
        unsafe {
            (*core.pointed_by.get()).set(core.next.get());
            if !core.next.get().is_null() {
                (*core.next.get()).pointed_by.set(core.pointed_by.get());
            }
        }
    }

    /// Unwinds and releases all coroutines; returns the first panic.
    ///
    /// It must not unwind before all is done, so nothing of the user's runs here unguarded.
    fn end(&self) -> Option<Payload> {
        let mut first = None;
        loop {
            let core = self.live.get();
            if core.is_null() {
                break;
            }
            // SAFETY: linked records are valid. Destructors that run in `abandon` may make, end and unlink
            // other coroutines, so the list is read afresh each time.
            unsafe {
                Self::unlink(&*core);
                Self::push(&self.unwound, &*core);
                let payload = ((*core).abandon)(core);
                if first.is_none() {
                    first = payload;
                } else {
                    cancel::discard(payload);
                }
            }
        }
        loop {
            let core = self.unwound.get();
            if core.is_null() {
                return first;
            }
            // SAFETY: it is in a final state after `abandon`. All frames of the scope are gone, so a handle
            // that still exists was leaked and cannot be used: `'scope` is over.
            unsafe { core::release(core) };
        }
    }
}

/// Where coroutines are made; see [`scope`].
pub struct Scope<'scope, 'env: 'scope> {
    registry: Registry,
    /// Invariant, as in `std::thread::Scope`: neither lifetime may be shortened or stretched.
    lifetimes: PhantomData<(&'scope mut &'scope (), &'env mut &'env ())>,
}

/// Runs `body` with a [`Scope`] in which coroutines can be made. When it returns or panics, those that
/// are left, leaked handles included, are cancelled: no frame outlives the scope.
///
/// Coroutines may borrow everything that was there before the scope. Why coroutines need a scope at all is
/// the subject of points 1 and 2 in the [module's](super) list.
///
/// The stacks come from a fresh pool with the default [`StackConfig`]; see [`StackPool::scope`] for another.
///
/// # Panics
///
/// With the payload of `body`, or else of the first destructor that panicked in a cancelled coroutine.
///
/// # Examples
///
/// ```
/// use weft_coroutine::owned::{self, CoroutineResult};
///
/// let word = String::from("weft");
/// owned::scope(|scope| {
///     let mut letters = scope.coroutine(|yielder, mut times: usize| {
///         for letter in word.chars() {
///             times = yielder.yield_(letter.to_string().repeat(times));
///         }
///         word.len()
///     })?;
///     assert_eq!(letters.resume(2), CoroutineResult::Yield("ww".to_string()));
///     assert_eq!(letters.resume(1), CoroutineResult::Yield("e".to_string()));
///     Ok::<(), owned::Error>(()) // dropped here: its frames are unwound
/// })?;
/// # Ok::<(), owned::Error>(())
/// ```
///
/// Nothing can leave the scope, so nothing can be kept where it would outlive what it borrows:
///
/// ```compile_fail
/// use weft_coroutine::owned;
///
/// let escaped = owned::scope(|scope| scope.generator(|yielder| yielder.yield_(1)).unwrap());
/// ```
///
/// ```compile_fail
/// use std::cell::RefCell;
/// use weft_coroutine::owned::{self, Generator};
///
/// thread_local!(static KEPT: RefCell<Option<Generator<'static, i32>>> = const { RefCell::new(None) });
/// owned::scope(|scope| KEPT.set(Some(scope.generator(|yielder| yielder.yield_(1)).unwrap())));
/// ```
///
/// ```compile_fail
/// use weft_coroutine::owned;
///
/// owned::scope(|scope| {
///     let generator = scope.generator(|yielder| yielder.yield_(1)).unwrap();
///     std::thread::scope(|threads| { threads.spawn(move || drop(generator)); });
/// });
/// ```
pub fn scope<'env, F, R>(body: F) -> R
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
{
    StackPool::new(StackConfig::default()).scope(body)
}

impl StackPool {
    /// [`scope`] with stacks from this pool.
    ///
    /// # Panics
    ///
    /// As [`scope`] does.
    pub fn scope<'env, F, R>(&self, body: F) -> R
    where
        F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
    {
        /// Ends the scope however `body` leaves it.
        struct End<'a>(&'a Registry);

        impl Drop for End<'_> {
            fn drop(&mut self) {
                cancel::propagate(self.0.end());
            }
        }

        let scope = Scope {
            registry: Registry {
                pool: NonNull::from(self),
                live: Cell::new(ptr::null()),
                unwound: Cell::new(ptr::null()),
            },
            lifetimes: PhantomData,
        };
        let _end = End(&scope.registry);
        body(&scope)
    }
}

impl<'scope> Scope<'scope, '_> {
    /// A coroutine that will run `body` when it is first resumed.
    ///
    /// # Errors
    ///
    /// [`Error::Stack`] if there is no stack for it, [`Error::ClosureTooLarge`] if `body` does not fit on it.
    pub fn coroutine<F, Input, Yield, Return>(
        &'scope self,
        body: F,
    ) -> Result<Coroutine<'scope, Input, Yield, Return>, Error>
    where
        F: FnOnce(&Yielder<Input, Yield>, Input) -> Return + 'scope,
        Input: 'scope,
        Yield: 'scope,
        Return: 'scope,
    {
        Coroutine::new(&self.registry, body)
    }

    /// An iterator over what `body` yields.
    ///
    /// # Errors
    ///
    /// As [`Scope::coroutine`].
    pub fn generator<F, Item>(&'scope self, body: F) -> Result<Generator<'scope, Item>, Error>
    where
        F: FnOnce(&Yielder<(), Item>) + 'scope,
        Item: 'scope,
    {
        self.coroutine(|yielder: &Yielder<(), Item>, ()| body(yielder)).map(Generator::new)
    }

    /// A group of coroutines that switch to each other directly, with values of type `T`.
    pub fn group<T: 'scope>(&'scope self) -> Group<'scope, T> {
        Group::new(&self.registry)
    }

    /// How many coroutines of the scope have not ended yet.
    pub fn live(&self) -> usize {
        let mut count = 0;
        let mut core = self.registry.live.get();
        while !core.is_null() {
            // SAFETY: linked records are valid, and nothing runs in between.
            unsafe {
                count += usize::from(!is_final((*core).state.get()));
                core = (*core).next.get();
            }
        }
        count
    }
}

fn is_final(state: State) -> bool {
    matches!(state, State::Returned | State::Panicked | State::Refused | State::Cancelled)
}
