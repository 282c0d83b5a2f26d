//! What memory the host has left for this process, and buffers that are refused instead of ending it.

use std::path::{Path, PathBuf};

use crate::device::{DeviceError, Purpose};

/// Bytes that this process can still take: what the system has available, and no more than its control groups and its limits on address
/// space and data allow. `None` where the system does not say (only Linux does).
pub fn free_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let available = kib_of(&read("/proc/meminfo")?, "MemAvailable:")?;
    let own = address_space_left();
    let groups = read("/proc/self/cgroup").and_then(|groups| left_by_groups(&groups, Path::new("/sys/fs/cgroup")));
    [Some(available), own, groups].into_iter().flatten().min()
}

/// Bytes of address space and data that the limits of this process leave; `None` if nothing is limited.
pub fn address_space_left() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    left_by_limits(&read("/proc/self/status")?, &read("/proc/self/limits")?)
}

/// The number of a line such as `MemAvailable:  123 kB`, in bytes.
fn kib_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// By `/proc/self/status` and `/proc/self/limits`; `None` if nothing is limited.
fn left_by_limits(status: &str, limits: &str) -> Option<u64> {
    let left = |limit: &str, used: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(limit))?;
        let most = line.split_whitespace().next()?.parse::<u64>().ok()?;
        Some(most.saturating_sub(kib_of(status, used)?))
    };
    [left("Max address space", "VmSize:"), left("Max data size", "VmData:")].into_iter().flatten().min()
}

/// By the control groups in `/proc/self/cgroup`, of either version, and all groups around them. Pages of files that were not used lately
/// make room when they must.
fn left_by_groups(groups: &str, root: &Path) -> Option<u64> {
    let number = |path: PathBuf| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let left_in = |folder: &Path, [most, used, idle]: [&str; 3]| {
        let (most, used) = (number(folder.join(most))?, number(folder.join(used))?);
        let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let idle = stat.lines().find_map(|line| line.strip_prefix(idle)?.trim().parse().ok()).unwrap_or(0);
        Some(most.saturating_sub(used.saturating_sub(idle)))
    };
    let left = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let (base, names) = match controllers {
            "" => (root.to_owned(), ["memory.max", "memory.current", "inactive_file"]),
            _ if controllers.split(',').any(|c| c == "memory") => {
                (root.join("memory"), ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"])
            }
            _ => return None,
        };
        let start = base.join(path);
        start.ancestors().take_while(|folder| folder.starts_with(&base)).filter_map(|f| left_in(f, names)).min()
    });
    left.min()
}

/// What a device may take of the host's memory, looked up once, and less with everything that is taken: memory that was taken but not
/// touched counts nowhere in the system.
#[derive(Debug)]
pub struct HostMemory {
    free_bytes: Option<u64>,
}

impl HostMemory {
    /// As much as there is now.
    pub fn of_system() -> HostMemory {
        HostMemory { free_bytes: free_bytes() }
    }

    /// Notes that `asked_bytes` are taken.
    ///
    /// # Errors
    /// `OutOfMemory` if there are not as many.
    pub fn take(&mut self, purpose: Purpose, asked_bytes: u64) -> Result<(), DeviceError> {
        let Some(free_bytes) = self.free_bytes else { return Ok(()) };
        self.free_bytes = Some(free_bytes.checked_sub(asked_bytes).ok_or_else(|| {
            let reason = "not enough memory is available to this process".to_owned();
            DeviceError::OutOfMemory { purpose, asked_bytes, free_bytes: Some(free_bytes), reason }
        })?);
        Ok(())
    }

    /// The error of an allocation that the system refused although it was noted.
    pub fn refused(purpose: Purpose, asked_bytes: u64, reason: impl std::fmt::Display) -> DeviceError {
        DeviceError::OutOfMemory { purpose, asked_bytes, free_bytes: free_bytes(), reason: reason.to_string() }
    }

    /// A vector for `count` values, empty.
    pub fn vec<T>(&mut self, purpose: Purpose, count: usize) -> Result<Vec<T>, DeviceError> {
        let bytes = (count as u64).saturating_mul(size_of::<T>() as u64);
        self.take(purpose, bytes)?;
        let mut values = Vec::new();
        values.try_reserve_exact(count).map_err(|error| HostMemory::refused(purpose, bytes, error))?;
        Ok(values)
    }

    /// `count` zeros.
    pub fn zeros<T: Clone + Default>(&mut self, purpose: Purpose, count: usize) -> Result<Vec<T>, DeviceError> {
        let mut values = self.vec(purpose, count)?;
        values.resize(count, T::default());
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_process_leave_what_it_has_not_taken() {
        let status = "Name:\tkiln\nVmSize:\t    1000 kB\nVmData:\t     200 kB\n";
        let limits = |address: &str, data: &str| {
            format!(
                "Limit   Soft Limit  Hard Limit  Units\nMax address space   {address}   unlimited   bytes\nMax data size  {data}  9  bytes\n"
            )
        };
        assert_eq!(left_by_limits(status, &limits("unlimited", "unlimited")), None);
        assert_eq!(left_by_limits(status, &limits("2048000", "unlimited")), Some(1_024_000));
        assert_eq!(left_by_limits(status, &limits("2048000", "204801")), Some(1));
        assert_eq!(left_by_limits(status, &limits("5", "unlimited")), Some(0));
    }

    #[test]
    fn the_tightest_control_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let group = |path: &str, files: &[(&str, &str)]| {
            let folder = root.path().join(path);
            std::fs::create_dir_all(&folder).unwrap();
            files.iter().for_each(|(name, text)| std::fs::write(folder.join(name), text).unwrap());
        };
        let left = |groups: &str| left_by_groups(groups, root.path());
        assert_eq!(left("0::/a/b\n"), None, "nothing is limited");
        group("a", &[("memory.max", "1000\n"), ("memory.current", "300\n")]);
        group("a/b", &[("memory.max", "max\n"), ("memory.current", "100\n")]);
        assert_eq!(left("0::/a/b\n"), Some(700), "the group around it");
        group(
            "a/b",
            &[("memory.max", "500"), ("memory.current", "400"), ("memory.stat", "anon 1\ninactive_file 50\n")],
        );
        assert_eq!(left("0::/a/b\n"), Some(150));
        group("memory/c", &[("memory.limit_in_bytes", "90"), ("memory.usage_in_bytes", "60")]);
        assert_eq!(left("5:cpu:/c\n4:hugetlb,memory:/c\n"), Some(30));
    }

    #[test]
    fn what_was_taken_is_not_free_any_more() {
        let mut memory = HostMemory { free_bytes: Some(100) };
        memory.take(Purpose::Weights, 60).unwrap();
        let refused = memory.zeros::<u64>(Purpose::KvArena, 6);
        assert!(matches!(
            refused,
            Err(DeviceError::OutOfMemory { purpose: Purpose::KvArena, asked_bytes: 48, free_bytes: Some(40), .. })
        ));
        assert_eq!(memory.zeros::<u64>(Purpose::KvArena, 5).unwrap(), [0; 5]);
        // More than any address space.
        assert!(HostMemory { free_bytes: None }.vec::<u64>(Purpose::Workspace, usize::MAX / 4).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_says_what_is_free() {
        assert!(free_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
