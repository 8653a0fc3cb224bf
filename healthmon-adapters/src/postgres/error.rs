//! From SQLSTATE to what the caller can do about it, in one place.

use std::time::Duration;

use healthmon_core::ports::StoreError;

/// What was wrong, in words that say what to do. Never holds a URL: it has the password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostgresError {
    #[error("the PostgreSQL URL cannot be used: {0}")]
    Url(String),
    #[error("PostgreSQL cannot be reached, or is restarting: {0}")]
    Away(#[source] sqlx::Error),
    #[error("PostgreSQL here is read-only, a standby; the primary is looked for")]
    ReadOnly,
    #[error("PostgreSQL did not answer within {0:?}")]
    Slow(Duration),
    #[error("what was known of the database holds no longer; it is read anew")]
    Outdated,
    #[error("another transaction is in the way: {0}")]
    Locked(#[source] sqlx::Error),
    #[error("PostgreSQL is out of disk, memory or connections; when it has some, work goes on: {0}")]
    Exhausted(#[source] sqlx::Error),
    #[error("a row in the database cannot be understood: {0}")]
    Row(String),
    #[error("the database schema is not this build's: {0}")]
    Schema(String),
    #[error("this deployment is cut into {stored} shards, and not into {asked}; that is settled when it begins")]
    Shards { stored: u16, asked: u16 },
    #[error("{0}")]
    Other(#[source] sqlx::Error),
}

fn transient(millis: u64, source: PostgresError) -> StoreError {
    StoreError::Transient { retry_after: Duration::from_millis(millis), source: Box::new(source) }
}

pub(crate) fn permanent(source: PostgresError) -> StoreError {
    StoreError::Permanent(Box::new(source))
}

/// A row that holds what no build has written.
pub(crate) fn bad_row(what: impl std::fmt::Display) -> StoreError {
    permanent(PostgresError::Row(what.to_string()))
}

/// The server here only reads.
pub(crate) fn read_only() -> StoreError {
    transient(500, PostgresError::ReadOnly)
}

/// The server has not answered.
pub(crate) fn slow(limit: Duration) -> StoreError {
    transient(200, PostgresError::Slow(limit))
}

/// What a node knew of regions or partitions is another's by now.
pub(crate) fn outdated() -> StoreError {
    transient(10, PostgresError::Outdated)
}

/// Whether a row found no partition to go to.
pub(crate) fn is_without_partition(error: &sqlx::Error) -> bool {
    let error = error.as_database_error();
    error.is_some_and(|e| {
        e.code().as_deref() == Some("23514") && e.constraint().is_none() && e.table() == Some("results")
    })
}

/// Whether it is one row that is wrong, and not the database: the others need not suffer for it.
fn is_bad_row(error: &StoreError) -> bool {
    let StoreError::Permanent(source) = error else { return false };
    matches!(source.downcast_ref(), Some(PostgresError::Row(_)))
}

/// What was read of a row, or nothing, loudly, when the row cannot be understood.
pub(crate) fn unless_bad<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(error) if is_bad_row(&error) => {
            tracing::error!(%error, "a service is passed over");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What an error of sqlx or PostgreSQL means for the caller.
pub(crate) fn from_sqlx(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|error| error.code()).map(std::borrow::Cow::into_owned);
    match code.as_deref() {
        Some(code) => from_code(code, error),
        None => match error {
            // The connection, not the database.
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::BeginFailed
            | sqlx::Error::WorkerCrashed => transient(200, PostgresError::Away(error)),
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => bad_row(error),
            error => permanent(PostgresError::Other(error)),
        },
    }
}

/// By <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn from_code(code: &str, error: sqlx::Error) -> StoreError {
    match (code.get(..2).unwrap_or_default(), code) {
        (_, "25006") => read_only(),
        // Connection trouble (poolers use it for all of theirs), a server that stops or starts, a
        // session that was ended for standing idle in a transaction, an I/O error.
        ("08" | "58", _) | (_, "57P01" | "57P02" | "57P03" | "57P05" | "25P03" | "25P04") => {
            transient(200, PostgresError::Away(error))
        }
        ("40", _) | (_, "55P03" | "55000" | "55006" | "57014") => transient(50, PostgresError::Locked(error)),
        ("53", _) => transient(1_000, PostgresError::Exhausted(error)),
        // Rows that no caller made: that they do not fit is not the data's fault.
        ("23", _) if error.as_database_error().and_then(|e| e.table()).is_some_and(is_ours) => {
            permanent(PostgresError::Other(error))
        }
        ("22" | "23", _) => StoreError::Refused(Box::new(PostgresError::Other(error))),
        _ => permanent(PostgresError::Other(error)),
    }
}

/// Whether a table holds what this store numbers by itself.
fn is_ours(table: &str) -> bool {
    matches!(table, "log" | "head" | "controls" | "services" | "states" | "regions" | "deployment")
        || table.starts_with("rollup")
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, error::Error, fmt};

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    #[derive(Debug)]
    struct Said(&'static str, &'static str);

    impl fmt::Display for Said {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Said {}

    impl DatabaseError for Said {
        fn message(&self) -> &str {
            self.0
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn table(&self) -> Option<&str> {
            Some(self.1).filter(|table| !table.is_empty())
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn remedy(error: sqlx::Error) -> &'static str {
        match from_sqlx(error) {
            StoreError::Transient { retry_after, .. } if retry_after > Duration::ZERO => "transient",
            StoreError::Refused(_) => "refused",
            StoreError::Permanent(_) => "permanent",
            _ => "another",
        }
    }

    #[test]
    fn an_sqlstate_says_what_the_caller_can_do() {
        let table = [
            ("08000 08001 08003 08004 08006 08P01", "transient"),
            ("57P01 57P02 57P03 57P05 57014", "transient"),
            ("53000 53100 53200 53300 53400", "transient"),
            ("40001 40P01 55P03 55006 55000", "transient"),
            ("25006 25P03 25P04 58030", "transient"),
            ("22001 22003 22021 22P02 22P05 23502 23514", "refused"),
            ("28P01 28000 3D000 42P01 42501 42601 26000 0A000 XX000 XX001 57P04", "permanent"),
        ];
        for (codes, expected) in table {
            for code in codes.split(' ') {
                let error = sqlx::Error::Database(Box::new(Said(code, "")));
                assert_eq!(remedy(error), expected, "{code}");
            }
        }
    }

    #[test]
    fn a_number_given_twice_is_not_the_datas_fault() {
        for (place, expected) in [("results_1", "refused"), ("log", "permanent"), ("controls", "permanent")] {
            assert_eq!(remedy(sqlx::Error::Database(Box::new(Said("23505", place)))), expected, "{place}");
        }
    }

    #[test]
    fn trouble_with_the_connection_is_transient() {
        let gone = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(remedy(sqlx::Error::Io(gone)), "transient");
        assert_eq!(remedy(sqlx::Error::PoolTimedOut), "transient");
        assert_eq!(remedy(sqlx::Error::Protocol("cut off".to_owned())), "transient");
        assert_eq!(remedy(sqlx::Error::PoolClosed), "permanent");
    }
}
