//! The store, the scheduler and a queue over PostgreSQL (14 or newer).
