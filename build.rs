//! Names the content of `static/`, so that browsers notice when a build carries other files.

use std::hash::{DefaultHasher, Hasher};
use std::{fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=static");
    let mut paths: Vec<_> = fs::read_dir("static")?.collect::<io::Result<_>>()?;
    paths.sort_by_key(fs::DirEntry::path);
    let mut hasher = DefaultHasher::new();
    for path in paths {
        hasher.write(&fs::read(path.path())?);
    }
    println!("cargo::rustc-env=ROOMCAST_STATIC_HASH={:016x}", hasher.finish());
    Ok(())
}
