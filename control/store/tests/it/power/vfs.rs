//! A file system for SQLite that notes what it is told to write and to sync, and that can be made to fail.
//!
//! It stands in front of SQLite's own and becomes the default of this process; files outside of recorded directories are
//! not touched. A file is SQLite's own file structure with an [`Extension`] behind it.

#![expect(unsafe_code, reason = "SQLite's file system is a table of C functions")]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rusqlite::ffi::{
    SQLITE_IOERR_FSYNC, SQLITE_OK, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs, sqlite3_vfs_find,
    sqlite3_vfs_register,
};

/// What was done to a file.
#[derive(Clone, Debug)]
pub(super) struct Op {
    pub(super) file: Arc<str>,
    pub(super) what: What,
}

/// What was done.
#[derive(Clone, Debug)]
pub(super) enum What {
    Write {
        at: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        size: usize,
    },
    Sync,
    Delete {
        durable: bool,
    },
    /// Not of this file alone: the directory is synced, and with it every deletion.
    SyncDirectory,
}

/// What happens to the files of one directory.
#[derive(Debug)]
pub(super) struct Recorder {
    directory: PathBuf,
    log: Mutex<Vec<Op>>,
    syncs_fail: AtomicBool,
}

/// What stands behind SQLite's own file structure.
#[repr(C)]
struct Extension {
    /// SQLite's functions, of which some are replaced.
    methods: sqlite3_io_methods,
    own: *const sqlite3_io_methods,
    recorder: &'static Recorder,
    /// Leaked: a test opens a handful.
    file: &'static Arc<str>,
}

static RECORDERS: Mutex<Vec<&'static Recorder>> = Mutex::new(Vec::new());

/// SQLite's own file system.
struct Own(*mut sqlite3_vfs);

// SAFETY: SQLite's file systems are made to be used by any thread, and live as long as the process.
unsafe impl Send for Own {}
// SAFETY: as above.
unsafe impl Sync for Own {}

static OWN: OnceLock<Own> = OnceLock::new();

impl Recorder {
    /// Records what happens in the directory from now on.
    pub(super) fn start(directory: &Path) -> &'static Recorder {
        OWN.get_or_init(install);
        let recorder = Recorder {
            directory: directory.canonicalize().unwrap(),
            log: Mutex::default(),
            syncs_fail: AtomicBool::new(false),
        };
        // The file system's structures have no end; a test makes one or two.
        let recorder: &'static Recorder = Box::leak(Box::new(recorder));
        RECORDERS.lock().unwrap().push(recorder);
        recorder
    }

    /// How much has happened.
    pub(super) fn position(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    /// Notes that somebody else synced the directory.
    pub(super) fn directory_synced(&self) {
        self.note(&".".into(), What::SyncDirectory);
    }

    /// All that happened.
    pub(super) fn log(&self) -> Vec<Op> {
        self.log.lock().unwrap().clone()
    }

    /// From now on, or no longer, every sync fails.
    pub(super) fn fail_syncs(&self, fail: bool) {
        self.syncs_fail.store(fail, Ordering::SeqCst);
    }

    fn of(path: &Path) -> Option<&'static Recorder> {
        RECORDERS.lock().unwrap().iter().copied().find(|recorder| path.starts_with(&recorder.directory))
    }

    fn note(&self, file: &Arc<str>, what: What) {
        self.log.lock().unwrap().push(Op { file: file.clone(), what });
    }
}

fn install() -> Own {
    // SAFETY: the default file system is there for good, and so is the leaked copy that stands in front of it.
    unsafe {
        let own = sqlite3_vfs_find(std::ptr::null());
        let mut recording = *own;
        recording.szOsFile = c_int::try_from(extension_at(own) + size_of::<Extension>()).unwrap();
        recording.zName = c"recording".as_ptr();
        recording.pNext = std::ptr::null_mut();
        recording.xOpen = Some(open);
        recording.xDelete = Some(delete);
        assert_eq!(sqlite3_vfs_register(Box::leak(Box::new(recording)), 1), SQLITE_OK);
        Own(own)
    }
}

/// Where the extension begins in a file structure.
unsafe fn extension_at(own: *mut sqlite3_vfs) -> usize {
    // SAFETY: the caller has a file system.
    let length = usize::try_from(unsafe { (*own).szOsFile }).unwrap();
    length.next_multiple_of(align_of::<Extension>())
}

fn own() -> *mut sqlite3_vfs {
    OWN.get().expect("it is installed before a file is opened").0
}

unsafe fn extension(file: *mut sqlite3_file) -> *mut Extension {
    // SAFETY: SQLite allocated `szOsFile` bytes, which end with the extension.
    unsafe { file.byte_add(extension_at(own())).cast() }
}

unsafe fn path(name: *const c_char) -> PathBuf {
    // SAFETY: SQLite passes C strings.
    PathBuf::from(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()))
}

fn short(path: &Path) -> Arc<str> {
    path.file_name().unwrap().to_str().unwrap().into()
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: all arguments are SQLite's, for its own file system; the extension has room behind the file.
    unsafe {
        let code = (*own()).xOpen.unwrap()(own(), name, file, flags, out);
        if code != SQLITE_OK || name.is_null() {
            return code;
        }
        let path = path(name);
        let Some(recorder) = Recorder::of(&path) else { return code };
        let real = (*file).pMethods;
        let mut methods = *real;
        methods.xWrite = Some(write);
        methods.xTruncate = Some(truncate);
        methods.xSync = Some(sync);
        let extension = extension(file);
        let name = Box::leak(Box::new(short(&path)));
        extension.write(Extension { methods, own: real, recorder, file: name });
        (*file).pMethods = &raw const (*extension).methods;
        code
    }
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: all arguments are SQLite's, for its own file system.
    unsafe {
        let code = (*own()).xDelete.unwrap()(own(), name, sync);
        let path = path(name);
        if code == SQLITE_OK
            && let Some(recorder) = Recorder::of(&path)
        {
            recorder.note(&short(&path), What::Delete { durable: sync != 0 });
        }
        code
    }
}

unsafe extern "C" fn write(file: *mut sqlite3_file, data: *const c_void, length: c_int, at: sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes a buffer of that length, and a file that `open` extended.
    unsafe {
        let extension = extension(file);
        let bytes = std::slice::from_raw_parts(data.cast::<u8>(), usize::try_from(length).unwrap()).to_vec();
        (*extension).recorder.note((*extension).file, What::Write { at: usize::try_from(at).unwrap(), bytes });
        (*(*extension).own).xWrite.unwrap()(file, data, length, at)
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: the file is one that `open` extended.
    unsafe {
        let extension = extension(file);
        (*extension).recorder.note((*extension).file, What::Truncate { size: usize::try_from(size).unwrap() });
        (*(*extension).own).xTruncate.unwrap()(file, size)
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: the file is one that `open` extended.
    unsafe {
        let extension = extension(file);
        if (*extension).recorder.syncs_fail.load(Ordering::SeqCst) {
            return SQLITE_IOERR_FSYNC;
        }
        let code = (*(*extension).own).xSync.unwrap()(file, flags);
        if code == SQLITE_OK {
            // Afterwards: what was written while it ran may or may not be on the disk.
            (*extension).recorder.note((*extension).file, What::Sync);
        }
        code
    }
}
