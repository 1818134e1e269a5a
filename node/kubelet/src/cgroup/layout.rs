//! Which cgroup hierarchies the host has mounted, and where.

use std::path::{Path, PathBuf};

use super::CgroupError;

/// One v1 hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Controllers bound to it; `name=…` for a named one.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount: PathBuf,
}

impl Hierarchy {
    /// Whether the controller is bound here.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// Whether we make groups here ourselves; the runtime makes the others.
    pub(crate) fn is_managed(&self) -> bool {
        ["cpu", "cpuacct", "memory", "pids", "cpuset"].iter().any(|c| self.has(c))
    }
}

/// The host's arrangement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Controllers in hierarchies of their own; `unified` is the cgroup2 side of a hybrid host.
    V1 {
        /// All v1 hierarchies.
        hierarchies: Vec<Hierarchy>,
        /// The cgroup2 mount, where there is one.
        unified: Option<PathBuf>,
    },
    /// One cgroup2 tree.
    V2 {
        /// Its mount.
        mount: PathBuf,
    },
}

impl Layout {
    /// Reads the running host's.
    pub fn detect() -> Result<Layout, CgroupError> {
        let path = Path::new("/proc/self/mountinfo");
        let text = std::fs::read_to_string(path).map_err(super::io_error("read", path))?;
        Layout::from_mountinfo(&text)
    }

    /// From the text of /proc/self/mountinfo.
    pub fn from_mountinfo(text: &str) -> Result<Layout, CgroupError> {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut unified = None;
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut right = right.split(' ');
            let (Some(kind), _, Some(options)) = (right.next(), right.next(), right.next()) else { continue };
            let Some(mount) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            match kind {
                "cgroup2" => unified = unified.or(Some(mount)),
                "cgroup" => {
                    let controllers: Vec<String> = options
                        .split(',')
                        .filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children" | "relatime"))
                        .filter(|o| !o.starts_with("release_agent"))
                        .map(str::to_owned)
                        .collect();
                    // The same hierarchy may be mounted twice; the first is the usual place.
                    if !hierarchies.iter().any(|h| h.controllers == controllers) {
                        hierarchies.push(Hierarchy { controllers, mount });
                    }
                }
                _ => {}
            }
        }
        let has_controllers = hierarchies.iter().any(Hierarchy::is_managed);
        match (has_controllers, unified) {
            (true, unified) => Ok(Layout::V1 { hierarchies, unified }),
            (false, Some(mount)) => Ok(Layout::V2 { mount }),
            (false, None) => Err(CgroupError::NotMounted),
        }
    }

    /// Every mounted hierarchy.
    pub fn mounts(&self) -> Vec<&Path> {
        match self {
            Layout::V2 { mount } => vec![mount],
            Layout::V1 { hierarchies, unified } => {
                hierarchies.iter().map(|h| h.mount.as_path()).chain(unified.as_deref()).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n\
        31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,name=systemd\n";
    const UNIFIED: &str = "33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn three_layouts_and_none() {
        let v1 = Layout::from_mountinfo(V1).unwrap();
        assert_eq!(v1.mounts().len(), 3);
        let Layout::V1 { hierarchies, unified } = Layout::from_mountinfo(&format!("{V1}{UNIFIED}")).unwrap() else {
            panic!("hybrid is a v1 layout")
        };
        assert!(hierarchies[0].has("cpuacct") && hierarchies[2].has("name=systemd"));
        assert_eq!(unified, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let v2 = "24 18 0:22 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(Layout::from_mountinfo(v2).unwrap(), Layout::V2 { mount: "/sys/fs/cgroup".into() });
        assert!(Layout::from_mountinfo("1 1 0:1 / / rw - ext4 /dev/sda rw\n").is_err());
    }
}
