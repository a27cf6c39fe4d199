//! What a watcher watches, and how the hub is told to watch it.

use std::time::Duration;

use pyo3::prelude::*;
use weft_reactor::signals::Listener;
use weft_reactor::{ChildExit, FileState, ReactorError, Ready, TimerKey, WatchKey};

use super::core::{Core, Phase, READ, WRITE};
use super::eventloop::to_exception;
use super::stat::{INTERVAL, Watched};

/// What is watched.
#[derive(Debug)]
pub(super) enum Kind {
    Io { descriptor: i32, events: i32, watch: Option<WatchKey> },
    Timer { after: f64, repeat: f64, at: u64, timer: Option<TimerKey> },
    Async,
    Child { pid: i32, child: Option<ChildExit>, watch: Option<WatchKey>, rpid: i32, rstatus: i32 },
    Signal { signal: i32 },
    Stat(Box<Watched>),
    Phase(Phase),
}

impl Kind {
    /// Has the hub tell of it, by `number`. Runs no Python code.
    pub(super) fn arm(&mut self, core: &mut Core, number: u64) -> PyResult<()> {
        match self {
            Self::Io { descriptor, events, watch } => {
                // One that asks for nothing is told when the descriptor is about to be closed.
                if *events != 0 {
                    let key = core.hub.tell_when(*descriptor, interest(*events), number);
                    *watch = Some(key.map_err(|error| to_exception(&error))?);
                }
                core.descriptors.entry(*descriptor).or_default().push((number, *events));
            }
            Self::Timer { after, at, timer, .. } => {
                *at = core.hub.now() + nanoseconds(*after);
                *timer = Some(core.hub.tell_at(*at, number));
            }
            Self::Child { pid, child, watch, .. } => {
                let opened = ChildExit::open(*pid).map_err(|error| to_exception(&error))?;
                let key = core.hub.tell_when(opened.descriptor(), Ready::READ, number);
                *watch = Some(key.map_err(|error| to_exception(&error))?);
                *child = Some(opened);
            }
            Self::Signal { signal } => {
                let listener = match &mut core.listener {
                    Some(listener) => listener,
                    none => {
                        let reactor =
                            core.hub.reactor().ok_or_else(|| to_exception(&ReactorError::Closed))?;
                        let waker = reactor.waker().clone();
                        none.insert(Listener::new(&waker).map_err(|error| to_exception(&error))?)
                    }
                };
                listener.watch(*signal).map_err(|error| to_exception(&error))?;
                core.signals.push((*signal, number));
            }
            Self::Stat(watched) => {
                watched.settle_interval();
                let interval = if watched.interval == 0.0 { INTERVAL } else { watched.interval };
                let period = Duration::from_nanos(nanoseconds(interval));
                let key = core.hub.tell_of_file(&watched.path, period, number);
                watched.key = Some(key.map_err(|error| to_exception(&error))?);
            }
            Self::Phase(phase) => core.phases.push((*phase, number)),
            Self::Async => {}
        }
        Ok(())
    }

    /// Has it tell nothing any more. Runs no Python code.
    pub(super) fn disarm(&mut self, core: &mut Core, number: u64) {
        match self {
            Self::Io { descriptor, watch, .. } => {
                if let Some(watch) = watch.take() {
                    core.hub.unwatch(watch);
                }
                if let Some(watchers) = core.descriptors.get_mut(descriptor) {
                    watchers.retain(|&(known, _)| known != number);
                    if watchers.is_empty() {
                        core.descriptors.remove(descriptor);
                    }
                }
            }
            Self::Child { child, watch, .. } => {
                if let Some(watch) = watch.take() {
                    core.hub.unwatch(watch);
                }
                *child = None;
            }
            Self::Timer { timer, .. } => {
                if let Some(timer) = timer.take() {
                    core.hub.cancel_timer(timer);
                }
            }
            Self::Signal { signal } => {
                core.signals.retain(|&(_, known)| known != number);
                if !core.signals.iter().any(|&(known, _)| known == *signal)
                    && let Some(listener) = &mut core.listener
                {
                    listener.unwatch(*signal);
                }
            }
            Self::Stat(watched) => {
                if let Some(state) = watched.key.take().and_then(|key| core.hub.unwatch_file(key)) {
                    let before = state.before.or(watched.state.before);
                    watched.state = FileState { before, ..state };
                }
            }
            Self::Phase(_) => core.phases.retain(|&(_, known)| known != number),
            Self::Async => core.sent.retain(|&known| known != number),
        }
    }

    /// What programs call it.
    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Timer { .. } => "timer",
            Self::Async => "async_",
            Self::Child { .. } => "child",
            Self::Signal { .. } => "signal",
            Self::Stat(_) => "stat",
            Self::Phase(Phase::Prepare) => "prepare",
            Self::Phase(Phase::Check) => "check",
            Self::Phase(Phase::Idle) => "idle",
            Self::Phase(Phase::Fork) => "fork",
        }
    }

    /// What is watched, for people.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Io { descriptor, events, .. } => {
                let names = ["NONE", "READ", "WRITE", "READ|WRITE"][(events & 3) as usize];
                format!(" fd={descriptor} events={names}")
            }
            Self::Timer { after, repeat, .. } => format!(" after={after:?} repeat={repeat:?}"),
            Self::Child { pid, rstatus, .. } => format!(" pid={pid} rstatus={rstatus}"),
            Self::Signal { signal } => format!(" signum={signal}"),
            Self::Stat(watched) => {
                format!(" path={:?} interval={:?}", watched.path, watched.interval)
            }
            Self::Async | Self::Phase(_) => String::new(),
        }
    }

    /// Its loop is gone, and with it what was watched.
    pub(super) fn forget(&mut self) {
        match self {
            Self::Io { watch, .. } | Self::Child { watch, .. } => *watch = None,
            Self::Timer { timer, .. } => *timer = None,
            Self::Stat(watched) => watched.key = None,
            Self::Signal { .. } | Self::Async | Self::Phase(_) => {}
        }
    }
}

fn interest(events: i32) -> Ready {
    let mut ready = Ready::NONE;
    if events & READ != 0 {
        ready |= Ready::READ;
    }
    if events & WRITE != 0 {
        ready |= Ready::WRITE;
    }
    ready
}

/// Seconds as the hub counts them.
pub(super) fn nanoseconds(seconds: f64) -> u64 {
    // The cast keeps to the type's limits; centuries are long enough.
    ((seconds.max(0.0) * 1e9) as u64).min(1 << 62)
}
