//! Which container has which address: a file for each address, as the host-local plugin keeps them, so that a node can
//! change from one to the other.
//!
//! `FOLDER/<address>` holds the container's id, a line end (CR LF) and its interface; `FOLDER/last_reserved_ip.N` the
//! address given last out of set N of the ranges; whoever reads or writes has `FOLDER/lock` to itself.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use super::range::Range;
use crate::{
    environment::Attachment,
    error::{CniError, Code, Result},
};

/// A network's addresses, ours alone until dropped.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: Flock<File>,
}

impl Store {
    /// Opens the store, and waits until nobody else has it.
    pub fn open(folder: &Path) -> Result<Store> {
        let failed = |e: io::Error| CniError::io(format_args!("open the addresses in {}", folder.display()), e);
        fs::create_dir_all(folder).map_err(failed)?;
        let options = OpenOptions::new().create(true).truncate(false).write(true).open(folder.join("lock"));
        let lock = Flock::lock(options.map_err(failed)?, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed(io::Error::from(errno)))?;
        Ok(Store { folder: folder.to_owned(), _lock: lock })
    }

    /// Reserves an address of each set of ranges: one of `wanted` if any there are of its family, else the next one behind
    /// the last.
    pub fn allocate(&self, sets: &[Vec<Range>], wanted: &[IpAddr], owner: &Attachment) -> Result<Vec<IpAddr>> {
        if let Some((address, _)) = self.entries()?.find(|(_, other)| other == owner) {
            let message = format!("this container's {} has {address} already", owner.interface);
            return Err(CniError::new(Code::InvalidConfig, message, "DEL it first"));
        }
        let has = |set: &[Range], wanted: &IpAddr| set.iter().any(|range| range.is_ipv6() == wanted.is_ipv6());
        if let Some(stray) = wanted.iter().find(|wanted| !sets.iter().any(|set| has(set, wanted))) {
            return Err(outside(&[*stray]));
        }
        let one_of_each = sets.iter().enumerate().map(|(number, set)| {
            let wanted: Vec<_> = wanted.iter().copied().filter(|wanted| has(set, wanted)).collect();
            self.allocate_one(number, set, &wanted, owner)
        });
        let addresses: Result<Vec<_>> = one_of_each.collect();
        if addresses.is_err() {
            // It had none before.
            self.release(owner)?;
        }
        addresses
    }

    fn allocate_one(&self, set: usize, ranges: &[Range], wanted: &[IpAddr], owner: &Attachment) -> Result<IpAddr> {
        if !wanted.is_empty() {
            let fits = wanted.iter().find(|address| ranges.iter().any(|range| range.contains(**address)));
            let address = fits.ok_or_else(|| outside(wanted))?;
            if !self.reserve(set, *address, owner)? {
                let message = format!("{address} is another container's");
                return Err(CniError::new(Code::NoAddress, message, "ask for another address"));
            }
            return Ok(*address);
        }
        let last = fs::read_to_string(self.last(set)).ok().and_then(|text| text.trim().parse().ok());
        // The range of the last one goes on where it was; the others begin anew.
        let turn = ranges.iter().position(|range| last.is_some_and(|last| range.contains(last))).unwrap_or(0);
        for n in 0..ranges.len() {
            for address in ranges[(turn + n) % ranges.len()].after(last) {
                if self.reserve(set, address, owner)? {
                    return Ok(address);
                }
            }
        }
        let message = format!("no address is left: {} are reserved", self.entries()?.count());
        Err(CniError::new(Code::NoAddress, message, format!("see {}", self.folder.display())))
    }

    /// The file that has the address given last out of a set of ranges.
    fn last(&self, set: usize) -> PathBuf {
        self.folder.join(format!("last_reserved_ip.{set}"))
    }

    /// False if it is taken.
    fn reserve(&self, set: usize, address: IpAddr, owner: &Attachment) -> Result<bool> {
        let path = self.folder.join(address.to_string());
        let failed = |e: io::Error| CniError::io(format_args!("reserve {}", path.display()), e);
        let mut file = match OpenOptions::new().create_new(true).write(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(e) => return Err(failed(e)),
        };
        write!(file, "{}\r\n{}", owner.container, owner.interface).map_err(failed)?;
        fs::write(self.last(set), address.to_string()).map_err(failed)?;
        Ok(true)
    }

    /// Gives back all that `owner` has.
    pub fn release(&self, owner: &Attachment) -> Result<()> {
        self.remove(|other| other == owner)
    }

    /// Gives back what others than `valid` have.
    pub fn retain(&self, valid: &[Attachment]) -> Result<()> {
        self.remove(|owner| !valid.contains(owner))
    }

    fn remove(&self, is_over: impl Fn(&Attachment) -> bool) -> Result<()> {
        for (address, _) in self.entries()?.filter(|(_, owner)| is_over(owner)) {
            let path = self.folder.join(address.to_string());
            fs::remove_file(&path).map_err(|e| CniError::io(format_args!("remove {}", path.display()), e))?;
        }
        Ok(())
    }

