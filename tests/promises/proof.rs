//! A number in the file is proven to hold the lock, or nothing is done to it.

use std::fs;
use std::time::Duration;

use crate::harness::{Process, SOON, Scene, remember, until};
use crate::kit::compiled;

/// Holds the lock on a file, and says what the number of its second thread is.
const TWO_THREADS: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *told;

static void *second(void *unused) {
    (void)unused;
    FILE *file = fopen(told, "w");
    fprintf(file, "%ld\n", syscall(SYS_gettid));
    fclose(file);
    for (;;) pause();
}

int main(int argc, char **argv) {
    pthread_t thread;
    if (argc != 3 || flock(open(argv[1], O_RDWR | O_CREAT, 0600), LOCK_EX | LOCK_NB) != 0) return 1;
    told = argv[2];
    if (pthread_create(&thread, NULL, second, NULL) != 0) return 2;
    for (;;) pause();
}
"#;

struct Threads {
    locker: Process,
    thread: u32,
}

fn threads(scene: &Scene) -> Threads {
    let program = compiled(scene, "threads", TWO_THREADS);
    let mut command = scene.command(program);
    command.arg(scene.pid_file()).arg(scene.path("thread"));
    let mut locker = scene.spawn(command);
    let thread = until("the thread's number", SOON, || {
        assert!(locker.is_running());
        scene.lines("thread").first()?.parse().ok()
    });
    assert_ne!(thread, locker.pid());
    assert_eq!(scene.lockers(), [locker.pid()]);
    Threads { locker, thread }
}

/// cagriekin/charts#346: `kill(tid, 0)` answers yes, and `/proc/TID` is there, for a thread of
/// anybody; here the thread's own process has the lock.
#[test]
fn the_number_of_a_thread_of_the_locker_is_not_its_number() {
    let scene = Scene::new();
    let Threads { mut locker, thread } = threads(&scene);
    remember(locker.pid());
    let stat = fs::read_to_string(format!("/proc/{thread}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let start = fields.split(' ').nth(19).unwrap();
    let bare = format!("{thread}\n");
    let old = format!("{{\"pid\":{thread},\"start_time\":{start},\"argv\":[\"threads\"]}}");
    for text in [bare, old] {
        fs::write(scene.pid_file(), &text).unwrap();
        for words in [
            &[
                "run",
                "--replace",
                "--timeout",
                "1",
                "--kill-after",
                "0.5",
                "--",
                "touch",
                "ran",
            ][..],
            &["run", "--", "touch", "ran"],
            &["stop", "--timeout", "1", "--kill-after", "0.5"],
        ] {
            let output = scene.finish(words);
            output
                .assert_code(82)
                .assert_says(&format!("pid {} (", locker.pid()));
            assert!(output.took < Duration::from_secs(4), "{output:?}");
            assert!(locker.is_running(), "{text:?} {words:?}");
        }
        assert_eq!(scene.bytes(), text.as_bytes());
        assert_eq!(scene.lockers(), [locker.pid()]);
    }
    assert!(!scene.path("ran").exists());
}
