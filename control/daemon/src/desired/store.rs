//! Desired state on disk.
//!
//! One file, `desired-state`, is replaced as a whole: written beside, synced, renamed, directory synced; so a crash leaves
//! the former or the new state, never a mixture. A length and a checksum tell a damaged file; it is then refused, not
//! guessed at. The directory is locked while a daemon uses it.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use prost::Message;
use shunt_control_api::{FieldError, Resource, v1};
use shunt_dataplane::net::MacAddr;

use super::State;

/// Begins the file; the last byte is the format's number.
const MAGIC: [u8; 8] = *b"SHUNTDS\x01";
/// Magic, payload length (u64, little endian), CRC-32 of the payload (u32, little endian).
const HEADER: usize = 8 + 8 + 4;

/// How long a former daemon may take to die: one that was killed still closes its sockets.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_POLL: Duration = Duration::from_millis(20);

const STATE_FILE: &str = "desired-state";
const TEMP_FILE: &str = "desired-state.new";
const LOCK_FILE: &str = "lock";
const VTEP_MAC_FILE: &str = "vtep-mac";

/// The payload.
#[derive(Clone, PartialEq, Message)]
struct StoredState {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<v1::Resource>,
}

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
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { what, path: path.to_owned(), source }
}

/// A state directory, held until dropped.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    encoder: Encoder,
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
        Ok(Store { dir: dir.to_owned(), encoder: Encoder::default(), _lock: lock })
    }

    /// The state that was kept; that of a fresh daemon if there is none.
    pub fn load(&self) -> Result<State, StoreError> {
        let path = self.dir.join(STATE_FILE);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(mut file) => file.read_to_end(&mut bytes).map_err(failed("read", &path))?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(e) => return Err(failed("read", &path)(e)),
        };
        decode(&bytes).map_err(|problem| StoreError::Damaged { path, problem })
    }

    /// Writes `state` to disk beside the one in force. [`Prepared::commit`] puts it in force.
    pub fn prepare(&mut self, state: &State) -> Result<Prepared, StoreError> {
        let path = self.dir.join(TEMP_FILE);
        let prepared = Prepared { dir: self.dir.clone(), temp: Some(path) };
        write_synced(prepared.temp(), &self.encoder.encode(state))?;
        Ok(prepared)
    }

    /// Our VTEP's MAC address: kept from the first call on, so that it outlives any change in how it is made.
    pub fn vtep_mac(&self, node: &str) -> Result<MacAddr, StoreError> {
        let path = self.dir.join(VTEP_MAC_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => text
                .trim_end()
                .parse()
                .map_err(|e| StoreError::Damaged { path, problem: format!("{:?} is {e}", text.trim_end()) }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mac = mac_of_node(node);
                let temp = self.dir.join("vtep-mac.new");
                write_synced(&temp, format!("{mac}\n").as_bytes())?;
                rename_synced(&temp, &path, &self.dir)?;
                Ok(mac)
            }
            Err(e) => Err(failed("read", &path)(e)),
        }
    }
}

/// A state that is on disk but not in force; dropped, it is forgotten.
#[derive(Debug)]
pub struct Prepared {
    dir: PathBuf,
    temp: Option<PathBuf>,
}

impl Prepared {
    fn temp(&self) -> &Path {
        self.temp.as_deref().expect("there until committed")
    }

