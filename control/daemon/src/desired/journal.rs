//! Desired state on disk.
//!
//! One file. It begins with the whole state at some version, and each change since then follows it, so that a change
//! costs what it changes:
//!
//! ```text
//! magic (8)   record   record   record ...
//!             \__ whole state __/  \__ one change each
//! record:     payload length (u64)   CRC-32 of the payload (u32)   CRC-32 of these 12 bytes (u32)   payload
//! ```
//!
//! A record is synced before the change is acknowledged. One that a crash cut short is the last and was never
//! acknowledged: it is dropped. Anything else that is wrong is damage, and is refused, not guessed at. Once the changes that
//! took the place of something, or took it away, are longer than what still counts, the file is written anew, beside the old
//! one and on a thread of its own.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread::{self, JoinHandle},
};

use prost::{Message, encoding};
use shunt_control_api::{FieldError, Key, Resource, v1, wire};

use super::{Change, State, StoreError, store::failed};

const FILE: &str = "desired-state";
const NEW_FILE: &str = "desired-state.new";

/// Begins the file; the last byte is the format's number.
const MAGIC: [u8; 8] = *b"SHUNTDS\x02";
/// Bytes in front of a payload.
const HEADER: usize = 8 + 4 + 4;
/// Resources in one record of the whole state.
const CHUNK: usize = 1024;
/// The file may always have this many bytes that do not count before it is written anew.
const LEAST_TO_REWRITE: u64 = 4 << 20;

/// A payload, as it is read. A change's version is one more than that of the record before it.
#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(message, repeated, tag = "2")]
    upserts: Vec<v1::Resource>,
    #[prost(message, repeated, tag = "3")]
    deletes: Vec<v1::Key>,
    /// The next record goes on with the whole state.
    #[prost(bool, tag = "4")]
    more: bool,
}

/// The journal of a state directory.
#[derive(Debug)]
pub(super) struct Journal {
    dir: PathBuf,
    /// `None`: there is no usable file, so the next change writes the whole state.
    file: Option<File>,
    live: Live,
    /// Length of the file in bytes.
    length: u64,
    rewrite: Option<Rewrite>,
}

/// How much of the file still counts, about: each resource as much as all do on average.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Live {
    bytes: u64,
    resources: usize,
}

impl Live {
    /// A record of `length` bytes with so many `upserts` and `deletes` has left `resources` in the state.
    fn follow(&mut self, length: u64, upserts: usize, deletes: usize, resources: usize) {
        let created = (resources + deletes).saturating_sub(self.resources);
        let share = |bytes: u64, part: usize, of: usize| (u128::from(bytes) * part as u128 / of.max(1) as u128) as u64;
        let bytes = self.bytes + share(length, created, upserts + deletes);
        *self = Live { bytes: share(bytes, resources, self.resources + created), resources };
    }
}

/// The file is being written anew.
#[derive(Debug)]
struct Rewrite {
    thread: JoinHandle<Result<(File, u64), StoreError>>,
    /// Records of changes since it began.
    since: Vec<u8>,
}

