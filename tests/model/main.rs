//! Every order of events, tried: three processes, one pid file, and somebody who meddles with it.
//!
//! The search drives the decision that is shipped, [`gateway_lock::takeover::Takeover`]. The world
//! around it (files, locks, records, descriptors, the order of the steps) is a model of the kernel
//! and of the drivers in `acquire`, `claim`, `supervise` and `stop`: one step is one atomic call.
//! That the search can see is shown by faults planted into the model, each of which it must find.

mod holder;
mod search;
mod seeker;
mod stopper;
mod world;

use search::{Found, Limits, explore};
use world::{Fault, Kind, Meddling, Setting};

/// Nothing but starts of these kinds, in every order.
fn only(kinds: &'static [Kind]) -> Setting {
    Setting {
        kinds,
        ..Setting::NOTHING
    }
}

fn holds(setting: Setting) {
    match explore(&setting, Limits::default()) {
        Found::Nothing { states } => println!("{states} states"),
        Found::Violation { what, trace } => panic!("{what}\n{trace}"),
    }
}

/// The fault must be found, and by the promise that it breaks.
#[track_caller]
fn found(fault: Fault, setting: Setting, promise: &str) {
    let planted = Setting {
        fault: Some(fault),
        ..setting
    };
    match explore(&planted, Limits::default()) {
        Found::Nothing { states } => panic!("{fault:?} is not found in {states} states"),
        Found::Violation { what, trace } => {
            assert!(what.contains(promise), "{fault:?}: {what}\n{trace}");
        }
    }
}

const STARTS: &[Kind] = &[Kind::Plain, Kind::Wait, Kind::Replace];

#[test]
fn three_starts_of_every_kind_with_a_crash_keep_every_promise() {
    holds(Setting {
        crashes: 1,
        ..only(STARTS)
    });
}

#[test]
fn three_starts_and_a_file_removed_at_any_point_keep_every_promise() {
    holds(removed(&[Kind::Plain, Kind::Wait]));
}

#[test]
fn two_starts_with_a_removed_file_a_crash_and_a_signal_keep_every_promise() {
    holds(Setting {
        processes: 2,
        crashes: 1,
        signals: 1,
        ..removed(STARTS)
    });
}

#[test]
fn two_starts_and_a_file_removed_replaced_copied_moved_and_put_back_keep_every_promise() {
    holds(Setting {
        processes: 2,
        meddlings: 2,
        meddling: MEDDLING,
        ..only(STARTS)
    });
}

#[test]
fn a_file_moved_away_and_back_at_any_point_never_makes_two_payloads() {
    holds(two(Setting {
        meddlings: 2,
        meddling: &[Meddling::MoveAway, Meddling::MoveBack],
        excused: true,
        ..only(STARTS)
    }));
}

#[test]
fn three_starts_and_an_overwritten_record_keep_every_promise() {
    holds(Setting {
        meddlings: 1,
        meddling: &[Meddling::Overwrite],
        ..only(&[Kind::Plain, Kind::Wait])
    });
}

#[test]
fn stops_and_probes_keep_every_promise() {
    holds(Setting {
        processes: 2,
        crashes: 1,
        ..removed(EVERYTHING)
    });
}

#[test]
fn default_limits_keep_every_promise() {
    holds(Setting {
        processes: 2,
        limits: None,
        crashes: 1,
        ..removed(EVERYTHING)
    });
}

#[test]
fn a_pid_handed_on_is_never_signalled() {
    holds(two(Setting {
        crashes: 1,
        reuses: 1,
        ..only(&[Kind::Plain, Kind::Replace, Kind::Stop])
    }));
}

/// The long form: `cargo test --release --test model -- --ignored --test-threads=1`
mod long {
    use super::*;

    #[test]
    #[ignore = "half a minute and a gigabyte in the release profile"]
    fn three_starts_of_every_kind_and_a_file_removed_at_any_point() {
        holds(removed(STARTS));
    }

    #[test]
    #[ignore = "half a minute and a gigabyte in the release profile"]
    fn three_starts_of_every_kind_with_a_crash_and_a_signal() {
        holds(Setting {
            crashes: 1,
            signals: 1,
            ..only(STARTS)
        });
    }

    #[test]
    #[ignore = "half a minute and a gigabyte in the release profile"]
    fn three_starts_with_a_removed_file_and_a_crash() {
        for kinds in [&[Kind::Plain, Kind::Wait], &[Kind::Plain, Kind::Replace]] {
            holds(Setting {
                crashes: 1,
                ..removed(kinds)
            });
        }
    }

