//! What a process uses, from `/proc`.

use anyhow::Context;
use std::path::Path;
use std::time::Duration;

/// User and system time of a process, all its threads included. The kernel tells it in hundredths of a second.
///
/// # Errors
/// The process is gone.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let ticks = ticks(&text).with_context(|| format!("{path}: not understood"))?;
    Ok(Duration::from_millis(ticks * 10))
}

/// utime and stime. The program's name, in parentheses, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Anonymous resident memory of a process, in MB (10^6 bytes).
///
/// # Errors
/// The process is gone.
pub(crate) fn rss_anon(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024.0 / 1e6)
}

/// The process on whose command line all these words begin one.
pub(crate) fn find(words: &[&str]) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).find(|pid: &u32| {
        let line = std::fs::read(Path::new("/proc").join(pid.to_string()).join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        words.iter().all(|word| line.split('\0').any(|part| part.starts_with(word)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_of_a_process_with_an_odd_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 13 29 0 0 20 0 8 0 100";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S 1"), None);
    }

    #[test]
    fn of_this_process() {
        let pid = std::process::id();
        assert!(rss_anon(pid).unwrap() > 0.1);
        cpu(pid).unwrap();
        assert!(find(&[&std::env::args().next().unwrap()]).is_some());
        assert_eq!(find(&["no program has this name in its command line, not even this one"]), None);
    }
}
