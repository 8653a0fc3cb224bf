//! From SQLite's result codes to what the caller can do about them, in one place.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use healthmon_core::ports::StoreError;

/// The primary result codes that matter here, from <https://sqlite.org/rescode.html>.
mod code {
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const READONLY: i32 = 8;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const TOOBIG: i32 = 18;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const MISMATCH: i32 = 20;
    pub(super) const NOTADB: i32 = 26;
}

/// What was wrong, in words that say what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum SqliteError {
    #[error("the folder {} does not exist; make it, or name another place for the database", .0.display())]
    NoFolder(PathBuf),
    #[error("another program holds the database file locked: {0}")]
    Locked(#[source] sqlx::Error),
    #[error("the disk is full; free some space and recording goes on: {0}")]
    Full(#[source] sqlx::Error),
    #[error("the database file cannot be read or written; look at the disk and the file's rights: {0}")]
    Unusable(#[source] sqlx::Error),
    #[error("the database file is damaged or no database; restore it from a backup: {0}")]
    Damaged(#[source] sqlx::Error),
    #[error("a row in the database cannot be understood: {0}")]
    Row(String),
    #[error("the database schema is not this build's: {0}")]
    Schema(#[source] sqlx::migrate::MigrateError),
    #[error("{0}")]
    Other(#[source] sqlx::Error),
}

/// A row that holds what no build has written.
pub(super) fn bad_row(what: impl std::fmt::Display) -> StoreError {
    StoreError::Permanent(Box::new(SqliteError::Row(what.to_string())))
}

/// The database cannot be where it is to be.
pub(super) fn no_folder(folder: &Path) -> StoreError {
    StoreError::Permanent(Box::new(SqliteError::NoFolder(folder.to_owned())))
}

/// Whether it is one row that is wrong, and not the database: the others need not suffer for it.
pub(super) fn is_bad_row(error: &StoreError) -> bool {
    let StoreError::Permanent(source) = error else { return false };
    matches!(source.downcast_ref(), Some(SqliteError::Row(_)))
}

/// What was read of a row, or nothing, loudly, when the row cannot be understood.
pub(super) fn unless_bad<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if is_bad_row(&error) => {
            tracing::error!(%error, "a service is passed over");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn from_migration(error: sqlx::migrate::MigrateError) -> StoreError {
    match error {
        sqlx::migrate::MigrateError::Execute(error) | sqlx::migrate::MigrateError::ExecuteMigration(error, _) => {
            from_sqlx(error)
        }
        error => StoreError::Permanent(Box::new(SqliteError::Schema(error))),
    }
}

pub(super) fn from_sqlx(error: sqlx::Error) -> StoreError {
    let transient = |millis, source: SqliteError| StoreError::Transient {
        retry_after: Duration::from_millis(millis),
        source: Box::new(source),
    };
    match primary_code(&error) {
        Some(code::BUSY | code::LOCKED) => transient(100, SqliteError::Locked(error)),
        Some(code::FULL) => transient(2_000, SqliteError::Full(error)),
        Some(code::IOERR | code::CANTOPEN | code::READONLY) => transient(2_000, SqliteError::Unusable(error)),
        Some(code::CORRUPT | code::NOTADB) => StoreError::Permanent(Box::new(SqliteError::Damaged(error))),
        Some(code::CONSTRAINT | code::TOOBIG | code::MISMATCH) => {
            StoreError::Refused(Box::new(SqliteError::Other(error)))
        }
        Some(_) => StoreError::Permanent(Box::new(SqliteError::Other(error))),
        // The connection, not the database: its worker thread is gone, or the pool is.
        None => match error {
            sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed | sqlx::Error::Io(_) => {
                transient(200, SqliteError::Other(error))
            }
            error => StoreError::Permanent(Box::new(SqliteError::Other(error))),
        },
    }
}

/// The primary result code: the low byte of the extended one.
fn primary_code(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<i32>().ok().map(|code| code & 0xff)
}
