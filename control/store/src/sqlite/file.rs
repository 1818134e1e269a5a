//! Opening the file: is it ours, is it sound, is it free?

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{SqliteOptions, failure};
use crate::api::{Result, Revision, StoreError};

/// "KELS": marks the file as ours in SQLite's header.
const APPLICATION_ID: i32 = 0x4b45_4c53;
/// The layout of the tables. Raise it with every change, and migrate from the one before.
const SCHEMA_VERSION: i32 = 1;
/// How long to wait for somebody who looks into the database with a tool of his own.
pub(super) const BUSY: Duration = Duration::from_secs(5);
const PAGE_SIZE: u64 = 4_096;
/// Files up to this size are checked whole at every start; larger ones would delay it.
const CHECKED_BYTES: u64 = 8 << 20;

/// `value` is NULL for a deletion. `prev` is the revision that the row supersedes, 0 for the first of an object. Only a row
/// that is the newest of its key has `expires` (milliseconds since 1970).
const SCHEMA: &str = "
    CREATE TABLE kv (
        rev INTEGER PRIMARY KEY,
        key TEXT NOT NULL,
        value BLOB,
        created INTEGER NOT NULL,
        prev INTEGER NOT NULL,
        expires INTEGER
    );
    CREATE INDEX kv_key ON kv (key);
    CREATE INDEX kv_expires ON kv (expires) WHERE expires IS NOT NULL;
    CREATE TABLE history (compacted INTEGER NOT NULL);
    INSERT INTO history VALUES (1);
";

const RESTORE: &str = "It was left as it is: put a sound copy in its place, move it away to begin with an empty one, or start \
                       with another --data-dir";

/// A database that may be written to.
pub(super) struct Opened {
    pub(super) connection: Connection,
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
    pub(super) identity: Identity,
    /// Held as long as the writer lives.
    pub(super) lock: File,
}

/// Device and inode.
pub(super) type Identity = (u64, u64);

pub(super) fn open(path: &Path, options: &SqliteOptions) -> Result<Opened> {
    let io = |action, error: &std::io::Error| io_error(path, action, error);
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory).map_err(|error| io("making the directory of", &error))?;
    }
    let lock = take_lock(path)?;
    let fresh = inspect(path)?;
    if fresh {
        let mut new = OpenOptions::new();
        new.create(true).append(true).mode(0o600).open(path).map_err(|error| io("creating", &error))?;
    }
    let connection = connect(path, fresh)?;
    let opened = (|| {
        if fresh {
            create(&connection)?;
        }
        if let Some(bytes) = options.max_bytes {
            connection.pragma_update(None, "max_page_count", bytes / PAGE_SIZE)?;
        }
        revisions(&connection)
    })();
    let (compacted, revision) = opened.map_err(|error| failure(path, "opening", &error))?;
    if fresh {
        sync_directory(path)?;
    }
    let identity = identity(path).map_err(|error| io("reading", &error))?;
    Ok(Opened { connection, revision, compacted, identity, lock })
}

fn identity(path: &Path) -> std::io::Result<Identity> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Whether the path still leads to the file that was opened.
pub(super) fn is_still(path: &Path, opened: Identity) -> bool {
    identity(path).is_ok_and(|now| now == opened)
}

/// The oldest revision that is kept, and the newest.
pub(super) fn revisions(connection: &Connection) -> rusqlite::Result<(Revision, Revision)> {
    let compacted = connection.query_row("SELECT compacted FROM history", [], |row| row.get(0))?;
    let newest: Option<Revision> = connection.query_row("SELECT max(rev) FROM kv", [], |row| row.get(0))?;
    Ok((compacted, newest.unwrap_or(0).max(compacted)))
}

/// A connection set up as all of ours are: acknowledged means synced, and no checkpoint in a writer's way.
pub(super) fn connect(path: &Path, fresh: bool) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connect = || {
        let connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        // Else a statement is compiled anew for every key that is bound to it.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
        if fresh {
            // Before the first page is written. (Later it would change nothing, and be a write all the same.)
            connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        }
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
        connection.pragma_update(None, "cache_size", -1_024)?;
        connection.set_prepared_statement_cache_capacity(32);
        Ok(connection)
    };
    connect().map_err(|error| failure(path, "opening", &error))
}

