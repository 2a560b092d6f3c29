//! The state directory: the desired state's journal, the MAC address of our VTEP and the key of our hashes. It is locked while
//! a daemon uses it.

use std::{
    fmt::Display,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use shunt_dataplane::net::MacAddr;

use super::{Change, State, journal::Journal};

/// How long a former daemon may take to die: one that was killed still closes its sockets.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_POLL: Duration = Duration::from_millis(20);

const LOCK_FILE: &str = "lock";
const VTEP_MAC_FILE: &str = "vtep-mac";
const HASH_SEED_FILE: &str = "hash-seed";

/// The state cannot be kept, or what was kept cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another daemon has the directory.
    #[error("another shuntd is running with the state in {}; stop it, or give this one its own [state] dir", .0.display())]
    Locked(PathBuf),
    /// A file operation failed.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// The operation.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what a daemon wrote.
    #[error("{} is damaged: {problem}; restore it from a backup, or move it away to start with an empty state", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file is of another version of the daemon.
    #[error(
        "{} has format {format}, which this version of shuntd does not read; move it away and apply the cluster again",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The number of its format.
        format: u8,
    },
}

pub(super) fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { what, path: path.to_owned(), source }
}

/// A state directory, held until dropped.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    journal: Option<Journal>,
    /// Keeps the lock; the kernel lets go of it when the process ends, however it ends.
    _lock: File,
}

impl Store {
    /// Takes the directory, which is created if need be.
    pub fn open(dir: &Path) -> Result<Store, StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))?;
        let path = dir.join(LOCK_FILE);
        let mut options = OpenOptions::new();
        let lock =
            options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed("open", &path))?;
        let patience = Instant::now() + LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(e)) => return Err(failed("lock", &path)(e)),
                Err(TryLockError::WouldBlock) if Instant::now() < patience => thread::sleep(LOCK_POLL),
                Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(dir.to_owned())),
            }
        }
        Ok(Store { dir: dir.to_owned(), journal: None, _lock: lock })
    }

    /// The state that was kept; that of a fresh daemon if there is none.
    pub fn load(&mut self) -> Result<State, StoreError> {
        let (journal, state) = Journal::open(&self.dir)?;
        self.journal = Some(journal);
        Ok(state)
    }

    /// Writes down `change`, which made `state` of the state before it; that is the one loaded or committed last. On an
    /// error the one before is still what is written down.
    ///
    /// # Panics
    /// If nothing was loaded.
    pub fn commit(&mut self, state: &State, change: &Change) -> Result<(), StoreError> {
        self.journal.as_mut().expect("a state was loaded").commit(state, change)
    }

    /// Our VTEP's MAC address: kept from the first call on, so that it outlives any change in how it is made.
    pub fn vtep_mac(&self, node: &str) -> Result<MacAddr, StoreError> {
        self.kept(VTEP_MAC_FILE, || mac_of_node(node))
    }

    /// The secret that keys the hashes: random at the first call, and kept, so that a connection which is taken up after a
    /// restart gets the endpoint it had.
    pub fn hash_seed(&self) -> Result<u64, StoreError> {
        // The standard library's source of randomness.
        self.kept(HASH_SEED_FILE, || RandomState::new().hash_one(HASH_SEED_FILE))
    }

    /// The value that a file of one line has, or `first`, which is then written into it.
    fn kept<T: Display + FromStr<Err: Display>>(
        &self,
        name: &'static str,
        first: impl FnOnce() -> T,
    ) -> Result<T, StoreError> {
        let path = self.dir.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => text
                .trim_end()
                .parse()
                .map_err(|e| StoreError::Damaged { path, problem: format!("{:?}: {e}", text.trim_end()) }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let value = first();
                let temp = self.dir.join(format!("{name}.new"));
                write_synced(&temp, format!("{value}\n").as_bytes())?;
                super::journal::rename_synced(&temp, &path, &self.dir)?;
                Ok(value)
            }
            Err(e) => Err(failed("read", &path)(e)),
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", path))
}

/// A locally administered unicast address from the node's name (FNV-1a, folded to 32 bits, behind Kubernetes' `0a:58`).
fn mac_of_node(node: &str) -> MacAddr {
    let hash = node
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let [a, b, c, d] = (((hash >> 32) ^ hash) as u32).to_be_bytes();
    MacAddr([0x0a, 0x58, a, b, c, d])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_has_one_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Locked(_))));
        drop(first);
        Store::open(dir.path()).unwrap();
    }

    #[test]
    fn the_vtep_mac_is_a_stations_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mac = store.vtep_mac("node-a").unwrap();
        assert!(!mac.is_multicast());
        assert_ne!(mac, mac_of_node("node-b"));
        assert_eq!(store.vtep_mac("renamed").unwrap(), mac);
        fs::write(dir.path().join(VTEP_MAC_FILE), "0a:58").unwrap();
        assert!(store.vtep_mac("node-a").unwrap_err().to_string().contains("vtep-mac"));
    }

    #[test]
    fn the_hash_seed_is_a_secret_of_the_directory_and_stays() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let seed = Store::open(dir.path()).unwrap().hash_seed().unwrap();
        assert_eq!(Store::open(dir.path()).unwrap().hash_seed().unwrap(), seed);
        assert_ne!(Store::open(other.path()).unwrap().hash_seed().unwrap(), seed);
        let mode = fs::metadata(dir.path().join(HASH_SEED_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
