//! Asks the target interpreter's own headers where the fields are that a switch must save.
//!
//! A small C program is compiled against `Python.h` and run; it prints `offsetof`s as Rust constants,
//! which `src/ffi/` includes. Layouts differ between minor versions and nobody has to copy them.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROBE: &str = "src/ffi/layout_probe.c";

fn main() {
    println!("cargo:rerun-if-changed={PROBE}");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(weft_py, values(\"3.11\", \"3.12\", \"3.13\"))");

    let config = pyo3_build_config::get();
    let version = config.version();
    let (major, minor) = (version.major, version.minor);
    let name = format!("{major}.{minor}");
    assert!(
        (11..=13).contains(&minor) && major == 3,
        "weft supports CPython 3.11, 3.12 and 3.13; this is {name}. \
         A new version is one file in crates/python/src/ffi/ and one line here."
    );
    println!("cargo:rustc-cfg=weft_py=\"{name}\"");

    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let include = include_dir(config.executable());
    let layout = run_probe(&out, &include);
    std::fs::write(out.join("layout.rs"), layout).expect("OUT_DIR is writable");
}

/// Where the interpreter that the extension is built for keeps `Python.h`.
fn include_dir(executable: Option<&str>) -> String {
    let python = executable
        .map(str::to_owned)
        .or_else(|| env::var("PYO3_PYTHON").ok())
        .unwrap_or_else(|| "python3".to_owned());
    let script = "import sysconfig; print(sysconfig.get_path('include'))";
    let output = Command::new(&python)
        .args(["-c", script])
        .output()
        .unwrap_or_else(|error| panic!("cannot run {python} to find its headers: {error}"));
    assert!(output.status.success(), "{python} could not say where its headers are");
    let include = String::from_utf8(output.stdout).expect("paths are UTF-8").trim().to_owned();
    assert!(
        Path::new(&include).join("Python.h").exists(),
        "no Python.h in {include}: install the headers of this interpreter (a package such as python3-dev)"
    );
    include
}

fn run_probe(out: &Path, include: &str) -> String {
    let program = out.join("layout_probe");
    let compiler = cc::Build::new().opt_level(0).get_compiler();
    let status = compiler
        .to_command()
        .arg(PROBE)
        .arg(format!("-I{include}"))
        .arg(format!("-I{include}/internal"))
        .arg("-o")
        .arg(&program)
        .status()
        .unwrap_or_else(|error| panic!("cannot run the C compiler: {error}"));
    assert!(status.success(), "the layout probe {PROBE} does not compile against {include}");
    let output = Command::new(&program).output().expect("the layout probe runs on this machine");
    assert!(output.status.success(), "the layout probe failed");
    String::from_utf8(output.stdout).expect("the layout probe prints ASCII")
}