    /// Who has an address.
    pub fn owner(&self, address: IpAddr) -> Result<Option<Attachment>> {
        Ok(self.entries()?.find(|(reserved, _)| *reserved == address).map(|(_, owner)| owner))
    }

    /// Whether an address is left in each set of ranges.
    pub fn has_free(&self, sets: &[Vec<Range>]) -> bool {
        let is_free = |address: IpAddr| !self.folder.join(address.to_string()).exists();
        sets.iter().all(|ranges| ranges.iter().any(|range| range.after(None).any(is_free)))
    }

    /// All reserved addresses and who has them.
    fn entries(&self) -> Result<impl Iterator<Item = (IpAddr, Attachment)>> {
        let failed = |e: io::Error| CniError::io(format_args!("read {}", self.folder.display()), e);
        Ok(fs::read_dir(&self.folder).map_err(failed)?.flatten().filter_map(|entry| {
            let address = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read_to_string(entry.path()).ok()?;
            let mut lines = text.lines().map(|line| line.trim().to_owned());
            let (container, interface) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
            Some((address, Attachment { container, interface }))
        }))
    }
}

fn outside(wanted: &[IpAddr]) -> CniError {
    let message = format!("{wanted:?} is outside the node's ranges");
    CniError::new(Code::InvalidConfig, message, "ask for an address that the node gives to pods")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(container: &str) -> Attachment {
        Attachment { container: container.into(), interface: "eth0".into() }
    }

    fn set(subnet: &str) -> Vec<Range> {
        vec![Range::of(subnet.parse().unwrap())]
    }

    #[test]
    fn addresses_are_given_in_turns_and_kept_as_host_local_keeps_them() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("net")).unwrap();
        let sets = [set("10.244.1.0/29")];
        let give = |name: &str| -> Result<String> {
            let addresses = store.allocate(&sets, &[], &of(name))?;
            assert_eq!(addresses.len(), 1);
            Ok(addresses[0].to_string())
        };
        let is = |n: u8| Ok(format!("10.244.1.{n}"));
        assert_eq!(give("a"), is(2));
        assert_eq!(give("b"), is(3));
        assert!(give("b").is_err(), "it has one");
        store.release(&of("a")).unwrap();
        assert_eq!(give("c"), is(4), "an address rests before it is given again");
        assert_eq!(fs::read_to_string(folder.path().join("net/10.244.1.4")).unwrap(), "c\r\neth0");
        assert_eq!(fs::read_to_string(folder.path().join("net/last_reserved_ip.0")).unwrap(), "10.244.1.4");
        assert_eq!(["d", "e", "f"].map(give), [5, 6, 2].map(is));
        assert!(!store.has_free(&sets));
        assert!(give("g").unwrap_err().is(Code::NoAddress));
        store.retain(&[of("b"), of("f")]).unwrap();
        assert_eq!(store.entries().unwrap().count(), 2);
        assert_eq!(store.owner([10, 244, 1, 2].into()).unwrap(), Some(of("f")));
    }

    #[test]
    fn each_set_of_ranges_gives_one_and_is_counted_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let sets = [set("10.244.1.0/29"), set("fd00::/126")];
        let is = |last: [&str; 2]| last.map(|text| text.parse::<IpAddr>().unwrap()).to_vec();
        assert_eq!(store.allocate(&sets, &[], &of("a")).unwrap(), is(["10.244.1.2", "fd00::2"]));
        assert_eq!(
            store.allocate(&sets, &is(["10.244.1.6", "fd00::3"]), &of("b")).unwrap(),
            is(["10.244.1.6", "fd00::3"])
        );
        assert_eq!(fs::read_to_string(folder.path().join("last_reserved_ip.1")).unwrap(), "fd00::3");
        assert_eq!(fs::read_to_string(folder.path().join("fd00::3")).unwrap(), "b\r\neth0");
        // One of IPv4 is left and none of IPv6: nothing stays reserved.
        assert!(!store.has_free(&sets) && store.has_free(&sets[..1]));
        assert!(store.allocate(&sets, &[], &of("c")).unwrap_err().is(Code::NoAddress));
        assert_eq!(store.entries().unwrap().count(), 4);
        store.release(&of("a")).unwrap();
        store.retain(&[]).unwrap();
        assert_eq!(store.entries().unwrap().count(), 0);
        let stray = store.allocate(&sets[..1], &is(["10.244.1.3", "fd00::3"]), &of("d")).unwrap_err();
        assert!(stray.is(Code::InvalidConfig), "no set is of the family: {stray:?}");
    }

    #[test]
    fn an_address_that_is_asked_for_is_given_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let sets = [set("10.244.1.0/24")];
        let ask = |name: &str, address: [u8; 4]| store.allocate(&sets, &[address.into()], &of(name));
        assert_eq!(ask("a", [10, 244, 1, 77]).unwrap(), [IpAddr::from([10, 244, 1, 77])]);
        assert!(ask("b", [10, 244, 1, 77]).unwrap_err().is(Code::NoAddress));
        assert!(ask("b", [10, 244, 2, 77]).unwrap_err().is(Code::InvalidConfig));
        assert!(ask("b", [10, 244, 1, 1]).unwrap_err().is(Code::InvalidConfig), "the gateway's");
    }
}
