//! A state as bytes, with a version in front, so that what an older build wrote stays readable.

use serde::{Serialize, de::DeserializeOwned};

use super::{Policy, State};

/// The version that [`State::to_snapshot`] writes.
const CURRENT: u8 = 1;

/// Bytes that are no snapshot of a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Written by a newer build; the number is its version.
    #[error(
        "the snapshot has version {0}, which this build does not know; use the build that wrote it, or a newer one"
    )]
    Newer(u8),
    /// Not a snapshot at all, or a damaged one.
    #[error("the snapshot is damaged: {0}")]
    Damaged(String),
}

impl<P> State<P>
where
    P: Policy + Serialize + DeserializeOwned,
    P::Memory: Serialize + DeserializeOwned,
{
    /// The state as bytes.
    ///
    /// # Panics
    /// When `P` or its memory refuses to be serialised, or asks for what a compact binary format
    /// cannot do (`#[serde(flatten)]`, a sequence of unknown length). `Thresholds` never does; law 4
    /// finds out about others.
    pub fn to_snapshot(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![CURRENT])
            .unwrap_or_else(|error| unreachable!("the policy is no plain data: {error}"))
    }

    /// The state that these bytes hold.
    ///
    /// # Errors
    /// When the bytes are of a newer version, or damaged.
    pub fn from_snapshot(bytes: &[u8]) -> Result<Self, SnapshotError> {
        match bytes.split_first() {
            None => Err(SnapshotError::Damaged("it is empty".to_owned())),
            Some((&CURRENT, body)) => match postcard::take_from_bytes(body) {
                Ok((state, [])) => Ok(state),
                Ok((_, rest)) => Err(SnapshotError::Damaged(format!("{} bytes too many", rest.len()))),
                Err(error) => Err(SnapshotError::Damaged(error.to_string())),
            },
            Some((&version, _)) => Err(SnapshotError::Newer(version)),
        }
    }
}
