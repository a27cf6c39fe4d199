//! Coroutines that switch to each other directly.
//!
//! A member that switches to another one hands over its resumer, too: whoever called [`Members::resume`]
//! waits until *some* member comes back to [`Target::Resumer`], returns to it, or panics. See the
//! parent module for why this is as sound as yielding and resuming.
//!
//! A member that ends by switching to another one still stands on its stack when it leaves; the one that is
//! entered releases it (`Table::dead`), right after it has taken the value.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::rc::Rc;

use super::cancel::{self, Payload};
use super::core::{self, Core, State};
use super::coroutine::{abandon, finish_unwound};
use super::scope::Registry;
use super::{Error, Invariant, Refused};

/// Names a member of a [`Group`]. It is never used again for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId {
    index: u32,
    generation: u32,
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "coroutine {}.{}", self.index, self.generation)
    }
}

/// Where a member switches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The code that waits in [`Members::resume`].
    Resumer,
    /// Another member.
    Member(MemberId),
}

impl From<MemberId> for Target {
    fn from(id: MemberId) -> Self {
        Self::Member(id)
    }
}

/// What a member ends with: a value, and who gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handoff<T> {
    /// Who runs next.
    pub to: Target,
    /// What it gets.
    pub value: T,
}

impl<T> Handoff<T> {
    /// `value` for the code that waits in [`Members::resume`].
    pub const fn resumer(value: T) -> Self {
        Self { to: Target::Resumer, value }
    }

    /// `value` for another member, which runs next.
    pub const fn member(id: MemberId, value: T) -> Self {
        Self { to: Target::Member(id), value }
    }
}

/// One place of the table of members.
#[derive(Clone, Copy)]
struct Place {
    generation: u32,
    /// Null if nobody has the place.
    core: *const Core,
}

/// What the group and its members share.
struct Table<'scope> {
    registry: &'scope Registry,
    places: RefCell<Vec<Place>>,
    vacant: RefCell<Vec<u32>>,
    /// The member that came back to the resumer last; read right after `core::resume`.
    back: Cell<*const Core>,
    /// The member that ended by switching to another one, until that one has released it.
    dead: Cell<*const Core>,
}

impl Table<'_> {
    /// A name for a member that is about to be made.
    fn reserve(&self) -> MemberId {
        let mut places = self.places.borrow_mut();
        let index = self.vacant.borrow_mut().pop().unwrap_or_else(|| {
            places.push(Place { generation: 0, core: ptr::null() });
            u32::try_from(places.len() - 1).expect("there is no memory for four billion stacks")
        });
        MemberId { index, generation: places[index as usize].generation }
    }

    /// Gives up a name; does nothing if that has happened.
    fn vacate(&self, id: MemberId) {
        let mut places = self.places.borrow_mut();
        let place = &mut places[id.index as usize];
        if place.generation == id.generation {
            *place = Place { generation: id.generation.wrapping_add(1), core: ptr::null() };
            self.vacant.borrow_mut().push(id.index);
        }
    }

    fn find(&self, id: MemberId) -> Option<*const Core> {
        let places = self.places.borrow();
        let place = places.get(id.index as usize)?;
        (place.generation == id.generation && !place.core.is_null()).then_some(place.core)
    }

    /// A member that is fresh or suspended.
    #[inline]
    fn enterable(&self, id: MemberId) -> Result<*const Core, Error> {
        let core = self.find(id).ok_or(Error::NoSuchMember(id))?;
        // SAFETY: members leave the table before their records are released.
        match unsafe { (*core).state.get() } {
            State::Fresh | State::Suspended => Ok(core),
            _ => Err(Error::Running(id)),
        }
    }

    /// Releases the member that ended by switching to the one that runs now, if there is one.
    #[inline]
    fn bury(&self) {
        let dead = self.dead.replace(ptr::null());
        if !dead.is_null() {
            // SAFETY: it left its stack for good, its value has been taken, and only `dead` knew it still.
            unsafe { core::release(dead) };
        }
    }
}

/// The members of a group, as the group and each member see them.
pub struct Members<'scope, T> {
    table: Rc<Table<'scope>>,
    /// Invariant in both: a shorter `'scope` would let closures in that do not live long enough.
    types: Invariant<(&'scope (), T)>,
}

/// Coroutines that pass control and values of type `T` directly to each other. Made by
/// [`Scope::group`](super::Scope::group). Dropped, it cancels its members.
///
/// # Examples
///
/// ```
/// use weft_coroutine::owned::{self, Handoff, Target};
///
/// owned::scope(|scope| {
///     let group = scope.group::<u32>();
///     let double = group.add(|me, value| {
///         let next = me.switch_to(Target::Resumer, value * 2).unwrap();
///         Handoff::resumer(next)
///     })?;
///     let add_one = group.add(move |_, value| Handoff::member(double, value + 1))?;
///     assert_eq!(group.resume(add_one, 4).unwrap(), 10); // add_one passed 5 on to double
///     assert_eq!(group.resume(double, 7).unwrap(), 7);
///     assert!(group.is_empty());
///     Ok::<(), owned::Error>(())
/// })?;
/// # Ok::<(), owned::Error>(())
/// ```
pub struct Group<'scope, T> {
    members: Members<'scope, T>,
}

