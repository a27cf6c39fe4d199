//! The threads of this process, as the kernel sees them.

use std::fs;

/// The names of all threads but the main one. A name is at most 15 bytes, and often that of the program.
pub fn other_threads() -> Vec<String> {
    let this = std::process::id().to_string();
    let Ok(tasks) = fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter(|task| task.file_name().to_str() != Some(&this))
        .filter_map(|task| fs::read_to_string(task.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}