    /// Puts it in force. On an error the former state is, unless the machine stops before the next commit.
    pub fn commit(mut self) -> Result<(), StoreError> {
        rename_synced(self.temp(), &self.dir.join(STATE_FILE), &self.dir)?;
        self.temp = None;
        Ok(())
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(temp) = &self.temp {
            // A file that stays is overwritten by the next one.
            let _ = fs::remove_file(temp);
        }
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed("create", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write", path))
}

fn rename_synced(from: &Path, to: &Path, dir: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(failed("replace", to))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

/// Encodes states, and remembers what need not be encoded again.
#[derive(Debug, Default)]
struct Encoder {
    /// Encoded resources, by the address of what they were encoded from.
    parts: HashMap<usize, (Arc<Resource>, Box<[u8]>)>,
}

impl Encoder {
    fn encode(&mut self, state: &State) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let mut kept = HashMap::with_capacity(state.resources.len());
        bytes.extend(StoredState { version: state.version, resources: Vec::new() }.encode_to_vec());
        for resource in state.resources.values() {
            // The resource is held beside its bytes, so its address is not used again while the entry exists.
            let address = Arc::as_ptr(resource).addr();
            let encode = || {
                // Encoded messages in a row are one message: its repeated fields add up (Protocol Buffers, "merge").
                let part = StoredState { version: 0, resources: vec![(&**resource).into()] };
                (resource.clone(), part.encode_to_vec().into())
            };
            let part = self.parts.remove(&address).unwrap_or_else(encode);
            bytes.extend(&part.1);
            kept.insert(address, part);
        }
        self.parts = kept;
        let (header, payload) = bytes.split_at_mut(HEADER);
        header[..8].copy_from_slice(&MAGIC);
        header[8..16].copy_from_slice(&(payload.len() as u64).to_le_bytes());
        header[16..].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
        bytes
    }
}

fn decode(bytes: &[u8]) -> Result<State, String> {
    let (magic, rest) = bytes.split_first_chunk::<8>().ok_or("it is too short")?;
    if magic[..7] != MAGIC[..7] {
        return Err("it does not begin like a desired state".into());
    }
    if magic != &MAGIC {
        return Err(format!("its format {} is not known to this version", magic[7]));
    }
    let (length, rest) = rest.split_first_chunk::<8>().ok_or("it is too short")?;
    let (checksum, payload) = rest.split_first_chunk::<4>().ok_or("it is too short")?;
    let length = u64::from_le_bytes(*length);
    if payload.len() as u64 != length {
        return Err(format!("{length} bytes should follow its header, and {} do", payload.len()));
    }
    if crc32fast::hash(payload) != u32::from_le_bytes(*checksum) {
        return Err("its checksum is wrong".into());
    }
    let stored = StoredState::decode(payload).map_err(|e| e.to_string())?;
    let mut state = State { version: stored.version, ..State::default() };
    for (i, resource) in stored.resources.into_iter().enumerate() {
        let resource = Resource::try_from(resource)
            .map_err(|e: FieldError| e.within(format_args!("resources[{i}]")).to_string())?;
        state.resources.insert(resource.key(), Arc::new(resource));
    }
    Ok(state)
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
    use super::*;

    fn state(version: u64) -> State {
        let route = v1::Route { prefix: "10.245.0.0/24".into(), via: "192.168.50.7".into() };
        let resource = Resource::Route(route.try_into().unwrap());
        State { version, resources: [(resource.key(), Arc::new(resource))].into() }
    }

    #[test]
    fn a_state_survives_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        assert_eq!(store.load().unwrap(), State::default());
        store.prepare(&state(3)).unwrap().commit().unwrap();
        drop(store);
        assert_eq!(Store::open(dir.path()).unwrap().load().unwrap(), state(3));
    }

    #[test]
    fn what_is_remembered_is_what_would_be_encoded() {
        let mut encoder = Encoder::default();
        let mut state = state(3);
        for prefix in ["10.246.0.0/24", "10.245.0.0/24"] {
            let route = v1::Route { prefix: prefix.into(), via: "192.168.50.8".into() };
            let resource = Resource::Route(route.try_into().unwrap());
            state.resources.insert(resource.key(), Arc::new(resource));
            state.version += 1;
            assert_eq!(encoder.encode(&state), Encoder::default().encode(&state));
            assert_eq!(decode(&encoder.encode(&state)).unwrap(), state);
        }
        state.resources.pop_first();
        assert_eq!(decode(&encoder.encode(&state)).unwrap(), state);
        assert_eq!(encoder.parts.len(), 1, "what went is forgotten");
    }

    #[test]
    fn a_state_that_is_not_committed_is_not_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.prepare(&state(3)).unwrap().commit().unwrap();
        drop(store.prepare(&state(4)).unwrap());
        assert!(!dir.path().join(TEMP_FILE).exists());
        assert_eq!(store.load().unwrap(), state(3));
    }

    #[test]
    fn a_crash_while_writing_leaves_the_former_state() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(dir.path()).unwrap();
        store.prepare(&state(3)).unwrap().commit().unwrap();
        // As if the machine had stopped in the middle of writing the next one.
        let next = Encoder::default().encode(&state(4));
        fs::write(dir.path().join(TEMP_FILE), &next[..next.len() / 2]).unwrap();
        assert_eq!(store.load().unwrap(), state(3));
        store.prepare(&state(4)).unwrap().commit().unwrap();
        assert_eq!(store.load().unwrap(), state(4));
    }

    #[test]
    fn a_damaged_file_is_refused_by_name_wherever_it_was_hit() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let file = dir.path().join(STATE_FILE);
        let whole = Encoder::default().encode(&state(3));
        let refused = |bytes: &[u8]| {
            fs::write(&file, bytes).unwrap();
            let message = store.load().expect_err("damaged").to_string();
            assert!(message.contains(file.to_str().unwrap()) && message.contains("damaged"), "{message}");
        };
        for length in 0..whole.len() {
            refused(&whole[..length]);
        }
        for position in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[position] ^= 0x10;
            refused(&bytes);
        }
        refused(&[&whole[..], b"more"].concat());
    }

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
}
