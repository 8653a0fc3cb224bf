//! The healthmon server.
fn main() {}
