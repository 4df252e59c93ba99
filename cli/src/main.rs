//! The one program `pvfs2`.
fn main() {}