impl Journal {
    /// The journal in `dir`, and the state that it holds: that of a fresh daemon if there is none.
    pub fn open(dir: &Path) -> Result<(Journal, State), StoreError> {
        let path = dir.join(FILE);
        let mut journal = Journal { dir: dir.to_owned(), file: None, live: Live::default(), length: 0, rewrite: None };
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((journal, State::default())),
            Err(e) => return Err(failed("open", &path)(e)),
        };
        let bytes = file.metadata().map_err(failed("read", &path))?.len();
        let Replayed { state, live, length, .. } =
            replay(&mut BufReader::new(&file), bytes).map_err(|e| e.of_file(&path))?;
        if length < bytes {
            tracing::warn!(
                version = state.version,
                "a change that was not completely written to {} is dropped: shuntd was stopped before it was in force",
                path.display()
            );
            file.set_len(length).and_then(|()| file.sync_all()).map_err(failed("truncate", &path))?;
        }
        (&file).seek(SeekFrom::Start(length)).map_err(failed("read", &path))?;
        (journal.file, journal.live, journal.length) = (Some(file), live, length);
        Ok((journal, state))
    }

    /// Writes down `change`, which made `state`. On an error the file says what it said before.
    pub fn commit(&mut self, state: &State, change: &Change) -> Result<(), StoreError> {
        self.finish_rewrite();
        if self.file.is_none() {
            let (file, length) = write_whole(&self.dir, state)?;
            return self.replace(file, Live { bytes: length, resources: state.resources.len() }, length);
        }
        let upserts = change.upserts.iter().map(|resource| &**resource);
        let record = encode(change.version, upserts, &change.deletes, false);
        self.append(&record)?;
        self.live.follow(record.len() as u64, change.upserts.len(), change.deletes.len(), state.resources.len());
        if let Some(rewrite) = &mut self.rewrite {
            rewrite.since.extend(record);
        } else if self.length.saturating_sub(self.live.bytes) > self.live.bytes.max(LEAST_TO_REWRITE) {
            let (dir, state) = (self.dir.clone(), state.clone());
            let thread = thread::Builder::new().name("journal".into()).spawn(move || write_whole(&dir, &state));
            match thread {
                Ok(thread) => self.rewrite = Some(Rewrite { thread, since: Vec::new() }),
                Err(e) => self.put_off_rewrite(&e),
            }
        }
        Ok(())
    }

    fn append(&mut self, record: &[u8]) -> Result<(), StoreError> {
        let path = self.dir.join(FILE);
        let Some(mut file) = self.file.as_ref() else { return Ok(()) };
        if let Err(e) = file.write_all(record).and_then(|()| file.sync_data()) {
            // Back to where it was. If even that fails, the next change writes the file anew.
            let back = file.set_len(self.length).and_then(|()| file.seek(SeekFrom::Start(self.length)));
            if back.and_then(|_| file.sync_data()).is_err() {
                self.file = None;
            }
            return Err(failed("write", &path)(e));
        }
        self.length += record.len() as u64;
        Ok(())
    }

    /// Puts the new file in the old one's place, once it is written.
    fn finish_rewrite(&mut self) {
        let Some(Rewrite { thread, since }) = self.rewrite.take_if(|rewrite| rewrite.thread.is_finished()) else {
            return;
        };
        let written = thread.join().unwrap_or_else(|_| Err(failed("write", &self.dir)(io::Error::other("panic"))));
        let finish = written.and_then(|(mut file, whole)| {
            let path = self.dir.join(NEW_FILE);
            file.write_all(&since).and_then(|()| file.sync_data()).map_err(failed("write", &path))?;
            self.replace(file, Live { bytes: whole, ..self.live }, whole + since.len() as u64)
        });
        if let Err(e) = finish {
            self.put_off_rewrite(&e);
        }
    }

    /// The old file stays, and may double before it is tried again.
    fn put_off_rewrite(&mut self, why: &dyn std::error::Error) {
        tracing::warn!("desired-state keeps growing: {why}");
        self.live.bytes = self.length;
    }

    fn replace(&mut self, file: File, live: Live, length: u64) -> Result<(), StoreError> {
        rename_synced(&self.dir.join(NEW_FILE), &self.dir.join(FILE), &self.dir)?;
        (self.file, self.live, self.length) = (Some(file), live, length);
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // It must not write into the directory of the next daemon. What it wrote is of no use any more.
        if let Some(rewrite) = self.rewrite.take() {
            let _ = rewrite.thread.join();
        }
    }
}

/// Writes the whole state beside the file in force. Returns the file and its length in bytes.
fn write_whole(dir: &Path, state: &State) -> Result<(File, u64), StoreError> {
    let path = dir.join(NEW_FILE);
    let mut options = OpenOptions::new();
    let file =
        options.write(true).create(true).truncate(true).mode(0o600).open(&path).map_err(failed("create", &path))?;
    let mut out = BufWriter::new(&file);
    let mut write = || -> io::Result<u64> {
        out.write_all(&MAGIC)?;
        let mut length = MAGIC.len() as u64;
        let mut resources = state.resources.values();
        let mut left = state.resources.len();
        loop {
            let more = left >= CHUNK;
            left = left.saturating_sub(CHUNK);
            let upserts = resources.by_ref().take(CHUNK).map(|resource| &**resource);
            let record = encode(state.version, upserts, &[], more);
            out.write_all(&record)?;
            length += record.len() as u64;
            if !more {
                out.flush()?;
                file.sync_all()?;
                return Ok(length);
            }
        }
    };
    let length = write().map_err(failed("write", &path))?;
    drop(out);
    Ok((file, length))
}

/// Puts one file in another's place, on disk too.
pub(super) fn rename_synced(from: &Path, to: &Path, dir: &Path) -> Result<(), StoreError> {
    fs::rename(from, to).map_err(failed("replace", to))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("sync", dir))
}

