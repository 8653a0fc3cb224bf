//! The probers of bare connections over real sockets, on loopback only: peers made for a test, and
//! real mail, directory, file, database and web servers.

mod certificates;
mod conformance;
mod dialogues;
mod hostile;
mod peers;
mod real;
mod sec;
mod settings;
mod starttls;
#[path = "../wire/support.rs"]
mod support;
