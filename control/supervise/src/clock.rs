//! The wall clock, which administrators, NTP and suspended machines set while programs wait.
//!
//! A pause is measured by tokio's clock, which nobody sets. This is for what others know by its date: an expiry.

#![expect(unsafe_code, reason = "AsyncFd wants a promise about its descriptor")]

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Seconds since the epoch until a day that nobody waits for, in 2242.
const NEVER: u64 = 1 << 33;

/// Waits until the wall clock is set.
///
/// # Errors
/// Those of [`until`].
pub async fn set() -> io::Result<()> {
    until(UNIX_EPOCH + Duration::from_secs(NEVER)).await
}

/// Waits until the wall clock shows `at`, or is set: whoever waits looks at it again then.
///
/// # Errors
/// The kernel has no timer to give: most likely the process is out of descriptors.
pub async fn until(at: SystemTime) -> io::Result<()> {
    let timer = TimerFd::new(ClockId::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    // Zero would disarm the timer.
    let since_epoch = at.duration_since(UNIX_EPOCH).unwrap_or_default().max(Duration::from_nanos(1));
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    timer.set(Expiration::OneShot(TimeSpec::from_duration(since_epoch)), flags)?;
    // SAFETY: an OwnedFd keeps its descriptor open and the same for as long as AsyncFd holds it.
    let timer = unsafe { AsyncFd::register_with_interest(OwnedFd::from(timer), Interest::READABLE)? };
    loop {
        let mut ready = timer.readable().await?;
        match nix::unistd::read(timer.get_ref(), &mut [0; 8]) {
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Ok(_) | Err(Errno::ECANCELED) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn times_come() {
        let begun = SystemTime::now();
        for at in [UNIX_EPOCH - Duration::from_secs(9), UNIX_EPOCH, begun, begun + Duration::from_millis(20)] {
            tokio::time::timeout(Duration::from_secs(10), until(at)).await.unwrap().unwrap();
            assert!(SystemTime::now() >= at);
        }
        let late = tokio::time::timeout(Duration::from_millis(20), until(begun + Duration::from_secs(3600))).await;
        assert!(late.is_err(), "a time that has not come");
    }
}
