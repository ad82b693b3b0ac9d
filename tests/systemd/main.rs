//! The gateway under a real systemd: `Type=notify` units, crashes, takeovers,
//! stops and the journal. Each test boots its own, in namespaces of its own.

#[path = "../harness/systemd.rs"]
mod harness;

mod boots;
mod disk;
mod environment;
mod founding;
mod identity;
mod journal;
mod notify;
mod scene;
mod settings;
mod shipped;
mod takeover;
mod user;
mod war;