/// A record with a [`Record`].
fn encode<'a>(version: u64, upserts: impl Iterator<Item = &'a Resource>, deletes: &[Key], more: bool) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    encoding::uint64::encode(1, &version, &mut bytes);
    upserts.for_each(|resource| wire::put_resource(2, resource, &mut bytes));
    deletes.iter().for_each(|key| encoding::message::encode(3, &v1::Key::from(key), &mut bytes));
    encoding::bool::encode(4, &more, &mut bytes);
    let (header, payload) = bytes.split_at_mut(HEADER);
    header[..8].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    header[8..12].copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
    let sum = crc32fast::hash(&header[..12]);
    header[12..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Why a journal cannot be read.
enum Unreadable {
    Io(io::Error),
    Damaged(String),
    Format(u8),
}

impl Unreadable {
    fn of_file(self, path: &Path) -> StoreError {
        let path = path.to_owned();
        match self {
            Unreadable::Io(source) => StoreError::Io { what: "read", path, source },
            Unreadable::Damaged(problem) => StoreError::Damaged { path, problem },
            Unreadable::Format(format) => StoreError::Format { path, format },
        }
    }
}

impl From<io::Error> for Unreadable {
    fn from(error: io::Error) -> Self {
        Unreadable::Io(error)
    }
}

fn damaged<T>(problem: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable::Damaged(problem.into()))
}

struct Replayed {
    state: State,
    /// The whole state, with which it begins, has been read.
    is_whole: bool,
    live: Live,
    /// Behind the last complete record.
    length: u64,
}

/// Reads a journal of `bytes` bytes.
fn replay(file: &mut impl Read, bytes: u64) -> Result<Replayed, Unreadable> {
    let mut magic = [0; MAGIC.len()];
    if bytes < magic.len() as u64 {
        return damaged("it is too short");
    }
    file.read_exact(&mut magic)?;
    if magic[..7] != MAGIC[..7] {
        return damaged("it does not begin like a desired state");
    }
    if magic != MAGIC {
        return Err(Unreadable::Format(magic[7]));
    }
    let mut replayed =
        Replayed { state: State::default(), is_whole: false, live: Live::default(), length: MAGIC.len() as u64 };
    loop {
        let left = bytes - replayed.length;
        let record = match read_record(file, left)? {
            // The file got its name when the whole state was in it: what was cut short came after that.
            None if !replayed.is_whole => return damaged("it holds no complete state"),
            None => return Ok(replayed),
            Some(record) => record,
        };
        let Replayed { state, is_whole, live, length } = &mut replayed;
        *length += record.bytes;
        let (upserts, deletes) = (record.upserts.len(), record.deletes.len());
        if !*is_whole {
            *is_whole = !record.more;
        } else if record.version != state.version + 1 {
            return damaged(format!("version {} follows version {}", record.version, state.version));
        }
        state.version = record.version;
        for resource in record.upserts {
            state.resources.insert(resource.key(), Arc::new(resource));
        }
        for key in record.deletes {
            state.resources.remove(&key);
        }
        live.follow(record.bytes, upserts, deletes, state.resources.len());
    }
}

struct ReadRecord {
    bytes: u64,
    version: u64,
    more: bool,
    upserts: Vec<Resource>,
    deletes: Vec<Key>,
}

/// The next record of a journal that has `left` bytes left; `None` at its end, or if the last one is cut short.
fn read_record(file: &mut impl Read, left: u64) -> Result<Option<ReadRecord>, Unreadable> {
    if left < HEADER as u64 {
        return Ok(None);
    }
    let mut header = [0; HEADER];
    file.read_exact(&mut header)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if crc32fast::hash(&header[..12]) != word(12) {
        return damaged("the head of a record is wrong");
    }
    let length = u64::from(word(0)) | u64::from(word(4)) << 32;
    if left - (HEADER as u64) < length {
        return Ok(None);
    }
    let mut payload = vec![0; length as usize];
    file.read_exact(&mut payload)?;
    if crc32fast::hash(&payload) != word(8) {
        return damaged("the checksum of a record is wrong");
    }
    let wrong = |e: FieldError| Unreadable::Damaged(e.to_string());
    let record = Record::decode(payload.as_slice()).map_err(|e| Unreadable::Damaged(e.to_string()))?;
    Ok(Some(ReadRecord {
        bytes: HEADER as u64 + length,
        version: record.version,
        more: record.more,
        upserts: record.upserts.into_iter().map(Resource::try_from).collect::<Result<_, _>>().map_err(wrong)?,
        deletes: record.deletes.into_iter().map(Key::try_from).collect::<Result<_, _>>().map_err(wrong)?,
    }))
}

#[cfg(test)]
mod tests;
