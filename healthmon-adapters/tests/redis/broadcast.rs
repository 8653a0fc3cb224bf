//! Hints across nodes and outages.
