//! What `ps` and `top` call the processes that weft starts for itself: the kernel's name of their main thread, of up to 15 bytes.
//!
//! A name that the program has given itself is left alone. What is forked off a process with a title of weft's is told so, and
//! has the name from before: a process of the program's own never has a title.

use std::ffi::{CStr, CString};
use std::sync::OnceLock;

/// The process that forks others.
pub const TEMPLATE: &CStr = c"weft-template";
/// One that was forked in advance, and waits for work.
pub const SPARE: &CStr = c"weft-spare";
/// A worker of a pool or an executor.
pub const WORKER: &CStr = c"weft-worker";
/// The server of a manager.
pub const MANAGER: &CStr = c"weft-manager";

const ALL: [&CStr; 4] = [TEMPLATE, SPARE, WORKER, MANAGER];

/// The name from before. All processes that are forked off this one had the same.
static BEFORE: OnceLock<CString> = OnceLock::new();

/// Gives this process a title, unless it has a name already that is not the one of the file that it was started from. Says
/// whether it has. To be called in the main thread; a process without a title is none the worse.
pub fn take(title: &CStr) -> bool {
    let Ok(now) = rustix::thread::name() else { return false };
    let is_fresh = is_of_program(&now);
    if !(is_fresh || is_title(&now)) || rustix::thread::set_name(title).is_err() {
        return false;
    }
    if is_fresh {
        BEFORE.get_or_init(|| now);
    }
    true
}

/// In a process that is the program's own from now on: it has the name from before, unless it was given another one.
pub fn give_back() {
    if let Some(before) = BEFORE.get()
        && rustix::thread::name().is_ok_and(|now| is_title(&now))
    {
        // It keeps the title otherwise, which does no harm.
        let _ = rustix::thread::set_name(before);
    }
}

fn is_title(name: &CStr) -> bool {
    ALL.contains(&name)
}

/// Whether the kernel called the process so when it was started.
fn is_of_program(name: &CStr) -> bool {
    // SAFETY: any number may be asked for.
    let path = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const libc::c_char;
    if path.is_null() {
        return false;
    }
    // SAFETY: the kernel put a string there, which is this process's for good.
    let path = unsafe { CStr::from_ptr(path) }.to_bytes();
    let file = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    name.to_bytes() == &file[..file.len().min(15)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_short_enough_to_be_seen_whole() {
        assert!(ALL.iter().all(|title| title.to_bytes().len() <= 15));
    }

    #[test]
    fn a_name_of_ones_own_is_left_alone() {
        // A thread's: the test's is not the one that the process was started with.
        rustix::thread::set_name(c"my own").unwrap();
        assert!(!take(WORKER));
        give_back();
        assert_eq!(rustix::thread::name().unwrap().as_c_str(), c"my own");
    }

    #[test]
    fn the_name_from_before_comes_back() {
        let path = std::env::current_exe().unwrap();
        let file = CString::new(path.file_name().unwrap().as_encoded_bytes()).unwrap();
        rustix::thread::set_name(&file).unwrap();
        let before = rustix::thread::name().unwrap();
        assert!(take(TEMPLATE) && take(SPARE));
        assert_eq!(rustix::thread::name().unwrap().as_c_str(), SPARE);
        give_back();
        assert_eq!(rustix::thread::name().unwrap(), before);
    }
}
