//! The queue over Redis Streams, and hints over its publish and subscribe (Redis 6.2 or newer, Valkey).
