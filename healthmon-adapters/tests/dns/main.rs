//! The DNS prober, and the resolver with name servers of one's own choice, over real sockets: of a
//! real server (unbound), and of servers that hang, lie and babble. On loopback only.

mod conformance;
mod hostile;
mod real;
mod resolver;
mod sec;
mod settings;
mod support;
mod system;
