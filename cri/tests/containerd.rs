//! A real containerd, as root, in a directory and a network namespace of its own.

#![allow(missing_docs, clippy::unwrap_used, clippy::large_futures, reason = "a test")]

mod fixture;

use std::path::Path;
use std::time::Duration;

use cri::containerd::State;
use cri::events::RuntimeEvent;
use cri::v1;
use fixture::{Fixture, SHELL_IMAGE, event, in_netns};

#[test]
fn containers_outlive_containerd_and_keelson() {
    in_netns(|| async {
        let mut fixture = Fixture::start().await;
        let containerd = fixture.containerd.clone();
        let runtime = fixture.runtime.clone();
        assert!(!containerd.adopted());
        assert_eq!(event(&mut fixture.events, |e| *e == RuntimeEvent::Resync).await, RuntimeEvent::Resync);

        // A second import finds everything there, unpacked once and for all.
        let unpacked = fixture.unpacked();
        assert_eq!(unpacked.len(), 1);
        let names = cri::images::import(containerd.endpoint(), &fixture.archive).await.unwrap();
        assert_eq!(names, [SHELL_IMAGE]);

        let sandbox = fixture.sandbox("a").await;
        let script = "trap 'exit 3' TERM; echo up; while :; do sleep 1; done";
        let id = fixture.container(&sandbox, "c", &["sh", "-c", script], |_| {}).await;
        let output =
            runtime.exec_sync(&id, words(&["sh", "-c", "echo out; echo err >&2; exit 7"]), Duration::from_secs(9));
        let output = output.await.unwrap();
        assert_eq!((&output.stdout[..], &output.stderr[..], output.exit_code), (&b"out\n"[..], &b"err\n"[..], 7));
        assert_eq!(fixture.unpacked(), unpacked);
        let exec = event(&mut fixture.events, |e| matches!(e, RuntimeEvent::ExecExit { .. })).await;
        assert!(matches!(exec, RuntimeEvent::ExecExit { container_id, exit_code: 7, .. } if container_id == id));

        // kill -9: it comes back, the container never noticed.
        let mut state = containerd.state();
        let State::Running { pid } = *state.borrow_and_update() else { panic!("it runs") };
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        let again = state.wait_for(|state| matches!(state, State::Running { pid: new } if *new != pid));
        tokio::time::timeout(Duration::from_secs(30), again).await.expect("it is started again").unwrap();
        event(&mut fixture.events, |e| *e == RuntimeEvent::Resync).await;
        let status = runtime.container_status(&id).await.unwrap();
        assert_eq!(status.state(), v1::ContainerState::ContainerRunning);

        // keelson goes and comes again.
        let State::Running { pid } = *containerd.state().borrow() else { panic!("it runs") };
        fixture.forget().await;
        fixture.adopt().await;
        assert!(fixture.containerd.adopted());
        assert_eq!(*fixture.containerd.state().borrow(), State::Running { pid });

        event(&mut fixture.events, |e| *e == RuntimeEvent::Resync).await;
        runtime.stop_container(&id, Duration::from_secs(10)).await.unwrap();
        let exit = event(&mut fixture.events, |e| matches!(e, RuntimeEvent::Exit { .. })).await;
        assert!(matches!(exit, RuntimeEvent::Exit { container_id, exit_code: 3, .. } if container_id == id));
        let status = runtime.exited_container_status(&id).await.unwrap();
        assert_eq!((status.state(), status.exit_code), (v1::ContainerState::ContainerExited, 3));
        let log = std::fs::read_to_string(Path::new(&status.log_path)).unwrap();
        assert!(log.ends_with(" stdout F up\n"), "{log}");
        fixture.end().await;
    });
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}