/// An error for a file of ours that turned out to be damaged.
pub(super) fn damaged(path: &Path, problem: String) -> StoreError {
    StoreError::Corrupt { path: path.to_path_buf(), problem, remedy: RESTORE }
}

fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    ))
}

/// Looks at the file without changing it. `true`: there is nothing yet.
fn inspect(path: &Path) -> Result<bool> {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let mut header = Vec::new();
    let length = match File::open(path) {
        Ok(mut file) => {
            let read = Read::by_ref(&mut file).take(100).read_to_end(&mut header);
            read.and_then(|_| file.metadata()).map_err(|error| io_error(path, "reading", &error))?.len()
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(io_error(path, "opening", &error)),
    };
    if length == 0 {
        return without_log(path).map(|()| true);
    }
    if !header.starts_with(MAGIC) || header.len() < 100 {
        return Err(damaged(path, "it is not an SQLite database".to_owned()));
    }
    let open = |flags| Connection::open_with_flags(path, flags).map_err(|error| failure(path, "opening", &error));
    let mut connection = open(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let unfinished = connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0)).err();
    if unfinished.is_some_and(|error| error.sqlite_error_code() == Some(ErrorCode::ReadOnly)) {
        // The making of a database was cut short by a power failure; SQLite takes it back before anything can be read.
        connection = open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    }
    inspect_database(path, &connection, length)
}

/// A new database has no log yet. One that is there was written for another file, and SQLite would delete it.
fn without_log(path: &Path) -> Result<()> {
    let log = beside(path, "-wal");
    match fs::metadata(&log) {
        Ok(file) if file.len() > 0 => Err(StoreError::Corrupt {
            path: path.to_path_buf(),
            problem: format!("it is missing or empty, but its log {} is there", log.display()),
            remedy: "Put it back, or remove the log to begin with an empty one",
        }),
        _ => Ok(()),
    }
}

/// The path with something behind its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn inspect_database(path: &Path, connection: &Connection, length: u64) -> Result<bool> {
    let failed = |error: rusqlite::Error| failure(path, "reading", &error);
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(failed);
    let application = number("PRAGMA application_id")?;
    if application == 0 && number("SELECT count(*) FROM sqlite_master")? == 0 {
        // Made, but not filled: an earlier start was cut short.
        return Ok(true);
    }
    if application != i64::from(APPLICATION_ID) {
        return Err(damaged(path, "it is the database of another application".to_owned()));
    }
    let version = number("PRAGMA user_version")?;
    if version != i64::from(SCHEMA_VERSION) {
        return Err(StoreError::Corrupt {
            path: path.to_path_buf(),
            problem: format!("its layout is version {version}, and this program knows version {SCHEMA_VERSION}"),
            remedy: "Use the version of keelson that wrote it, or a newer one",
        });
    }
    let tables = number("SELECT count(*) FROM sqlite_master WHERE name IN ('kv', 'kv_key', 'kv_expires', 'history')")?;
    if tables != 4 {
        return Err(damaged(path, "its tables are missing".to_owned()));
    }
    if length <= CHECKED_BYTES {
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if verdict != "ok" {
            return Err(damaged(path, verdict));
        }
    }
    Ok(false)
}

/// Two processes on one database would each have their own idea of the newest revision.
fn take_lock(path: &Path) -> Result<File> {
    let lock_path = beside(path, ".lock");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|error| io_error(&lock_path, "opening", &error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let named = file.read_to_string(&mut pid).is_ok() && pid.trim().parse::<u32>().is_ok();
            let holder = if named { format!(" (pid {})", pid.trim()) } else { String::new() };
            return Err(StoreError::Locked { path: path.to_path_buf(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(io_error(&lock_path, "locking", &error)),
    }
    // Only for the message above: on a full disk the lock alone does.
    let noted = file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
    if let Err(error) = noted.and_then(|_| writeln!(file, "{}", std::process::id())) {
        tracing::warn!(path = %lock_path.display(), %error, "cannot note the process id");
    }
    Ok(file)
}

/// A new file's name is durable only once its directory is.
fn sync_directory(path: &Path) -> Result<()> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| io_error(directory, "syncing", &error))
}

fn io_error(path: &Path, action: &'static str, error: &std::io::Error) -> StoreError {
    let path = path.to_path_buf();
    let message = error.to_string();
    if error.kind() == std::io::ErrorKind::StorageFull {
        StoreError::Full { path, message }
    } else {
        StoreError::Io { action, path, message }
    }
}