/// A member's own handle: lent to its body, good for switching from its stack.
pub struct Member<'scope, T> {
    core: *const Core,
    id: MemberId,
    members: Members<'scope, T>,
}

impl<'scope, T> Deref for Group<'scope, T> {
    type Target = Members<'scope, T>;

    fn deref(&self) -> &Self::Target {
        &self.members
    }
}

impl<'scope, T> Deref for Member<'scope, T> {
    type Target = Members<'scope, T>;

    fn deref(&self) -> &Self::Target {
        &self.members
    }
}

/// What lies on a member's stack. The closure is moved out when it starts, the rest when it ends.
struct Body<'scope, F> {
    id: MemberId,
    table: Rc<Table<'scope>>,
    closure: F,
}

impl<'scope, T: 'scope> Members<'scope, T> {
    /// Adds a member that will run `body` when it is first switched to.
    ///
    /// # Errors
    ///
    /// [`Error::Stack`] if there is no stack for it, [`Error::ClosureTooLarge`] if `body` does not fit on it.
    pub fn add<F>(&self, body: F) -> Result<MemberId, Error>
    where
        F: FnOnce(&Member<'scope, T>, T) -> Handoff<T> + 'scope,
    {
        let table = &self.table;
        let id = table.reserve();
        let body = Body { id, table: Rc::clone(table), closure: body };
        // SAFETY: entry and abandon are made for this body, and the registry ends after `'scope`.
        let made = unsafe { core::create(table.registry, body, entry::<T, F>, abandon_member::<T, F>) };
        match made {
            Ok(core) => table.places.borrow_mut()[id.index as usize].core = core,
            Err(_) => table.vacate(id),
        }
        made.map(|_| id)
    }

    /// Enters a member with `value` and waits until a member, not necessarily the same one,
    /// passes a value to [`Target::Resumer`].
    ///
    /// A member may call this as well; it is the resumer then, and waits.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchMember`] or [`Error::Running`] if `id` cannot be entered, with `value`. The same,
    /// with a member's last value, if one ended with a [`Handoff`] to a member that could not be entered.
    ///
    /// # Panics
    ///
    /// With the payload of the member that panicked.
    #[inline]
    pub fn resume(&self, id: MemberId, value: T) -> Result<T, Refused<T>> {
        let core = match self.table.enterable(id) {
            Ok(core) => core,
            Err(error) => return Err(Refused { error, value }),
        };
        let mut value = ManuallyDrop::new(value);
        // SAFETY: the member is fresh or suspended, and moves the value out. Who comes back has noted itself in
        // `back`, and its state says what the answer is, which is moved out before anything else runs.
        unsafe {
            let answer = core::resume(core, State::Active, (&raw mut value).cast());
            let back = self.table.back.get();
            match (*back).state.get() {
                State::Suspended => Ok(answer.cast::<T>().read()),
                State::Returned => {
                    let value = answer.cast::<T>().read();
                    core::release(back);
                    Ok(value)
                }
                State::Refused => {
                    let refused = answer.cast::<Refused<T>>().read();
                    core::release(back);
                    Err(refused)
                }
                _ => {
                    let payload = answer.cast::<Payload>().read();
                    core::release(back);
                    panic::resume_unwind(payload)
                }
            }
        }
    }
}

impl<T> Members<'_, T> {
    /// Ends a suspended or new member; its destructors have run when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchMember`] or [`Error::Running`].
    ///
    /// # Panics
    ///
    /// If a destructor of the member does.
    pub fn cancel(&self, id: MemberId) -> Result<(), Error> {
        let payload = self.end(id)?;
        cancel::propagate(payload);
        Ok(())
    }

    fn end(&self, id: MemberId) -> Result<Option<Payload>, Error> {
        let core = self.table.enterable(id)?;
        // SAFETY: it is fresh or suspended. `abandon` takes it out of the table, so that nobody finds it in a
        // final state, and it is released once.
        unsafe {
            let payload = ((*core).abandon)(core);
            core::release(core);
            Ok(payload)
        }
    }

    /// Whether the member exists and has not ended.
    pub fn contains(&self, id: MemberId) -> bool {
        self.table.find(id).is_some()
    }

    /// How many members have not ended.
    pub fn len(&self) -> usize {
        self.table.places.borrow().len() - self.table.vacant.borrow().len()
    }

    /// Whether all members have ended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'scope, T: 'scope> Group<'scope, T> {
    pub(super) fn new(registry: &'scope Registry) -> Self {
        let table = Table {
            registry,
            places: RefCell::default(),
            vacant: RefCell::default(),
            back: Cell::new(ptr::null()),
            dead: Cell::new(ptr::null()),
        };
        Self { members: Members { table: Rc::new(table), types: PhantomData } }
    }
}

