//! Why the index cannot be used.

use rusqlite::ErrorCode;

/// Why the index could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file is no index, or is torn: what it says cannot be trusted.
    #[error("the index is damaged: {0}")]
    Damaged(String),
    /// The disk has no room for it.
    #[error("no space left for the index: free some space on the disk of the store")]
    Full,
    /// A newer knot wrote it.
    #[error("the index was written by a newer knot (expected format {expected} or older): use that one")]
    TooNew {
        /// The newest format that this knot knows.
        expected: usize,
    },
    /// Anything else.
    #[error("the index failed: {0}")]
    Failed(String),
}

impl From<rusqlite::Error> for IndexError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error as E;
        match (error.sqlite_error_code(), &error) {
            (Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase), _) => Self::Damaged(error.to_string()),
            (Some(ErrorCode::DiskFull), _) => Self::Full,
            // A row that does not have the types that the schema gave it.
            (_, E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..) | E::InvalidColumnType(..)) => {
                Self::Damaged(error.to_string())
            }
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<rusqlite_migration::Error> for IndexError {
    fn from(error: rusqlite_migration::Error) -> Self {
        use rusqlite_migration::{Error as E, MigrationDefinitionError, SchemaVersionError};
        match error {
            E::MigrationDefinition(MigrationDefinitionError::DatabaseTooFarAhead)
            | E::SpecifiedSchemaVersion(SchemaVersionError::TargetVersionOutOfRange { .. }) => {
                Self::TooNew { expected: 1 }
            }
            E::RusqliteError { err, .. } => match Self::from(err) {
                // The tables are there but not as any version of the schema left them.
                Self::Failed(message) => Self::Damaged(message),
                other => other,
            },
            other => Self::Failed(other.to_string()),
        }
    }
}