    #[test]
    #[ignore = "half a minute and a gigabyte in the release profile"]
    fn three_starts_and_every_way_to_meddle_twice() {
        holds(Setting {
            meddlings: 2,
            meddling: MEDDLING,
            ..only(&[Kind::Plain])
        });
    }

    #[test]
    #[ignore = "half a minute and a gigabyte in the release profile"]
    fn starts_stops_and_probes_with_a_crash() {
        holds(Setting {
            crashes: 1,
            ..only(EVERYTHING)
        });
    }
}

const MEDDLING: &[Meddling] = &[
    Meddling::Remove,
    Meddling::Replace,
    Meddling::Copy,
    Meddling::MoveAway,
    Meddling::MoveBack,
];

const EVERYTHING: &[Kind] = &[
    Kind::Plain,
    Kind::Wait,
    Kind::Replace,
    Kind::Stop,
    Kind::Probe,
];

const REMOVED: Setting = Setting {
    meddlings: 1,
    meddling: &[Meddling::Remove],
    ..Setting::NOTHING
};

fn removed(kinds: &'static [Kind]) -> Setting {
    Setting { kinds, ..REMOVED }
}

fn two(setting: Setting) -> Setting {
    Setting {
        processes: 2,
        ..setting
    }
}

#[test]
fn a_skipped_proof_is_found() {
    let setting = Setting {
        crashes: 1,
        reuses: 1,
        ..only(&[Kind::Plain, Kind::Replace])
    };
    found(Fault::NoProof, setting, "a bystander is signalled");
}

#[test]
fn a_lock_that_is_not_asked_for_is_found() {
    found(Fault::NoLock, two(only(STARTS)), "two payloads");
}

#[test]
fn skipped_comparisons_of_the_inode_are_found() {
    found(Fault::NoComparison, two(removed(STARTS)), "two payloads");
}

#[test]
fn a_skipped_comparison_after_the_record_is_found() {
    found(
        Fault::NoLastComparison,
        two(removed(STARTS)),
        "two payloads",
    );
}

#[test]
fn a_skipped_search_is_found() {
    found(Fault::NoSearch, two(removed(STARTS)), "two payloads");
}

#[test]
fn a_skipped_sweep_is_found() {
    let setting = Setting {
        crashes: 1,
        ..only(STARTS)
    };
    found(Fault::NoSweep, setting, "two payloads");
}

#[test]
fn a_holder_that_does_not_put_its_claim_back_is_found() {
    found(Fault::NoHealing, two(removed(STARTS)), "without a claim");
}

#[test]
fn a_holder_that_gives_way_to_a_mere_lock_is_found() {
    found(
        Fault::GivesWayToAnyLock,
        two(removed(STARTS)),
        "nobody runs",
    );
}

#[test]
fn a_newcomer_that_keeps_the_lock_of_the_new_file_is_found() {
    found(
        Fault::KeepsTheNewFile,
        two(removed(STARTS)),
        "without a claim",
    );
}

#[test]
fn a_holder_that_lets_go_before_its_payload_is_gone_is_found() {
    found(Fault::LetsGoFirst, two(only(STARTS)), "two payloads");
}

#[test]
fn a_payload_before_the_record_is_found() {
    found(Fault::PayloadFirst, two(removed(STARTS)), "two payloads");
}

#[test]
fn a_replacer_that_asks_although_it_was_told_to_end_is_found() {
    found(
        Fault::AsksAlthoughTold,
        removed(&[Kind::Replace]),
        "nobody runs",
    );
}

#[test]
fn trust_in_any_file_that_names_itself_is_found() {
    let setting = Setting {
        meddlings: 2,
        meddling: &[Meddling::MoveAway, Meddling::MoveBack],
        crashes: 1,
        ..only(&[Kind::Plain])
    };
    found(Fault::TrustsAnyNamedFile, setting, "two payloads");
}

#[test]
fn a_proof_by_a_copied_record_is_found() {
    let setting = Setting {
        meddlings: 2,
        meddling: &[Meddling::Copy],
        ..only(&[Kind::Plain])
    };
    found(Fault::ProvesByACopiedRecord, two(setting), "nobody runs");
}

#[test]
fn a_start_that_leaves_its_record_where_it_does_not_run_is_found() {
    let setting = Setting {
        meddlings: 2,
        meddling: &[Meddling::MoveAway, Meddling::MoveBack],
        ..only(&[Kind::Plain])
    };
    found(Fault::LeavesItsRecord, two(setting), "nobody runs");
}
