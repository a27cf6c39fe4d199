//! Where tests let a process die.

#[cfg(test)]
pub(crate) type Plan = (u32, &'static str, Box<dyn FnOnce()>);

#[cfg(test)]
thread_local! {
    static PLAN: std::cell::RefCell<Option<Plan>> = const { std::cell::RefCell::new(None) };
}

/// In tests: dies here, if a test asked for it.
#[inline]
pub(crate) fn crash_point(name: &'static str) {
    #[cfg(test)]
    {
        let dies = PLAN.with_borrow_mut(|plan| match plan {
            Some((0, wanted, _)) if *wanted == name => plan.take(),
            Some((left, wanted, _)) if *wanted == name => {
                *left -= 1;
                None
            }
            _ => None,
        });
        if let Some((_, _, on_death)) = dies {
            on_death();
            std::panic::resume_unwind(Box::new(name));
        }
    }
    #[cfg(not(test))]
    let _ = name;
}

/// Lets this thread die at the point `name`, when it comes there for the time after `before` others. Its last
/// act, before it unwinds, is `on_death`.
#[cfg(test)]
pub(crate) fn crash_at(name: &'static str, before: u32, on_death: impl FnOnce() + 'static) {
    PLAN.with_borrow_mut(|plan| *plan = Some((before, name, Box::new(on_death))));
}

/// Lets nobody die until [`resume`].
#[cfg(test)]
pub(crate) fn suspend() -> Option<Plan> {
    PLAN.with_borrow_mut(Option::take)
}

/// Goes on with what [`suspend`] put aside.
#[cfg(test)]
pub(crate) fn resume(plan: Option<Plan>) {
    PLAN.with_borrow_mut(|current| *current = plan);
}
