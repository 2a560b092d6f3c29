//! Which kernel runs.

/// The first release whose traffic control takes programs by links that end with the process that has them (tcx).
pub const WITH_TCX: (u32, u32) = (6, 6);

/// The running kernel's release, as `uname -r` says it; empty if it cannot be read.
pub fn release() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    text.trim().to_owned()
}

/// Major and minor number of a release.
pub fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read() {
        assert_eq!(version("6.18.44-fc-v782"), Some((6, 18)));
        assert_eq!(version("5.10"), Some((5, 10)));
        assert_eq!(version("next"), None);
        assert!(version(&release()).is_some(), "{:?}", release());
    }
}
