//! Embedding.
fn main() {}
