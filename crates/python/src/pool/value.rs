//! A task's outcome as it is kept until somebody asks for it.
//!
//! Small plain values are made into objects at once. What has to be unpickled is kept as it came: unpickling runs the
//! program's code, which may take its time or raise, and that is the business of whoever wants the value.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::queue::codec::{self, Message, Spans};

/// How a task ended, or one part of it.
pub(super) enum Value {
    /// Nothing came yet.
    None,
    /// It returned this.
    Returned(Py<PyAny>),
    /// It returned what this message stands for.
    Sealed(Box<Message>),
    /// It raised what this message describes.
    SealedError(Box<Message>),
    /// It failed with this exception.
    Failed(Py<PyAny>),
}

impl Value {
    /// What a message says: `raised`, or returned.
    pub(super) fn of(py: Python<'_>, raised: bool, kind: u8, body: &[u8], mut spans: Spans) -> Self {
        if !raised && codec::is_plain(kind, &spans) {
            return match codec::decode(py, kind, body, &mut spans) {
                Ok(object) => Self::Returned(object.unbind()),
                Err((_, Some(message))) => Self::Sealed(message),
                Err((error, None)) => Self::Failed(error.into_value(py).into_any()),
            };
        }
        let message = Box::new(Message::new(kind, body.to_vec(), spans));
        if raised { Self::SealedError(message) } else { Self::Sealed(message) }
    }

    /// Whether it is a failure.
    pub(super) const fn is_failure(&self) -> bool {
        matches!(self, Self::SealedError(_) | Self::Failed(_))
    }

    /// The value, or the exception, as an object. What cannot be unpickled becomes a failure that says so; only a want
    /// of memory, and what is no `Exception`, as Ctrl-C, is raised as it is, and the value stays what it was.
    pub(super) fn open(self, py: Python<'_>) -> Result<Opened, (PyErr, Self)> {
        self.open_with(py, "revive", |error| unreadable(py, error))
    }

    /// As [`Value::open`]; the helper `revive` makes the exception that was described, `unreadable` the failure of what cannot be
    /// unpickled.
    pub(super) fn open_with(
        self,
        py: Python<'_>,
        revive: &str,
        unreadable: impl Fn(PyErr) -> Py<PyAny>,
    ) -> Result<Opened, (PyErr, Self)> {
        match self {
            Self::None => Ok(Opened::Returned(py.None())),
            Self::Returned(object) => Ok(Opened::Returned(object)),
            Self::Failed(error) => Ok(Opened::Failed(error)),
            Self::Sealed(message) => match codec::decode_again(py, *message) {
                Ok(object) => Ok(Opened::Returned(object.unbind())),
                Err((error, Some(message))) => Err((error, Self::Sealed(message))),
                Err((error, None)) => Ok(Opened::Failed(unreadable(error))),
            },
            Self::SealedError(message) => {
                let described = match codec::decode_again(py, *message) {
                    Ok(described) => described,
                    Err((error, Some(message))) => return Err((error, Self::SealedError(message))),
                    Err((error, None)) => return Ok(Opened::Failed(unreadable(error))),
                };
                match helper(py, revive).and_then(|revive| revive.call1((described,))) {
                    Ok(error) => Ok(Opened::Failed(error.unbind())),
                    Err(error) => Ok(Opened::Failed(error.into_value(py).into_any())),
                }
            }
        }
    }
}

/// A value that was asked for.
pub(super) enum Opened {
    /// It returned this.
    Returned(Py<PyAny>),
    /// It failed with this exception.
    Failed(Py<PyAny>),
}

impl Opened {
    /// As a method returns or raises it.
    pub(super) fn into_result(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::Returned(object) => Ok(object),
            Self::Failed(error) => Err(PyErr::from_value(error.into_bound(py))),
        }
    }

    pub(super) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Returned(object) => Self::Returned(object.clone_ref(py)),
            Self::Failed(error) => Self::Failed(error.clone_ref(py)),
        }
    }

    /// To be kept.
    pub(super) fn into_value(self) -> Value {
        match self {
            Self::Returned(object) => Value::Returned(object),
            Self::Failed(error) => Value::Failed(error),
        }
    }
}

/// The failure of a task whose result cannot be unpickled.
pub(super) fn unreadable(py: Python<'_>, error: PyErr) -> Py<PyAny> {
    let made = helper(py, "unreadable").and_then(|make| make.call1((error.into_value(py),)));
    made.map_or_else(|error| error.into_value(py).into_any(), Bound::unbind)
}

/// A function of the module that knows how exceptions travel.
pub(super) fn helper<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    static MODULE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let module = MODULE
        .get_or_try_init(py, || Ok::<_, PyErr>(py.import("weft._failures")?.into_any().unbind()))?
        .bind(py);
    module.getattr(name)
}
