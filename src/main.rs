//! The program: everything it does is in the library.

use std::process::ExitCode;

/// SQLite's memory is taken from it too. glibc's keeps few of the blocks that a burst of requests gives back, and blocks from
/// another thread not at all.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    hooklatch::cli::main(std::env::args_os())
}
