//! The loops that make a monitor of the ports, and the monitor that holds them together.
//!
//! One loop a file: [`tick`] asks the scheduler what fell due and enqueues it, [`worker`] takes
//! probes and performs them, [`recorder`] takes results and records them, [`edges`] probes
//! sooner what is undecided, [`sweeper`] looks for what nobody reports. They share nothing but the
//! ports, and what a recorder tells of what it recorded.

mod canary;
pub mod clock;
pub mod edges;
mod handle;
mod ids;
mod lanes;
mod monitor;
pub mod recorder;
mod routes;
pub mod sweeper;
pub mod tick;
mod uptime;
mod vitals;
mod watchers;
pub mod worker;

pub use canary::{Canary, InvalidCanary};
pub use handle::{Handle, HandleError, LogStream};
pub use ids::ServiceIds;
pub use monitor::{BuildError, Monitor, MonitorBuilder, Role, RunError, Tuning};
pub use routes::{AmbiguousScheme, Probers};
pub use vitals::{Recent, VitalSigns, Vitals};