impl<T> Drop for Group<'_, T> {
    /// Cancels its members. A panic inside goes on here, unless the thread is unwinding already.
    fn drop(&mut self) {
        let mut first = None;
        let mut index = 0;
        loop {
            let Some(generation) = self.table.places.borrow().get(index).map(|place| place.generation) else {
                break;
            };
            let id =
                MemberId { index: u32::try_from(index).expect("places are counted by a u32"), generation };
            let payload = self.end(id).ok().flatten();
            if first.is_none() {
                first = payload;
            } else {
                cancel::discard(payload);
            }
            index += 1;
        }
        cancel::propagate(first);
    }
}

impl<'scope, T: 'scope> Member<'scope, T> {
    /// This member's name.
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// Leaves this member and enters another one, or returns to the resumer, with `value`. Returns what
    /// whoever switches back brings.
    ///
    /// When the member is cancelled meanwhile, this call unwinds instead of returning.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchMember`] or [`Error::Running`] if the target cannot be entered,
    /// [`Error::NotOnItsStack`] if the caller is a coroutine that this member has resumed.
    /// Nothing was switched then, and the value comes back.
    #[inline]
    pub fn switch_to(&self, to: impl Into<Target>, value: T) -> Result<T, Refused<T>> {
        let to = to.into();
        if core::current() != self.core {
            return Err(Refused { error: Error::NotOnItsStack(self.id), value });
        }
        // SAFETY: a member's handle is only lent to its body, so its record is valid.
        let core = unsafe { &*self.core };
        if core.state.get() != State::Active {
            cancel::unwind_again(core);
        }
        let target = match to {
            Target::Resumer => None,
            Target::Member(id) => match self.table.enterable(id) {
                Ok(core) => Some(core),
                Err(error) => return Err(Refused { error, value }),
            },
        };
        let mut value = ManuallyDrop::new(value);
        let message = (&raw mut value).cast();
        // SAFETY: this member runs, checked above. A resumer and a member that is fresh or suspended both
        // move a `T` out, and answer with null or another `T`.
        unsafe {
            let answer = match target {
                None => {
                    self.table.back.set(self.core);
                    core::suspend(self.core, message)
                }
                Some(target) => core::hand_over(self.core, target, message),
            };
            if answer.is_null() {
                cancel::unwind();
            }
            let value = answer.cast::<T>().read();
            self.table.bury();
            Ok(value)
        }
    }
}

impl<T> fmt::Debug for Group<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// The first frame of a member.
unsafe extern "C" fn entry<'scope, T, F>(message: usize) -> !
where
    F: FnOnce(&Member<'scope, T>, T) -> Handoff<T> + 'scope,
{
    let core = core::current();
    // SAFETY: whoever entered made this member the current one and passes a `T`, which is moved out at
    // once; the body lies where `create` put it, and each of its parts is moved out once. All values are
    // moved into the last message or dropped before it, and no panic gets out.
    unsafe {
        let value = ptr::with_exposed_provenance_mut::<T>(message).read();
        let body = core::body_of::<Body<'scope, F>>(core);
        let id = (*body).id;
        (*body).table.bury();
        let closure = (&raw const (*body).closure).read();
        let members = Members { table: Rc::clone(&(*body).table), types: PhantomData };
        let member = Member { core, id, members };
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| closure(&member, value)));
        drop(member);
        let table = (&raw const (*body).table).read();
        table.vacate(id);
        let cancelling = (*core).state.get() == State::Cancelling;
        if !cancelling {
            table.back.set(core);
        }
        let Handoff { to, value } = match outcome {
            Ok(handoff) => handoff,
            Err(payload) => {
                drop(table);
                finish_unwound(core, payload)
            }
        };
        let next = match to {
            Target::Member(next) if !cancelling => Some(table.enterable(next)),
            _ => None,
        };
        if let Some(Ok(_)) = next {
            table.dead.set(core);
        }
        drop(table);
        match next {
            None => {
                let mut value = ManuallyDrop::new(value);
                core::finish(core, State::Returned, (&raw mut value).cast())
            }
            Some(Ok(next)) => {
                let mut value = ManuallyDrop::new(value);
                core::finish_into(core, next, (&raw mut value).cast())
            }
            Some(Err(error)) => {
                let mut refused = ManuallyDrop::new(Refused { error, value });
                core::finish(core, State::Refused, (&raw mut refused).cast())
            }
        }
    }
}

/// See [`core::Abandon`].
///
/// # Safety
///
/// `core` is a member with a body of these types, and is not active.
unsafe fn abandon_member<T, F>(core: *const Core) -> Option<Payload> {
    // SAFETY: a fresh or suspended member's table is still in place. Its name goes first, so that destructors
    // cannot find it. While it is being unwound, its last value is a `T`.
    unsafe {
        if matches!((*core).state.get(), State::Fresh | State::Suspended) {
            let body = core::body_of::<Body<'_, F>>(core);
            (*body).table.vacate((*body).id);
        }
        abandon::<Body<'_, F>, T>(core)
    }
}
