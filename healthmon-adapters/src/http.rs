//! Probing over HTTP.
