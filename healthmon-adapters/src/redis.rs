//! The queue over Redis Streams, and hints over its publish and subscribe (Redis 6.2 or newer, Valkey).
//!
//! # What lies where
//!
//! Everything is under one prefix, with a hash tag so that it stays together.
//!
//! | Key | What |
//! |---|---|
//! | `s:<region>` | stream of a region's probes |
//! | `seen:<region>:<bucket>` | set of the slot, service and kind of its probes, by half-minutes of slots: a repeat is refused |
//! | `retry:<region>` | which probes are to be handed out again |
//! | `r:<number>` | streams of results, 8 at most, the spool while the store is away; a shard's are in one |
//! | `news` | which of them may have results that their recorder was not given |
//! | `owners`, `recorders` | which recorder drains a stream of results, and until when each recorder lives |
//! | `epochs` | the newest claim seen of each shard |
//! | `count` | how many probes and results there are |
//! | `poison` | the newest thousand probes that no worker brought to an end |
//! | `idle:*`, channel `wake` | who waits for news |
//!
//! # How it is done
//!
//! Every change is one script, so that it happens whole or not at all, whenever a call is dropped, a
//! process killed or a connection lost. No call blocks on the server: a worker that was given less
//! than it asked for leaves a mark in the same script, whoever adds something next removes the mark
//! and publishes a word, and in case that is lost everybody looks once a second.
//!
//! One stream for all shards of a region, and few for results: what a call costs is first of all how
//! many streams it touches. So it is not the ids of a stream's entries that tell a repeat, which would
//! ask for a stream to each scheduler and for slots in their order, but a set beside it, which has
//! what was put in within the last minute. Entries of probes go as soon as they are done.
//!
//! What Redis has lost is made again by whoever needs it: groups, marks and counts come with the
//! next call, scripts are loaded when they are missing.

mod broadcaster;
mod codec;
mod connection;
#[cfg(all(feature = "fuzz", any(fuzzing, test)))]
pub(crate) mod fuzz;
mod options;
mod probes;
mod queue;
mod results;
mod upkeep;

pub use broadcaster::RedisBroadcaster;
pub use options::{InvalidRedisOptions, RedisOptions};
pub use queue::RedisProbeQueue;
