//! What the gateway's process takes from the machine.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

use crate::support::Gateway;

impl Gateway {
    /// Bytes of memory it has now.
    pub(super) fn resident(&self) -> usize {
        self.status("VmRSS:")
    }

    /// Most bytes of memory it has had since [`Gateway::forget_peak`].
    pub(super) fn peak(&self) -> usize {
        self.status("VmHWM:")
    }

    /// Counts the peak of memory from here.
    pub(super) fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").unwrap();
    }

    /// Descriptors it has open.
    pub(super) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    /// CPU time it has used, of all its threads.
    pub(super) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // proc(5): the name before it may hold any character; utime and stime are the 14th and 15th field, in ticks.
        let fields = stat.rsplit_once(") ").unwrap().1;
        let ticks: u64 = fields
            .split(' ')
            .skip(11)
            .take(2)
            .map(|field| field.parse::<u64>().unwrap())
            .sum();
        // 100 a second: part of what Linux promises to programs.
        Duration::from_millis(ticks * 10)
    }

    /// Lets it have as many descriptors as it has now and `more`, from here on.
    pub(super) fn allow_descriptors(&self, more: usize) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap());
        let limit = Rlimit {
            current: Some(u64::try_from(self.descriptors() + more).unwrap()),
            maximum: getrlimit(Resource::Nofile).maximum,
        };
        prlimit(pid, Resource::Nofile, limit).unwrap();
    }

    fn status(&self, name: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
    }
}

/// Lets this process hold as many descriptors as the system allows, and says how many that is.
pub(super) fn raise_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Children inherit it: the gateway of the test has the same.
    setrlimit(Resource::Nofile, all).unwrap();
    getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |count| usize::try_from(count).unwrap())
}

pub(super) fn mebibytes(bytes: usize) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
