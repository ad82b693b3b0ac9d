//! Commands to run under the lock. Each finds out whether another of its kind lives, by a lock of
//! its own that the kernel releases with its last process, and leaves a file behind if so.

use super::tools::need;

/// Takes the second lock, or tells. Descriptor 9 stays open in everything that it starts.
const ALONE: &str = r#"#!/bin/sh
exec 9>>"$SCENE/alone"
flock -n 9 || { echo "$$ met another" >>"$SCENE/overlap"; exit 99; }
echo "$$ $GATEWAY_GENERATION" >>"$SCENE/starts"
"#;

/// Writes down what it hears, each time, and goes when it is told to by a file. A shell would not do:
/// it runs its traps later, and once for two of a kind.
pub const LISTENER: &str = r#"exec perl -e '
    sub note { open my $file, ">>", "$ENV{SCENE}/$_[0]"; syswrite $file, "$_[1]\n" }
    for my $name (qw(TERM INT HUP QUIT USR1 USR2 WINCH ALRM CONT)) { $SIG{$name} = sub { note "heard", $name } }
    note "marks", "ready";
    select undef, undef, undef, 0.05 until -e "$ENV{SCENE}/enough";
    '
    "#;

/// What the command does, once it is alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Payload<'a> {
    /// Runs until it is told to stop, as most programs do.
    Plain,
    /// Does not listen to TERM, INT or HUP.
    Deaf,
    /// Ends with 0 when told to stop.
    Graceful,
    /// Needs that many seconds to stop, then ends with 0.
    Slow(&'a str),
    /// Writes every signal that it hears to the file `heard`, and ends with 0 when there is a file
    /// `enough`.
    Listener,
    /// A script of its own.
    Script(&'a str),
}

impl Payload<'_> {
    /// The script.
    pub fn text(self) -> String {
        let rest = match self {
            Self::Plain => "exec sleep infinity\n".to_owned(),
            Self::Deaf => {
                "trap '' TERM INT HUP\necho deaf >>\"$SCENE/marks\"\nexec sleep infinity\n"
                    .to_owned()
            }
            Self::Graceful => waits_for_stop("exit 0"),
            Self::Slow(seconds) => waits_for_stop(&format!("sleep {seconds}; exit 0")),
            Self::Listener => {
                need("perl", "perl-base");
                LISTENER.to_owned()
            }
            Self::Script(text) => text.to_owned(),
        };
        format!("{ALONE}{rest}")
    }
}

/// `read` from a pipe that nobody writes to: a wait without a child, which a trap interrupts.
fn waits_for_stop(answer: &str) -> String {
    format!(
        "stop() {{ echo \"stopped by $1\" >>\"$SCENE/marks\"; {answer}; }}\n\
         trap 'stop TERM' TERM\ntrap 'stop INT' INT\ntrap 'stop HUP' HUP\n\
         echo ready >>\"$SCENE/marks\"\n\
         while :; do sleep infinity & wait $!; done\n"
    )
}
