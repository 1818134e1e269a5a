//! The programs in the kernel: loaded with the pinned maps, and attached by links that are pinned too.
//!
//! ```text
//! PIN_DIR/v1/SERVICES4 …   maps, in a directory named by the version of their layout
//! PIN_DIR/links/connect4 … links: a program is replaced in its link, so that no event meets none or two
//! ```

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::programs::CgroupSockAddr;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};

use crate::kernel::{KernelError, Maps};
use crate::sys;

/// The programs, built by `build.rs`.
static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/programs.o"));

/// Each program, which is also its link's name, and the number of its hook in `enum bpf_attach_type`
/// (include/uapi/linux/bpf.h).
const HOOKS: &[(&str, u32)] = &[
    ("connect4", 10),
    ("connect6", 11),
    ("sendmsg4", 14),
    ("sendmsg6", 15),
    ("recvmsg4", 19),
    ("recvmsg6", 20),
    ("getpeername4", 29),
    ("getpeername6", 30),
];

/// Why the data path cannot be set up or read.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// A file operation failed.
    #[error("{action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The pin directory is on another kind of filesystem.
    #[error(
        "{path} is not on a bpffs; mount one there (`mount -t bpf bpf {path}`) or choose a directory below /sys/fs/bpf"
    )]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// The kernel did not take the programs.
    #[error("the kernel did not load the eBPF programs; `keelson check` tells what it lacks")]
    Load(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A program could not be hung in the cgroup.
    #[error("program {program} could not be {action} cgroup {cgroup}")]
    Attach {
        /// Which program.
        program: &'static str,
        /// Attached to, or replaced in.
        action: &'static str,
        /// The cgroup's directory.
        cgroup: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A map could not be used.
    #[error(transparent)]
    Map(#[from] KernelError),
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DatapathError {
    move |source| DatapathError::File { action, path: path.to_owned(), source }
}

/// The attach types of [`HOOKS`] that this kernel refuses, with its reason.
pub fn refused_hooks() -> Vec<(&'static str, io::Error)> {
    HOOKS.iter().filter_map(|(name, attach_type)| Some((*name, sys::knows(*attach_type).err()?))).collect()
}

/// Below the pin directory, where the links are pinned.
const LINKS: &str = "links";

/// The links of attached programs: held, so that the programs stay attached when somebody removes the pins.
pub(crate) struct Links(#[expect(dead_code, reason = "held open, not used")] Vec<OwnedFd>);

/// Loaded programs, not attached yet (or still running in an older version).
pub(crate) struct Programs {
    loaded: Ebpf,
    links: PathBuf,
}

/// Where the maps of this version are.
pub(crate) fn maps_directory(pin_dir: &Path) -> PathBuf {
    pin_dir.join(abi::VERSION)
}

/// Loads the programs, with the maps that an earlier process pinned or new ones.
pub(crate) fn load(pin_dir: &Path) -> Result<(Programs, Maps), DatapathError> {
    load_for(pin_dir, sys::sets_errors())
}

/// The same for a kernel where a program sets the error of a call, or where it cannot.
pub(crate) fn load_for(pin_dir: &Path, sets_errors: bool) -> Result<(Programs, Maps), DatapathError> {
    ensure_bpffs(pin_dir)?;
    let maps = maps_directory(pin_dir);
    let links = pin_dir.join(LINKS);
    for directory in [&maps, &links] {
        fs::create_dir_all(directory).map_err(failed("create", directory))?;
    }
    let sets_errors = u8::from(sets_errors);
    let mut loader = EbpfLoader::new();
    loader.btf(None).default_map_pin_directory(&maps).override_global("SETS_ERRORS", &sets_errors, true);
    let loaded = loader.load(OBJECT);
    let mut loaded = loaded.map_err(|error| DatapathError::Load(error.into()))?;
    for (name, _) in HOOKS {
        program(&mut loaded, name)?.load().map_err(|error| DatapathError::Load(error.into()))?;
    }
    sys::trim_heap();
    let mut opened = Maps::open(&maps)?;
    let cookie = sys::netns_cookie().map_err(failed("read the cookie of", Path::new("/proc/self/ns/net")))?;
    opened.set(abi::setting::NETNS_COOKIE, cookie)?;
    Ok((Programs { loaded, links }, opened))
}

fn program<'a>(loaded: &'a mut Ebpf, name: &str) -> Result<&'a mut CgroupSockAddr, DatapathError> {
    let found = loaded.program_mut(name).ok_or_else(|| DatapathError::Load(format!("no program {name}").into()))?;
    found.try_into().map_err(|error: aya::programs::ProgramError| DatapathError::Load(error.into()))
}

impl Programs {
    /// Puts the programs in their links, or makes the links. What ran before runs until the moment it is replaced.
    /// After an error the programs are given back, to try again.
    pub(crate) fn attach(mut self, cgroup: &Path) -> Result<Links, Box<(Self, DatapathError)>> {
        let links = self.attach_all(cgroup).map_err(|error| Box::new((self, error)))?;
        Ok(links)
    }

    fn attach_all(&mut self, cgroup: &Path) -> Result<Links, DatapathError> {
        let mut links = Vec::new();
        let directory = File::open(cgroup).map_err(failed("open", cgroup))?;
        let inode = directory.metadata().map_err(failed("stat", cgroup))?.ino();
        for (name, attach_type) in HOOKS {
            let fail =
                |action| move |source| DatapathError::Attach { program: name, action, cgroup: cgroup.into(), source };
            let path = self.links.join(name);
            let loaded = program(&mut self.loaded, name)?;
            let fd = loaded.fd().map_err(|error| DatapathError::Load(error.into()))?.as_fd();
            let wanted = sys::LinkInfo { cgroup: inode, attach_type: *attach_type };
            let old = match sys::open_pin(&path) {
                Ok(link) => Some(link),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => return Err(failed("open", &path)(error)),
            };
            if let Some(link) = &old
                && sys::link_info(link.as_fd()).is_ok_and(|found| found == wanted)
            {
                sys::link_update(link.as_fd(), fd).map_err(fail("replaced in"))?;
                links.extend(old);
                continue;
            }
            // The link hangs in another cgroup, perhaps one that is gone: the new one first, then away with the old.
            let link = sys::link_create(fd, directory.as_fd(), *attach_type).map_err(fail("attached to"))?;
            if let Some(old) = old {
                fs::remove_file(&path).map_err(failed("remove", &path))?;
                let _ = sys::link_detach(old.as_fd());
            }
            sys::pin(link.as_fd(), &path).map_err(failed("pin a link at", &path))?;
            links.push(link);
        }
        Ok(Links(links))
    }
}

/// Removes the maps of other versions: with the programs replaced, nothing uses them. What cannot be removed costs memory,
/// no more.
pub(crate) fn forget_versions(pin_dir: &Path) {
    let Ok(entries) = fs::read_dir(pin_dir) else { return };
    let others = entries.filter_map(Result::ok).filter(|entry| entry.file_name() != abi::VERSION);
    for entry in others.filter(|entry| entry.file_name() != LINKS) {
        if let Err(error) = fs::remove_dir_all(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "maps of another version are left");
        }
    }
}

/// Mounts a bpffs at `/sys/fs/bpf` where the pin directory is below it and none is there.
fn ensure_bpffs(pin_dir: &Path) -> Result<(), DatapathError> {
    let existing = pin_dir.ancestors().find(|directory| directory.exists()).unwrap_or(Path::new("/"));
    if sys::is_bpffs(existing).map_err(failed("statfs", existing))? {
        return Ok(());
    }
    let usual = Path::new("/sys/fs/bpf");
    if !pin_dir.starts_with(usual) || !usual.exists() {
        return Err(DatapathError::NotBpffs { path: existing.to_owned() });
    }
    sys::mount_bpffs(usual).map_err(failed("mount a bpffs at", usual))
}

/// Moves every pin of a node that has another name now: what is attached goes on. Where that cannot be, as when the new
/// place is taken, the programs are detached and the pins removed.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), DatapathError> {
    if !from.exists() {
        return Ok(());
    }
    match fs::rename(from, to) {
        Ok(()) => Ok(()),
        Err(error) => {
            tracing::warn!(from = %from.display(), to = %to.display(), %error, "pins of the former name cannot be taken over");
            uninstall(from)
        }
    }
}

/// Detaches the programs and removes every pin.
pub(crate) fn uninstall(pin_dir: &Path) -> Result<(), DatapathError> {
    let links = pin_dir.join(LINKS);
    for (name, _) in HOOKS {
        let path = links.join(name);
        if let Ok(link) = sys::open_pin(&path) {
            let _ = sys::link_detach(link.as_fd());
        }
    }
    match fs::remove_dir_all(pin_dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", pin_dir)(error)),
        _ => Ok(()),
    }
}
