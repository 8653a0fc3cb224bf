//! The queue over Redis Streams, and hints over its publish and subscribe (Redis 6.2 or newer, Valkey).
//!
//! # What lies where
//!
//! Everything is under one prefix, with a hash tag so that it stays together.
//!
//! | Key | What |
//! |---|---|
//! | `layout` | the layout of keys, and the number of shards: the same for every node |
//! | `regions` | those that had probes |
//! | `s:<region>` | stream of a region's probes, in bundles of 16 at most: `b` the bundle; when not all of it is meant, `m` a bit for each probe that is, and `d` how often they were handed out before |
//! | `with:<region>` | of each bundle that is with a worker, a bit for each probe that is not done |
//! | `seen:<region>:<bucket>` | the slot, service and kind of its probes, by two seconds of slots: a repeat is refused |
//! | `late:<region>:<bucket>` | those completed after their lease had run out: they are not handed out again |
//! | `r:<number>` | streams of results, 4 at most, in bundles of 64 at most, the spool while the store is away; a shard's are in one |
//! | `acked` | results that are recorded, of bundles that are not as a whole |
//! | `news` | which streams may have results that their recorder was not given |
//! | `owners`, `recorders` | which recorder drains a stream of results, and until when each recorder lives |
//! | `epochs` | the newest claim seen of each shard |
//! | `count` | how many probes and results there are |
//! | `poison` | bundles with probes that no worker brought to an end, the newest thousand |
//! | `upkeep` | who looks after the queue at the moment |
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
//! many streams and entries it touches, then how many bytes. So probes travel in bundles whose services
//! are compressed together, and it is not the ids of a stream's entries that tell a repeat, which would
//! ask for a stream to each scheduler and for slots in their order, but sets beside it, which have
//! what was put in within the last minute. Entries of probes go as soon as all in them are done.
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
