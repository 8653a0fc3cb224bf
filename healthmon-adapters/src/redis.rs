//! The queue over Redis Streams, and hints over its publish and subscribe (Redis 6.2 or newer, Valkey).
//!
//! # What lies where
//!
//! Everything is under one prefix, with a hash tag so that it stays together.
//!
//! | Key | What |
//! |---|---|
//! | `s:<region>:<shard>` | stream of scheduled probes; an entry's id is `<slot ms>-<service id>`, so that Redis itself refuses repeats |
//! | `x:<region>` | stream of all other probes, and of scheduled ones that come after later slots; repeats are known by `seen:<region>` |
//! | `ready:<region>` | which of a region's streams have probes that nobody was given yet |
//! | `retry:<region>` | which probes are to be handed out again |
//! | `r:<shard>` | stream of results, the spool while the store is away |
//! | `news` | which shards may have results that their recorder was not given |
//! | `owners`, `recorders` | which recorder drains a shard, and until when each recorder lives |
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
//! Entries of probes stay for a minute after they are done, because a stream that still holds an id
//! knows it for a repeat. That is at most one entry for each service and region.
//!
//! What Redis has lost is made again by whoever needs it: groups, marks and counts come with the
//! next call, scripts are loaded when they are missing.

mod broadcaster;
mod codec;
mod connection;
mod options;
mod probes;
mod queue;
mod results;
mod upkeep;

pub use broadcaster::RedisBroadcaster;
pub use options::{InvalidRedisOptions, RedisOptions};
pub use queue::RedisProbeQueue;
